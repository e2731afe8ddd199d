package queue

import "encoding/hex"

// A lease id is the text of a UUIDv7 (RFC 9562 §5.7), one for each pop. Whoever has only
// the id must find the leased rows, and no index leads from a lease to them: it would
// have to be written with every claim and every ack. So the id says where to look. Its
// 20th character is what the variant leaves free:
//
//	a: one partition was leased at most; the last 8 digits are the first 8 of its id
//	b: any number of partitions; they are found by looking at all leases
//
// A UUID's first 8 digits are its leading 4 bytes, and uuids are ordered by their bytes:
// the partition is in a short range of the primary key.
const (
	leaseSingle  = 'a'
	leaseSeveral = 'b'

	leaseVariantAt   = 19 // in the text
	leasePartitionAt = 28
	leaseIDChars     = 36
)

// AppendLeaseID appends the text of a lease id made of the bits of id. With single, the
// last 8 digits are the partition's; otherwise partition is not used.
func AppendLeaseID(dst []byte, id UUID, single bool, partition UUID) []byte {
	from := len(dst)
	dst = id.Append(dst)
	if !single {
		dst[from+leaseVariantAt] = leaseSeveral
		return dst
	}
	dst[from+leaseVariantAt] = leaseSingle
	hex.Encode(dst[from+leasePartitionAt:], partition[:4])
	return dst
}

// LeaseIDPartition returns the range of partition ids, both ends included, that a lease's
// partition is in; false: the id does not say, or is none of ours.
func LeaseIDPartition(id []byte) (from, to UUID, ok bool) {
	if len(id) != leaseIDChars || id[leaseVariantAt] != leaseSingle {
		return from, to, false
	}
	if _, ok := parseUUID(id); !ok {
		return from, to, false
	}
	if _, err := hex.Decode(from[:4], id[leasePartitionAt:]); err != nil {
		return UUID{}, to, false
	}
	to = from
	for i := 4; i < len(to); i++ {
		to[i] = 0xff
	}
	return from, to, true
}
