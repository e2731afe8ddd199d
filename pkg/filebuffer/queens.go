package filebuffer

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// This file takes over what Queen's server has left in its buffer directory when queend
// takes its place: failover_*.buf and qos0_*.buf, the same with .tmp behind, which it was
// writing when it ended, and those that it had put aside in failed/.
//
// They are delivered from where they are, beside the traffic. The scan finds out which
// partitions are in them; then the drain stores what they hold, at its place between our own
// records (backlog.go). A file whose messages are all stored goes to taken/. A process that
// ends before that leaves it to the next one, and what is stored twice so the transaction ids
// tell.

// takenDir is where files go that were taken.
const takenDir = "taken"

// takeRounds is how often is looked for files: Queen's server may rename them as it ends.
const takeRounds = 3

// queens is what Queen's server has left. The scan has it first, and then the drain.
type queens struct {
	b        *Buffer
	ids      *queue.IDs
	unmarked atomic.Bool    // a mark must be written before any push is: see mark
	counted  map[string]int // messages that the scan has found and the drain has not, by file
	tries    int            // that failed in a row
	said     time.Duration  // when that was said last

	begun     bool
	rounds    int             // so often files were looked for
	files     []string        // that are to be read in this one
	seen      map[string]bool // of this round, and those before it
	cur       *source         // is being read; nil: none
	read      []*source       // were read whole, and wait to be delivered
	handed    uint64          // messages, of all files
	delivered uint64          // so many of these are stored
	ended     bool            // all are handed
	told      bool            // that all are delivered, or that it was stopped
	bad, left int             // records that were set aside, files that stay where they are
	leases    bool            // the file system tells who writes to a file
	patience  time.Duration   // for as long writers are waited for, in all
}

// findQueens looks for files of Queen's; nil: there are none.
func (b *Buffer) findQueens() (*queens, error) {
	files, err := queensFiles(b.o.Dir)
	if err != nil {
		return nil, fmt.Errorf("cannot look for Queen's buffer files: %w", err)
	}
	if len(files) == 0 {
		return nil, nil
	}
	q := &queens{
		b: b, ids: queue.NewIDs(func() int64 { return time.Now().UnixMilli() }), patience: writerPatience,
		counted: map[string]int{}, seen: map[string]bool{},
	}
	q.unmarked.Store(true)
	b.o.Log.Info().Int("files", len(files)).Str("dir", b.o.Dir).Msg("taking over what Queen's server has left to deliver")
	return q, nil
}

// queensFiles lists Queen's files by the time in their names: a UUIDv7 each.
func queensFiles(dir string) (files []string, err error) {
	for _, sub := range []string{"", "failed"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() && isQueens(e.Name()) {
				files = append(files, filepath.Join(dir, sub, e.Name()))
			}
		}
	}
	id := func(path string) string {
		_, id, _ := strings.Cut(filepath.Base(path), "_")
		return id
	}
	slices.SortStableFunc(files, func(a, b string) int { return strings.Compare(id(a), id(b)) })
	return files, nil
}

func isQueens(name string) bool {
	return (strings.HasPrefix(name, "failover_") || strings.HasPrefix(name, "qos0_")) &&
		(strings.HasSuffix(name, ".buf") || strings.HasSuffix(name, ".buf.tmp"))
}

// nameOf is the name of a file of Queen's, finished or not.
func nameOf(path string) string { return strings.TrimSuffix(filepath.Base(path), ".tmp") }

// scan puts what the files hold into the gate, and says how many messages that is. What
// cannot be read is tried until it can: while it is not known what is there, all is gated.
func (q *queens) scan() (n int) {
	seen, saidAt := map[string]bool{}, q.b.o.Now()
	for q.b.ctx.Err() == nil {
		files, err := queensFiles(q.b.o.Dir)
		if err != nil {
			q.trouble(err)
			q.b.pause(time.Second)
			continue
		}
		files = slices.DeleteFunc(files, func(path string) bool { return seen[nameOf(path)] })
		if len(files) == 0 {
			break
		}
		s := q.source(files[0])
		for q.b.ctx.Err() == nil {
			event, err := s.next()
			if errors.Is(err, io.EOF) {
				seen[s.name] = true
				break
			}
			if errors.Is(err, fs.ErrNotExist) {
				break // it has another name by now, or was taken away
			}
			if err != nil {
				q.trouble(err)
				q.b.pause(time.Second)
				continue
			}
			q.good()
			var op queue.Op
			if q.decode(&op, event, s).Code == queue.OK {
				q.counted[s.name]++
				q.gate(op.Items)
				n++
			}
			s.pass(event)
			if now := q.b.o.Now(); now-saidAt >= sayEvery {
				saidAt = now
				q.b.o.Log.Info().Int("messages", n).Str("file", s.path).Msg("looking through what Queen's server has left; pushes are written to disk meanwhile")
			}
		}
		s.close()
	}
	return n
}

// gate gates what is found.
func (q *queens) gate(items []queue.Item) {
	b := q.b
	b.mu.Lock()
	defer b.mu.Unlock()
	b.stats.Pending.Add(int64(len(items)))
	b.gate.add(items)
	b.clear.Store(false)
}

