package queue

import (
	"encoding/binary"
	"math/bits"
	"strconv"
	"unicode/utf8"
)

// scanner walks over JSON text (RFC 8259) byte by byte. It accepts exactly the
// grammar, in valid UTF-8, nested at most DepthMax deep; it does not recurse and
// does not allocate. It yields nothing by itself: its methods move i over the next
// string or value, and the caller takes the bytes in between.
//
// The first thing that is wrong is kept (bad, at) and every method returns false
// from then on.
type scanner struct {
	b []byte
	i int

	depth int                   // containers open at i
	kinds [DepthMax / 64]uint64 // a bit per open container: 1 for an object

	flags   textFlags // what was seen since the caller set it to 0
	numbers bool      // watch for numbers that jsonb would blow up

	bad string // what is wrong, a sentence part
	at  int    // where
}

// textFlags tells of values that are valid JSON and yet cannot be stored everywhere.
type textFlags uint8

const (
	hasEscape    textFlags = 1 << iota // a backslash: unescape before use
	hasNUL                             // \u0000
	hasSurrogate                       // \ud800 … \udfff without its other half
	hasNumber                          // a number beyond NumberDigitsMax or NumberExponentMax
)

const (
	badValue     = "expected a value"
	badKey       = "expected a string in double quotes as the object's next key"
	badFirstKey  = "expected a string in double quotes as the object's first key, or '}'"
	badColon     = "expected ':' after the object's key"
	badObject    = "expected ',' or '}' after a value in an object"
	badArray     = "expected ',' or ']' after a value in an array"
	badString    = "the text ends inside a string"
	badControl   = "a control character in a string must be escaped"
	badEscape    = "a backslash in a string must be followed by one of \" \\ / b f n r t, or by u and four hexadecimal digits"
	badUTF8      = "a string is not valid UTF-8"
	badNumber    = "a number needs a digit here"
	badDepth     = "nested deeper than 512 levels"
	badAfterward = "expected nothing after the value"
)

func (s *scanner) reset(b []byte) {
	s.b, s.i, s.depth, s.flags, s.numbers, s.bad, s.at = b, 0, 0, 0, false, "", 0
}

func (s *scanner) fail(at int, bad string) bool {
	if s.bad == "" {
		s.bad, s.at = bad, at
	}
	return false
}

// space skips white space and returns the byte it stopped at, 0 at the end (a NUL
// byte is valid nowhere, so the two need no telling apart).
func (s *scanner) space() byte {
	for s.i < len(s.b) {
		c := s.b[s.i]
		if c > ' ' || (c != ' ' && c != '\n' && c != '\r' && c != '\t') {
			return c
		}
		s.i++
	}
	return 0
}

// open enters a container whose opening byte is at i.
func (s *scanner) open(object bool) bool {
	if s.depth == DepthMax {
		return s.fail(s.i, badDepth)
	}
	word, bit := s.depth/64, uint64(1)<<(s.depth%64)
	if object {
		s.kinds[word] |= bit
	} else {
		s.kinds[word] &^= bit
	}
	s.depth++
	s.i++
	return true
}

func (s *scanner) inObject() bool {
	return s.kinds[(s.depth-1)/64]>>((s.depth-1)%64)&1 == 1
}

// close leaves a container whose closing byte is at i.
func (s *scanner) close() {
	s.depth--
	s.i++
}

// key moves over an object's key and the colon behind it; the key's text, still
// escaped, is b[from:to].
func (s *scanner) key(bad string) (from, to int, ok bool) {
	if s.space() != '"' {
		return 0, 0, s.fail(s.i, bad)
	}
	from = s.i + 1
	if !s.str() {
		return 0, 0, false
	}
	to = s.i - 1
	if s.space() != ':' {
		return 0, 0, s.fail(s.i, badColon)
	}
	s.i++
	return from, to, true
}

