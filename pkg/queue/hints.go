package queue

// Hints remembers where partitions are: (queue, partition) → partition id and
// whether the queue is encrypted. It is a cache and may be wrong; the locked row in
// PostgreSQL decides. One per loop (or per pool worker); not for several goroutines
// at once. All batches of a loop share it.
type Hints struct{}

// NewHints returns an empty cache of at most entriesMax partitions and about
// bytesMax bytes of names (0: HintsEntriesMaxDefault, HintsBytesMaxDefault). At the
// bound the longest unused half is forgotten.
func NewHints(entriesMax, bytesMax int) *Hints { panic("TODO") }

// Bounds of NewHints.
const (
	HintsEntriesMaxDefault = 100_000
	HintsBytesMaxDefault   = 16 << 20
)
