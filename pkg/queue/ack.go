package queue

// AckItem is one acknowledgment and what came of it. Its slices point into the op's own
// memory.
type AckItem struct {
	TransactionID []byte
	PartitionText []byte // as the client wrote it
	Partition     UUID
	IsPartition   bool // PartitionText is a UUID
	Group         []byte
	Status        []byte // "completed", "success", "failed", "retry", "dlq", or what the client wrote
	LeaseID       []byte // empty: the lease is not checked
	Error         []byte // the client's reason
	HasError      bool

	// What came of it.

	Success       bool
	Dead          bool   // it is a dead letter now
	Released      Tri    // leaseReleased
	Why           string // the answer's error; "": null
	Queue         string // "": unknown
	PartitionName string
	Known         bool // Queue and PartitionName are

	nowhere bool // no message can have TransactionID
	done    bool
	maybe   bool // a write that takes it was sent and the answer was lost: it may be taken, also later
}

// Tri is a boolean that may be unknown.
type Tri uint8

const (
	Unset Tri = iota
	No
	Yes
)

// LeaseRequest names a lease.
type LeaseRequest struct {
	ID      []byte
	Seconds int // Extend

	// What came of it: Expires is the earliest new end, microseconds since 1970; Why is the
	// answer's error, "" for success.
	Expires int64
	Why     string
}

// TransactionStep is one operation of a transaction, in the order of the request.
type TransactionStep struct {
	IsAck bool
	Index int // in op.Items or op.Acks

	Unknown bool // neither: there is no operation of this Type
	Type    []byte

	// What came of it: a transaction ends at its first step that has an Error. Alone says
	// that the answer has no results: the transaction failed as a whole.
	Error string
	Alone bool
}
