package queue

import "sync"

// Config is what every part of this room is told once, at start. It is shared
// by all loops and pool workers, does not change while they run, and is not copied.
type Config struct {
	// PayloadJSONB says that queen.messages.payload is jsonb (a database that Queen
	// laid out) and not json. Then payloads that jsonb cannot hold are refused at the
	// door, and push_insert_jsonb is used in place of push_insert.
	PayloadJSONB bool

	// Sealer encrypts the payloads of queues whose encryption is on; nil: no key was
	// given, such payloads are stored as they are and Warn hears of it.
	Sealer *Sealer

	// Warn hears, once per queue, that a queue's encryption is on and there is no key.
	// Any goroutine; may be nil. name is valid during the call.
	Warn func(queue string)

	// OpBytesMax bounds what one request may cost in memory (its body and its items);
	// beyond it Decode answers TooLarge. 0: OpBytesMaxDefault.
	OpBytesMax int

	warned struct {
		sync.Mutex
		queues map[string]bool
	}
}

// Prepared are the statements that are worth preparing on a connection; all others are
// sent unnamed.
func (c *Config) Prepared() []string {
	if c.locksFirst() {
		return []string{"push_lock", c.insert()}
	}
	return []string{"push_plan", c.insert()}
}

// PreparedEarly are those of a connection by which pushes are stored early; nil: none are.
func (c *Config) PreparedEarly() []string {
	if c.locksFirst() {
		return nil
	}
	return []string{"push_early", c.insertEarly(), "push_move"}
}

// insertEarly is the statement that stores messages early.
func (c *Config) insertEarly() string {
	if c.PayloadJSONB {
		return "push_early_insert_jsonb"
	}
	return "push_early_insert"
}

// locksFirst says that a push depends on more than the heads, and so has to lock them before
// it reads that.
func (c *Config) locksFirst() bool { return c.Sealer != nil }

// insert is the statement that stores messages.
func (c *Config) insert() string {
	switch {
	case c.Sealer != nil && c.PayloadJSONB:
		return "push_insert_sealed_jsonb"
	case c.Sealer != nil:
		return "push_insert_sealed"
	case c.PayloadJSONB:
		return "push_insert_jsonb"
	}
	return "push_insert"
}

// warnedMax bounds how many queues are warned of.
const warnedMax = 1000

// warn is Warn, once per queue.
func (c *Config) warn(queue string) {
	if c.Warn == nil {
		return
	}
	c.warned.Lock()
	first := !c.warned.queues[queue] && len(c.warned.queues) < warnedMax
	if first {
		if c.warned.queues == nil {
			c.warned.queues = make(map[string]bool)
		}
		c.warned.queues[queue] = true
	}
	c.warned.Unlock()
	if first {
		c.Warn(queue)
	}
}

// Limits of this room.
const (
	// NameCharsMax bounds queue, partition and transaction id, in characters (code
	// points), as the database's columns do. Longer: 400 that names the item.
	NameCharsMax = 255

	// DepthMax bounds how deep a request's JSON may nest. Deeper: 400.
	DepthMax = 512

	// OpBytesMaxDefault is what one request may cost in memory: the 64 MiB body of the
	// largest request, and up to 192 MiB for what is kept per item.
	OpBytesMaxDefault = 256 << 20

	// NumberDigitsMax and NumberExponentMax bound numbers in payloads when the column is
	// jsonb, which prints 1e131071 in full: nine bytes sent would be 131,072 bytes read.
	NumberDigitsMax   = 1000
	NumberExponentMax = 400

	// RetriesMax is how often an op is tried again after a failure that may pass
	// (deadlock, lock time-out), within its deadline.
	RetriesMax = 3
)