// value moves over white space and one value, whatever it is.
func (s *scanner) value() bool {
	base := s.depth
	for {
		// A value begins here.
		switch c := s.space(); {
		case c == '"':
			if !s.str() {
				return false
			}
		case c == '{':
			if !s.open(true) {
				return false
			}
			if s.space() != '}' {
				if _, _, ok := s.key(badFirstKey); !ok {
					return false
				}
				continue
			}
			s.close()
		case c == '[':
			if !s.open(false) {
				return false
			}
			if s.space() != ']' {
				continue
			}
			s.close()
		case c == '-' || c-'0' < 10:
			if !s.number() {
				return false
			}
		case c == 't':
			if !s.literal("true") {
				return false
			}
		case c == 'f':
			if !s.literal("false") {
				return false
			}
		case c == 'n':
			if !s.literal("null") {
				return false
			}
		default:
			return s.fail(s.i, badValue)
		}

		// A value has ended here: close what closes, until another one begins.
		for {
			if s.depth == base {
				return true
			}
			c := s.space()
			if s.inObject() {
				if c == ',' {
					s.i++
					if _, _, ok := s.key(badKey); !ok {
						return false
					}
					break
				}
				if c != '}' {
					return s.fail(s.i, badObject)
				}
			} else {
				if c == ',' {
					s.i++
					break
				}
				if c != ']' {
					return s.fail(s.i, badArray)
				}
			}
			s.close()
		}
	}
}

// end says whether only white space is left.
func (s *scanner) end() bool {
	s.space()
	if s.i < len(s.b) {
		return s.fail(s.i, badAfterward)
	}
	return true
}

func (s *scanner) literal(word string) bool {
	if len(s.b)-s.i < len(word) || string(s.b[s.i:s.i+len(word)]) != word {
		return s.fail(s.i, badValue)
	}
	s.i += len(word)
	return true
}

// number moves over a number whose first byte, '-' or a digit, is at i.
func (s *scanner) number() bool {
	b, i := s.b, s.i
	if b[i] == '-' {
		i++
	}
	whole := i
	if i < len(b) && b[i] == '0' {
		i++
	} else if i = digits(b, i); i == whole {
		return s.fail(i, badNumber)
	}
	long := i - whole
	if i < len(b) && b[i] == '.' {
		i++
		fraction := i
		if i = digits(b, i); i == fraction {
			return s.fail(i, badNumber)
		}
		long += i - fraction
	}
	if i < len(b) && b[i]|0x20 == 'e' {
		i++
		if i < len(b) && (b[i] == '+' || b[i] == '-') {
			i++
		}
		exponent := i
		if i = digits(b, i); i == exponent {
			return s.fail(i, badNumber)
		}
		if s.numbers && atLeast(b[exponent:i], NumberExponentMax+1) {
			s.flags |= hasNumber
		}
	}
	if s.numbers && long > NumberDigitsMax {
		s.flags |= hasNumber
	}
	s.i = i
	return true
}

func digits(b []byte, i int) int {
	for i < len(b) && b[i]-'0' < 10 {
		i++
	}
	return i
}

// atLeast says whether the number written in digits is n or more, however long it is.
func atLeast(digits []byte, n int) bool {
	sum := 0
	for _, d := range digits {
		if sum = sum*10 + int(d-'0'); sum >= n {
			return true
		}
	}
	return false
}

// Eight bytes at a time: a byte's top bit is set in the result if the byte is what
// we look for. Only the lowest set bit may be trusted (a borrow runs upwards).
const (
	ones = 0x0101010101010101
	tops = 0x8080808080808080
)

func special(x uint64) uint64 {
	quote, slash := x^('"'*ones), x^('\\'*ones)
	return ((quote-ones)&^quote | (slash-ones)&^slash | (x-' '*ones)&^x) & tops
}

// str moves over a string whose opening quote is at i.
func (s *scanner) str() bool {
	b, i := s.b, s.i+1
	plain := i // no escape since here
	var seen uint64
	for {
		for len(b)-i >= 8 {
			x := binary.LittleEndian.Uint64(b[i:])
			seen |= x
			if m := special(x); m != 0 {
				i += bits.TrailingZeros64(m) / 8
				goto found
			}
			i += 8
		}
		for i < len(b) && b[i] != '"' && b[i] != '\\' && b[i] >= ' ' {
			seen |= uint64(b[i])
			i++
		}
		if i == len(b) {
			return s.fail(i, badString)
		}
	found:
		// Bytes above 0x7f are never a quote or a backslash, so that the text up to
		// here can be judged as a whole. What was seen may lie behind i: then the check
		// is only superfluous.
		if seen&tops != 0 && !utf8.Valid(b[plain:i]) {
			return s.fail(firstInvalid(b, plain), badUTF8)
		}
		switch b[i] {
		case '"':
			s.i = i + 1
			return true
		case '\\':
			s.i = i
			if !s.escape() {
				return false
			}
			i, plain, seen = s.i, s.i, 0
		default:
			return s.fail(i, badControl)
		}
	}
}

func firstInvalid(b []byte, i int) int {
	for {
		r, n := utf8.DecodeRune(b[i:])
		if r == utf8.RuneError && n <= 1 {
			return i
		}
		i += n
	}
}

