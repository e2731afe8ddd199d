package queue

// thrift notices that memory which a large request has needed is used for small ones only. A
// pool alone does not: under load its few large ops go round with all others for ever.
type thrift struct{ uses int }

const (
	// thriftBytesMin is what is not worth the while.
	thriftBytesMin = 16 << 10

	// thriftUses is how often in a row a quarter of it must have been enough.
	thriftUses = 256
)

// isSpare says that kept bytes of memory, of which this use has needed so many, are better
// let go of.
func (t *thrift) isSpare(used, kept int) bool {
	if kept < thriftBytesMin || used > kept/4 {
		t.uses = 0
		return false
	}
	if t.uses++; t.uses < thriftUses {
		return false
	}
	t.uses = 0
	return true
}
