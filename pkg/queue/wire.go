package queue

import "encoding/binary"

// PostgreSQL's binary format of one-dimensional arrays, as array_recv reads it: number
// of dimensions, whether there are NULLs, the elements' type, then per dimension its
// length and lower bound, then per element its length (-1: NULL) and its bytes. All
// integers are big endian.

// Types by their fixed OIDs (src/include/catalog/pg_type.dat).
const (
	oidBool = 16
	oidInt4 = 23
	oidText = 25
	oidUUID = 2950
)

// array appends the head of an array of n elements; exactly n elements must follow.
func array(dst []byte, oid uint32, n int, nulls bool) []byte {
	if n == 0 {
		dst = binary.BigEndian.AppendUint32(dst, 0)
		dst = binary.BigEndian.AppendUint32(dst, 0)
		return binary.BigEndian.AppendUint32(dst, oid)
	}
	hasNulls := uint32(0)
	if nulls {
		hasNulls = 1
	}
	dst = binary.BigEndian.AppendUint32(dst, 1)
	dst = binary.BigEndian.AppendUint32(dst, hasNulls)
	dst = binary.BigEndian.AppendUint32(dst, oid)
	dst = binary.BigEndian.AppendUint32(dst, uint32(n))
	return binary.BigEndian.AppendUint32(dst, 1)
}

func element[T string | []byte](dst []byte, value T) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(value)))
	return append(dst, value...)
}

func nullElement(dst []byte) []byte { return binary.BigEndian.AppendUint32(dst, 0xffffffff) }

func uuidElement(dst []byte, u *UUID) []byte {
	dst = binary.BigEndian.AppendUint32(dst, uint32(len(u)))
	return append(dst, u[:]...)
}

func int4Element(dst []byte, n int) []byte {
	dst = binary.BigEndian.AppendUint32(dst, 4)
	return binary.BigEndian.AppendUint32(dst, uint32(n))
}

func boolElement(dst []byte, v bool) []byte {
	c := byte(0)
	if v {
		c = 1
	}
	return append(dst, 0, 0, 0, 1, c)
}

// The columns that our statements return.

func int8Column(v []byte) int {
	if len(v) != 8 {
		panic("BUG: a bigint of another length than 8 bytes")
	}
	return int(binary.BigEndian.Uint64(v))
}

func uuidColumn(v []byte) UUID {
	if len(v) != 16 {
		panic("BUG: a uuid of another length than 16 bytes")
	}
	return UUID(v)
}

func boolColumn(v []byte) bool {
	if len(v) != 1 {
		panic("BUG: a boolean of another length than 1 byte")
	}
	return v[0] != 0
}