// escape moves over the escape at i, and over the second one of a surrogate pair.
func (s *scanner) escape() bool {
	s.flags |= hasEscape
	if s.i+1 >= len(s.b) {
		return s.fail(len(s.b), badString)
	}
	switch s.b[s.i+1] {
	case '"', '\\', '/', 'b', 'f', 'n', 'r', 't':
		s.i += 2
		return true
	case 'u':
		r, n := escaped(s.b[s.i:])
		switch {
		case n == 0:
			return s.fail(s.i, badEscape)
		case r == 0:
			s.flags |= hasNUL
		case r == utf8.RuneError && isSurrogate(s.b[s.i:]):
			s.flags |= hasSurrogate
		}
		s.i += n
		return true
	}
	return s.fail(s.i, badEscape)
}

// escaped reads the \uXXXX that b begins with, or the pair of them that makes one
// character (RFC 8259 §7), and returns how many bytes that is; 0: malformed. Half a
// pair reads as U+FFFD.
func escaped(b []byte) (rune, int) {
	r := hex4(b)
	if r < 0 {
		return 0, 0
	}
	if r < 0xd800 || r > 0xdfff {
		return r, 6
	}
	if r < 0xdc00 && len(b) >= 12 {
		if low := hex4(b[6:]); low >= 0xdc00 && low <= 0xdfff {
			return (r-0xd800)<<10 + (low - 0xdc00) + 0x10000, 12
		}
	}
	return utf8.RuneError, 6
}

// HasHalfPair says whether valid JSON has an escape that is half of a surrogate pair alone
// (RFC 8259 §8.2).
func HasHalfPair(text []byte) bool {
	for i := 0; i < len(text); {
		n := 1
		if text[i] == '\\' {
			var r rune
			if r, n = escaped(text[i:]); r == utf8.RuneError && isSurrogate(text[i:]) {
				return true
			}
			n = max(n, 2) // another escape: what it escapes begins none
		}
		i += n
	}
	return false
}

func isSurrogate(b []byte) bool {
	r := hex4(b)
	return r >= 0xd800 && r <= 0xdfff
}

// hex4 is the number in the \uXXXX that b begins with, or -1.
func hex4(b []byte) rune {
	if len(b) < 6 || b[0] != '\\' || b[1] != 'u' {
		return -1
	}
	var r rune
	for _, c := range b[2:6] {
		v := unhex[c]
		if v > 15 {
			return -1
		}
		r = r<<4 | rune(v)
	}
	return r
}

// unhex is a hexadecimal digit's value; 255 for any other byte.
var unhex = func() (t [256]byte) {
	for c := range t {
		switch {
		case c >= '0' && c <= '9':
			t[c] = byte(c - '0')
		case c >= 'a' && c <= 'f':
			t[c] = byte(c - 'a' + 10)
		case c >= 'A' && c <= 'F':
			t[c] = byte(c - 'A' + 10)
		default:
			t[c] = 255
		}
	}
	return t
}()

// unescape replaces the escapes of a string's text, which str has accepted, in place:
// the characters are never longer than their escapes.
func unescape(b []byte) []byte {
	to := 0
	for from := 0; from < len(b); {
		if b[from] != '\\' {
			b[to] = b[from]
			from, to = from+1, to+1
			continue
		}
		c := b[from+1]
		if c == 'u' {
			r, n := escaped(b[from:])
			to += utf8.EncodeRune(b[to:], r)
			from += n
			continue
		}
		switch c {
		case 'b':
			c = '\b'
		case 'f':
			c = '\f'
		case 'n':
			c = '\n'
		case 'r':
			c = '\r'
		case 't':
			c = '\t'
		}
		b[to] = c
		from, to = from+2, to+1
	}
	return b[:to]
}

// sentence says what is wrong and where, in the text as it came.
func (s *scanner) sentence(text []byte) string {
	line, column := 1, 1
	for _, c := range text[:s.at] {
		if c == '\n' {
			line, column = line+1, 1
		} else if c&0xc0 != 0x80 { // count characters
			column++
		}
	}
	found := "the end of the text"
	if s.at < len(text) {
		if c := text[s.at]; c > ' ' && c < 0x7f {
			found = "'" + string(rune(c)) + "'"
		} else {
			found = "byte 0x" + strconv.FormatUint(uint64(c)|0x100, 16)[1:]
		}
	}
	return s.bad + "; found " + found + " at line " + strconv.Itoa(line) + ", column " + strconv.Itoa(column)
}
