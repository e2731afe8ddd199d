package queue

import "time"

// WatchKind is what a Watch op asks.
type WatchKind uint8

const (
	// WatchCheck asks what others told since Since. With Empty it also notes that a pop
	// found nothing there. Without Since it asks for the flags too.
	WatchCheck WatchKind = iota
	// WatchSweep looks at a slice of a queue's partitions for what a group has to come.
	WatchSweep
	// WatchQueues asks for the queues of a namespace and a task.
	WatchQueues
	// WatchTell gives a sign of life, tells others what this process did, asks for the
	// flags, and checks.
	WatchTell
	// WatchLeave says that this process ends.
	WatchLeave
	// WatchBegin writes down where a group begins, unless that is known already.
	WatchBegin
)

// WatchRequest asks what changed that this process did not do itself. Its fields belong
// to whoever made the op, until it is done.
type WatchRequest struct {
	Kind WatchKind

	Since   string  // WatchCheck, WatchTell: Snapshot of an earlier answer, "": begin here
	Process UUID    // WatchCheck, WatchTell, WatchLeave: who we are
	Worker  string  // WatchTell
	Tell    []Told  // WatchTell
	Tidy    bool    // WatchTell: forget what is old
	Empty   []Group // WatchCheck, WatchTell: where nothing was found

	Group                     // WatchSweep, WatchBegin
	After        UUID         // WatchSweep: the partitions beyond
	Partitions   int          // WatchSweep: at most so many of them
	Scope        PopScope     // WatchBegin: in the queue, in Part of it, or in the queues of Namespace and Task
	Part         string       // WatchBegin
	Subscription Subscription // WatchBegin
	Namespace    []byte       // WatchQueues, WatchBegin; nil: any
	Task         []byte

	// The answers.

	Snapshot string      // WatchCheck, WatchTell
	Others   bool        // WatchCheck, WatchTell: other processes are there
	Heard    []Told      // WatchCheck, WatchTell
	Pending  []Claimable // WatchSweep
	Next     UUID        // WatchSweep: the last partition of the slice
	More     bool        // WatchSweep: there are partitions beyond Next
	Queues   []string    // WatchQueues
	Flags    Flags       // WatchTell, WatchCheck without Since
}

// Flags say what an administrator has stopped, for all processes of a database: pushes go
// to the file buffer only, pops are given nothing.
type Flags struct {
	Push, Pop bool
	Known     bool // they were read
}

// Group is a consumer group of a queue.
type Group struct{ Queue, Name string }

// Told is a change that one process tells another. Group is "" when messages came, else
// the group that gave the partition back.
type Told struct {
	Queue     string
	Partition UUID
	Name      string // of the partition; "": not known
	Group     string
}

// Claimable is a partition with messages to come for a group, in In at the earliest: it is
// leased until then.
type Claimable struct {
	Partition UUID
	In        time.Duration
}

// QueuesMax bounds the queues that one namespace and task can mean.
const QueuesMax = 10_000
