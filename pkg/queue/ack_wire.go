package queue

import "encoding/binary"

// What acks need of PostgreSQL's binary format beside wire.go.

const (
	oidInt8        = 20
	oidTimestamptz = 1184
)

// epochMicros is PostgreSQL's first microsecond, 2000-01-01, in microseconds since 1970.
const epochMicros = 946_684_800_000_000

func longElement(dst []byte, n int64) []byte {
	dst = binary.BigEndian.AppendUint32(dst, 8)
	return binary.BigEndian.AppendUint64(dst, uint64(n))
}

// placeTime is the time of a place; the beginning has none.
func placeTime(dst []byte, p place) []byte {
	if p.id == (UUID{}) {
		return nullElement(dst)
	}
	return longElement(dst, p.at)
}

func int4Column(v []byte) int {
	if len(v) != 4 {
		panic("BUG: an integer of another length than 4 bytes")
	}
	return int(int32(binary.BigEndian.Uint32(v)))
}

// placeColumns are a time and an id of which the first may be null: the beginning.
func placeColumns(at, id []byte) place {
	if at == nil || id == nil {
		return beginning
	}
	return place{int64(int8Column(at)), uuidColumn(id)}
}
