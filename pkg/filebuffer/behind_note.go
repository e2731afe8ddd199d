package filebuffer

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

// What stays behind is written down, since the journal's own position is that of its first
// message: what is delivered behind that must not be delivered again by the next process.
// The transaction ids would tell, but for messages that were consumed and deleted since.
//
// It is not synced, and what it says stays true: an old one has more delivered again.

// behindFile is in the buffer's directory while partitions stay behind.
const behindFile = "behind.json"

// noteEvery is how often it is written down how far the drain is, at most; and no more than a
// twentieth of its time.
const (
	noteEvery = 100 * time.Millisecond
	noteShare = 20
)

// behindNote is what is in the file.
type behindNote struct {
	Through    uint64     `json:"through"`
	Partitions []lateNote `json:"partitions"`
}

type lateNote struct {
	Queue     string `json:"queue"`
	Partition string `json:"partition"`
	First     uint64 `json:"first"`
	Skip      int    `json:"skip"`
}

// note writes down what stays behind, if it is time or must be.
func (d *drainer) note(must bool) {
	b, s, now := d.b, d.behind, d.b.o.Now()
	path := filepath.Join(b.o.Dir, behindFile)
	switch {
	case !s.any() && s.noted:
		if err := os.Remove(path); err == nil || errors.Is(err, fs.ErrNotExist) {
			s.noted = false
		}
		return
	case !s.any() || !must && now-s.notedAt < max(noteEvery, noteShare*s.noting):
		return
	}
	err := s.write(path)
	s.noted, s.notedAt, s.noting = true, now, b.o.Now()-now
	if err != nil {
		b.o.Log.Debug().Err(err).Msg("it cannot be written down what stays behind; the next process would store more of it again, which the transaction ids tell")
	}
}

// write replaces the file.
func (s *behind) write(path string) error {
	note := behindNote{Through: s.through, Partitions: make([]lateNote, 0, len(s.partitions))}
	for key, l := range s.partitions {
		name, partition := splitKey(key)
		note.Partitions = append(note.Partitions, lateNote{Queue: name, Partition: partition, First: l.first, Skip: l.skip})
	}
	text, err := json.Marshal(note)
	if err != nil {
		return err
	}
	fresh := path + ".new"
	if err := os.WriteFile(fresh, text, 0o600); err != nil {
		return err
	}
	return os.Rename(fresh, path)
}

// openBehind reads what stays behind, before anything is read of the journal.
func (b *Buffer) openBehind(j *journal.Journal) error {
	s, err := readBehind(b.o.Dir)
	if err == nil && s.through > j.Stats().Last {
		err = errors.New("it is of another journal")
	}
	if err != nil {
		b.o.Log.Info().Err(err).Str("file", behindFile).Msg("it is not known what was delivered behind the first message that waits on disk; it is stored again, which the transaction ids tell")
		// Or it would be believed when the numbers have reached it.
		if err := os.Remove(filepath.Join(b.o.Dir, behindFile)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("cannot remove what does not go with the file buffer: %w", err)
		}
		s = newBehind()
	}
	b.behind = s
	return nil
}

// readBehind reads what stays behind. It is to be believed only with a journal that has the
// record through.
func readBehind(dir string) (behind, error) {
	s := newBehind()
	text, err := os.ReadFile(filepath.Join(dir, behindFile))
	if errors.Is(err, fs.ErrNotExist) {
		return s, nil
	}
	var note behindNote
	if err == nil {
		err = json.Unmarshal(text, &note)
	}
	if err != nil {
		return s, err
	}
	s.through, s.noted = note.Through, true
	for _, p := range note.Partitions {
		s.partitions[p.Queue+"\x00"+p.Partition] = &late{first: p.First, skip: p.Skip}
	}
	return s, nil
}

// peekBehind is readBehind of who only looks. What cannot be read says nothing.
func peekBehind(dir string) behind {
	s, err := readBehind(dir)
	if err != nil {
		return newBehind()
	}
	return s
}
