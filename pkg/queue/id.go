package queue

import (
	crand "crypto/rand"
	"encoding/binary"
	"math/rand/v2"
)

// IDs makes message ids: UUIDv7 (RFC 9562 §5.7) with a 12-bit counter as in §6.2,
// method 1. Ids of one generator rise strictly, also when the clock stands still,
// jumps back, or more than 4,096 are wanted in a millisecond: then the counter carries
// into the time, which runs ahead of the clock for a while. Ids of two generators
// differ by 62 random bits, which a ChaCha8 stream seeded by the system yields.
//
// One per loop; not for several goroutines at once.
type IDs struct {
	wallMs func() int64
	ms     int64  // in the last id
	count  uint16 // in the last id
	random *rand.ChaCha8
}

// NewIDs returns a generator that reads the wall clock, in Unix milliseconds, from
// wallMs.
func NewIDs(wallMs func() int64) *IDs {
	var seed [32]byte
	crand.Read(seed[:]) // never fails: crypto/rand ends the program instead
	return &IDs{wallMs: wallMs, random: rand.NewChaCha8(seed)}
}

// Next returns the next id.
func (g *IDs) Next() UUID { return g.at(g.wallMs()) }

// at is Next for a caller that has read the clock.
func (g *IDs) at(ms int64) UUID {
	if ms > g.ms {
		g.ms, g.count = ms, 0
	} else if g.count++; g.count == 1<<12 {
		g.ms, g.count = g.ms+1, 0
	}
	var u UUID
	binary.BigEndian.PutUint64(u[:], uint64(g.ms)<<16|7<<12|uint64(g.count))
	binary.BigEndian.PutUint64(u[8:], 2<<62|g.random.Uint64()>>2)
	return u
}

// Append appends the id's text: 36 characters, lower case, with hyphens.
func (u *UUID) Append(dst []byte) []byte {
	const digits = "0123456789abcdef"
	var text [uuidChars]byte
	for i, c := range u {
		at := uuidPlaces[i]
		text[at], text[at+1] = digits[c>>4], digits[c&15]
	}
	text[8], text[13], text[18], text[23] = '-', '-', '-', '-'
	return append(dst, text[:]...)
}

// uuidChars is the length of an id's text, and uuidPlaces is where the digits of each byte are.
const uuidChars = 36

var uuidPlaces = [16]uint8{0, 2, 4, 6, 9, 11, 14, 16, 19, 21, 24, 26, 28, 30, 32, 34}

// String is Append as a string.
func (u UUID) String() string { return string(u.Append(nil)) }

// parseUUID reads every text that PostgreSQL's uuid type accepts (manual, "UUID
// Type"): digits in any case, perhaps in braces, a hyphen or none after each group of
// four.
func parseUUID(text []byte) (u UUID, ok bool) {
	if n := len(text); n >= 2 && text[0] == '{' {
		if text[n-1] != '}' {
			return u, false
		}
		text = text[1 : n-1]
	}
	for i := range u {
		if len(text) < 2 || unhex[text[0]] > 15 || unhex[text[1]] > 15 {
			return u, false
		}
		u[i] = unhex[text[0]]<<4 | unhex[text[1]]
		text = text[2:]
		if i%2 == 1 && i < 15 && len(text) > 0 && text[0] == '-' {
			text = text[1:]
		}
	}
	return u, len(text) == 0
}
