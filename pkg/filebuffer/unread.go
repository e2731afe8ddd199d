package filebuffer

import (
	"errors"
	"io"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

const (
	// passOverAfter, and so many tries, is how long the disk may refuse to be read before what
	// it does not give is passed over: long enough for a cable and a controller that starts
	// anew, and short enough for those behind it.
	passOverAfter = 10 * time.Second
	passOverTries = 5

	// sayUnreadEvery is how often it is said that the disk cannot be read.
	sayUnreadEvery = time.Minute
)

// reading gives the records on disk, one by one, to who can wait when they cannot be read.
type reading struct {
	b           *Buffer
	reader      *journal.Reader
	tries       int // that failed in a row
	since, said time.Duration
}

// next is the next record. io.EOF says that there is none now; after any other error next is
// to be called again in a while. It says itself what is wrong.
func (r *reading) next() (journal.Record, error) {
	rec, err := r.reader.Next()
	if err == nil || errors.Is(err, io.EOF) {
		if r.tries > 0 {
			r.b.o.Log.Info().Int("tries", r.tries).Msg("the file buffer is read again")
		}
		r.tries = 0
		return rec, err
	}
	b, now := r.b, r.b.o.Now()
	b.stats.ReadErrors.Add(1)
	if r.tries++; r.tries == 1 {
		r.since = now
	}
	if r.tries == 1 || now-r.said >= sayUnreadEvery {
		r.said = now
		b.o.Log.Error().Err(err).Stringer("since", (now-r.since).Round(time.Second)).Int("tries", r.tries).
			Msg("the file buffer cannot be read; nothing is delivered meanwhile")
	}
	if r.tries >= passOverTries && now-r.since >= passOverAfter {
		r.reader.PassOver()
	}
	return rec, err
}

// nextThrough is next, and the end behind a record.
func (r *reading) nextThrough(last uint64) (journal.Record, error) {
	rec, err := r.next()
	if err == nil && rec.Seq > last {
		err = io.EOF
	}
	return rec, err
}

// close closes what is open. It may be read from again.
func (r *reading) close() {
	if r.reader != nil {
		_ = r.reader.Close()
	}
}

// run is a run of numbers.
type run struct{ first, last uint64 }

// missing remembers that the scan has not found the records from one up to another. Before
// the scan has ended nobody asks.
func (b *Buffer) missing(from, to uint64) {
	if from < to {
		b.unfound = append(b.unfound, run{from, to - 1})
	}
}

// missed says whether a record was on disk at the start and the scan did not find it: the
// disk did not give it then.
func (b *Buffer) missed(seq uint64) bool {
	for _, r := range b.unfound {
		if r.first <= seq && seq <= r.last {
			return true
		}
	}
	return false
}

// foundLate gates what the scan has missed, so that what leaves the gate was in it.
func (b *Buffer) foundLate(rec journal.Record) {
	if !b.missed(rec.Seq) || b.foundSince[rec.Seq] {
		return
	}
	if b.foundSince == nil {
		b.foundSince = map[uint64]bool{}
	}
	b.foundSince[rec.Seq] = true
	b.found(&queue.Op{}, rec)
	b.mu.Lock()
	b.clear.Store(false) // until all is delivered again
	b.mu.Unlock()
}