// next is the next message, as a record of ours. io.EOF says that all were handed. After any
// other error next is to be called again in a while; it says itself what is wrong.
func (q *queens) next() ([]byte, error) {
	record, err := q.look()
	switch {
	case err == nil || errors.Is(err, io.EOF):
		q.good()
	case q.b.ctx.Err() == nil:
		q.trouble(err)
	case !q.told:
		q.told = true
		if q.cur != nil {
			q.cur.close()
		}
		q.b.o.Log.Info().Uint64("messages", q.delivered).Msg("the taking over of Queen's buffer files is stopped; it goes on at the next start")
	}
	return record, err
}

func (q *queens) look() ([]byte, error) {
	for !q.ended {
		if err := q.b.ctx.Err(); err != nil {
			return nil, err
		}
		if q.cur == nil {
			if err := q.open(); err != nil {
				return nil, err
			}
			continue
		}
		s := q.cur
		event, err := s.next()
		switch {
		case errors.Is(err, io.EOF):
			q.end(s)
			continue
		case errors.Is(err, fs.ErrNotExist):
			q.cur = nil // it was taken away
			continue
		case err != nil:
			return nil, err
		}
		record, err := q.record(event, s)
		if err != nil {
			s.close() // and read from there again
			return nil, err
		}
		s.pass(event)
		if record != nil {
			q.handed++
			return record, nil
		}
	}
	return nil, io.EOF
}

// open goes to the next file that nobody writes to.
func (q *queens) open() error {
	if err := q.begin(); err != nil {
		return err
	}
	if len(q.files) == 0 && q.rounds < takeRounds {
		files, err := queensFiles(q.b.o.Dir)
		if err != nil {
			return err
		}
		q.files = slices.DeleteFunc(files, func(path string) bool { return q.seen[path] })
		q.rounds++
	}
	if len(q.files) == 0 {
		q.ended = true
		q.settle()
		return nil
	}
	s := q.source(q.files[0])
	free, err := q.await(s)
	if err != nil && !errors.Is(err, fs.ErrNotExist) { // which has another name by now: the next round finds it
		s.close()
		return err
	}
	q.seen[s.path] = true
	q.files = q.files[1:]
	switch {
	case err != nil:
		s.close()
	case free:
		q.cur = s
	default:
		s.close()
		q.leave(s)
	}
	return nil
}

// begin makes the place where the files go.
func (q *queens) begin() error {
	if q.begun {
		return nil
	}
	dir := filepath.Join(q.b.o.Dir, takenDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	q.leases, q.begun = !q.b.o.noLeases && leasesWork(dir), true
	return nil
}

// end is the end of a file, unless that has moved since.
func (q *queens) end(s *source) {
	if s.grown() {
		return
	}
	s.close()
	s.last = q.handed
	q.read, q.cur = append(q.read, s), nil
	q.settle()
}

// stored says that so many of the messages that were handed are stored.
func (q *queens) stored(n uint64) {
	q.delivered = n
	q.settle()
}

// settle puts away the files whose messages are all stored, and says when those are all.
func (q *queens) settle() {
	for len(q.read) > 0 && q.read[0].last <= q.delivered {
		q.putAway(q.read[0])
		q.read = q.read[1:]
	}
	if q.over() && !q.told {
		q.told = true
		q.unmarked.Store(false)
		q.b.o.Log.Info().Uint64("messages", q.delivered).Int("set_aside", q.bad).Int("left", q.left).
			Msg("Queen's buffer files are taken over; they are kept in " + filepath.Join(q.b.o.Dir, takenDir))
	}
}

// over says that there is nothing more to do.
func (q *queens) over() bool { return q.ended && len(q.read) == 0 }

// putAway moves a file to those that were taken. One that has grown since is not wholly
// taken: it stays.
func (q *queens) putAway(s *source) {
	if _, err := os.Lstat(s.path); errors.Is(err, fs.ErrNotExist) {
		return // somebody has moved it; the transaction ids tell, when the next round finds it
	}
	to := filepath.Join(q.b.o.Dir, takenDir, filepath.Base(s.path))
	err := os.Rename(s.path, to)
	info, unknown := os.Stat(to)
	grown := err == nil && (unknown != nil || info.Size() != s.size)
	if grown { // nobody would read that there
		err = os.Rename(to, s.path)
	}
	if err = errors.Join(err, syncDir(filepath.Dir(s.path)), syncDir(filepath.Dir(to))); err != nil {
		q.left++
		q.b.o.Log.Error().Err(err).Str("file", s.path).Msg("Queen's buffer file is delivered and cannot be put away; the next start would look at it again")
		return
	}
	if grown {
		q.leave(s)
		return
	}
	if s.torn != nil {
		left := s.size - s.read
		q.b.stats.TornBytes.Add(uint64(left))
		q.b.o.Log.Error().Str("file", to).Err(s.torn).Int64("at", s.read).Int64("bytes", left).
			Msg("the rest of Queen's buffer file makes no sense, and what was in it is not delivered; all records before it are, and the file is kept")
	}
}

// trouble says why it does not go on, now and then.
func (q *queens) trouble(err error) {
	q.b.stats.ReadErrors.Add(1)
	now := q.b.o.Now()
	if q.tries++; q.tries > 1 && now-q.said < sayUnreadEvery {
		return
	}
	q.said = now
	q.b.o.Log.Error().Err(err).Int("tries", q.tries).
		Msg("what Queen's server has left cannot be taken over, and what was pushed since waits behind it; it is tried again. To go on without a file, move it out of the directory")
}

// good says that the trouble is over, if there was any.
func (q *queens) good() {
	if q.tries > 0 {
		q.b.o.Log.Info().Int("tries", q.tries).Msg("what Queen's server has left is read again")
	}
	q.tries = 0
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
