package queue

// Decode reads the body of a push into op: it copies body once into the op's own
// memory, checks everything that can be known before SQL, and gives every message
// its id. The zero Fault means that op.Items is ready for a store (no items: the
// answer is `[]`, nothing is to be stored); otherwise the request is refused whole,
// with the fault's code and sentence. Decode does not touch op's times and Done.
func Decode(op *Op, body []byte, c *Config, ids *IDs) Fault { panic("TODO") }
