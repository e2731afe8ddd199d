package queue

// IDs makes message ids (UUIDv7, RFC 9562 §5.7). One per loop; not for several
// goroutines at once.
type IDs struct{}

// NewIDs returns a generator that reads the wall clock, in Unix milliseconds,
// from wallMs.
func NewIDs(wallMs func() int64) *IDs { panic("TODO") }

// Next returns the next id. Ids of one generator rise strictly.
func (g *IDs) Next() UUID { panic("TODO") }
