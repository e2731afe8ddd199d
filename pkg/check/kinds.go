package check

import (
	"fmt"
	"slices"
	"strings"
)

// Kind names a contradiction.
type Kind string

// The kinds of findings.
const (
	NoDedupeKey           Kind = "no-dedupe-key"
	Duplicate             Kind = "duplicate"
	PartitionWithoutQueue Kind = "partition-without-queue"
	PartitionWithoutHead  Kind = "partition-without-head"
	HeadOfOtherQueue      Kind = "head-of-other-queue"
	HeadWithoutPartition  Kind = "head-without-partition"
	HeadBehindMessage     Kind = "head-behind-message"
	TailBeyondHead        Kind = "tail-beyond-head"
	OrderViolated         Kind = "order-violated"
	NumberTwice           Kind = "number-twice"
	NumberBeyondHead      Kind = "number-beyond-head"
	CursorBeyondHead      Kind = "cursor-beyond-head"
	CursorNumber          Kind = "cursor-number"
	CursorOfNoPartition   Kind = "cursor-of-no-partition"
	LeaseWithoutExpiry    Kind = "lease-without-expiry"
	ExpiryWithoutLease    Kind = "expiry-without-lease"
	LeaseCounts           Kind = "lease-counts"
	LeaseWithoutMessages  Kind = "lease-without-messages"
	LeaseBeyondHead       Kind = "lease-beyond-head"
	LetterWithoutMessage  Kind = "dead-letter-without-message"
	HoleBeyondHead        Kind = "hole-beyond-head"
	HoleBehindTail        Kind = "hole-behind-tail"
)

// The kinds of notes.
const (
	MessagesOfNoPartition Kind = "messages-of-no-partition"
	Unnumbered            Kind = "messages-without-number"
	CountsDiffer          Kind = "counts-differ"
)

// about says what to do.
var about = map[Kind]struct {
	note   bool
	remedy string
}{
	NoDedupeKey:           {false, "Run queend migrate apply; remove duplicates first, if it names some."},
	Duplicate:             {false, "Delete all but the oldest, then run queend migrate apply for the missing unique index."},
	PartitionWithoutQueue: {false, "Delete the row of queen.partitions: nobody can reach it."},
	PartitionWithoutHead:  {false, "A running queend makes it within seconds (PARTITION_LOOKUP_RECONCILE_INTERVAL_MS), and so does the next push. If it stays, look at that queend's log."},
	HeadOfOtherQueue:      {false, "Set queue_name in queen.partition_lookup to the name of the partition's queue; until then pops of the queue do not see it."},
	HeadWithoutPartition:  {false, "Delete the row of queen.partition_lookup; the foreign key that forbids it is missing: run queend migrate apply."},
	HeadBehindMessage:     {false, "A running queend finds rows that were inserted by hand within seconds (PARTITION_LOOKUP_RECONCILE_INTERVAL_MS): if it stays, look at its log. If no row was, please report it."},
	TailBeyondHead:        {false, "Set tail_seq to seq in queen.partition_lookup: lag is counted too small."},
	OrderViolated:         {false, "Something wrote seq or created_at by hand. Lag of this partition is wrong; order of delivery goes by created_at and id."},
	NumberTwice:           {false, "Something wrote seq by hand. Lag of this partition is wrong until one of them goes."},
	NumberBeyondHead:      {false, "Something wrote seq by hand, or set the head back. Set seq in queen.partition_lookup to the greatest number, or lag is counted too small."},
	CursorBeyondHead:      {false, "Messages pushed now may be skipped by this group until the clock has passed its cursor. Seek the group to the end (POST …/consumer-groups/GROUP/queues/QUEUE/seek)."},
	CursorNumber:          {false, "Lag of this group is wrong. Seek the group to where it stands, or set last_seq in queen.partition_consumers."},
	CursorOfNoPartition:   {false, "Delete the row of queen.partition_consumers; the foreign key that forbids it is missing: run queend migrate apply."},
	LeaseWithoutExpiry:    {false, "Set worker_id to null in queen.partition_consumers: nobody holds the partition, whatever the row says."},
	ExpiryWithoutLease:    {false, "Set lease_expires_at to null in queen.partition_consumers, or wait for it: until then the group gets nothing of this partition."},
	LeaseCounts:           {false, "Wait for the lease to end: the next one begins to count anew. If it comes again, please report it."},
	LeaseWithoutMessages:  {false, "Its messages were deleted by SQL. Acknowledging one of them ends the lease, though it answers that it is not found; or wait for the lease to run out, or seek the group to where it stands: until then it gets nothing of this partition."},
	LeaseBeyondHead:       {false, "Set lease_end_created_at and lease_end_id in queen.partition_consumers to the last message that was delivered, or wait for the lease to run out: until then what is pushed counts as delivered with it."},
	LetterWithoutMessage:  {false, "The message is lost: Queen's retention deleted it before a copy was made. Delete the row when its error has been read."},
	HoleBeyondHead:        {false, "Delete the row of queen.message_holes: lag is counted too small once the number is given."},
	HoleBehindTail:        {false, "Delete the row of queen.message_holes; it does no harm."},
	MessagesOfNoPartition: {true, "A running queend deletes them (RETENTION_INTERVAL); nobody can reach them."},
	Unnumbered:            {true, "Rows inserted by hand are numbered within seconds, those of a take-over in the background. A row inserted by hand with a time before the partition's newest message stays so: it is delivered to those who have not read further, and not counted in lag."},
	CountsDiffer:          {true, "Messages were deleted by SQL. Delivery is right; lag of groups that had not read them is counted too large until they read on."},
}

// kinds are all kinds, sorted.
func kinds() []Kind {
	var all []Kind
	for kind := range about {
		all = append(all, kind)
	}
	slices.Sort(all)
	return all
}

// Finding is one contradiction.
type Finding struct {
	Kind        Kind   `json:"kind"`
	Queue       string `json:"queue,omitempty"`
	Partition   string `json:"partition,omitempty"`
	PartitionID string `json:"partitionId,omitempty"`
	Group       string `json:"consumerGroup,omitempty"`
	What        string `json:"what"`   // what is wrong, a sentence
	Remedy      string `json:"remedy"` // what to do, a sentence or two
}

// String is the finding's line.
func (f Finding) String() string {
	var where []string
	if f.Queue != "" || f.Partition != "" {
		where = append(where, fmt.Sprintf("queue %q partition %q", f.Queue, f.Partition))
	}
	if f.PartitionID != "" {
		where = append(where, "("+f.PartitionID+")")
	}
	if f.Group != "" {
		where = append(where, fmt.Sprintf("group %q", f.Group))
	}
	line := string(f.Kind) + ": "
	if about[f.Kind].note {
		line = "note: " + line
	}
	if len(where) > 0 {
		line += strings.Join(where, " ") + ": "
	}
	return line + f.What + " " + f.Remedy
}
