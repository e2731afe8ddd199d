package journal

import (
	"errors"
	"io/fs"
)

// Release says that all records up to this one are done: they will not be read again,
// and segments with no others are removed. Numbers that are not given yet count as the
// last one that is. What fails is repeated with the next release; until then a restart
// may read records again that were released.
func (j *Journal) Release(through uint64) error {
	j.mu.Lock()
	through = min(through, j.next-1)
	news := through > j.released && !j.closed
	closed := j.closed
	if news {
		j.released = through
	}
	j.mu.Unlock()
	if closed {
		return ErrClosed
	}
	return errors.Join(j.notePosition(news), j.sweep())
}

// notePosition writes the position down, when there is another one than in the file.
// It is not synced: the kernel will do, and when it does not, more is read again.
func (j *Journal) notePosition(news bool) error {
	j.releasing.Lock()
	defer j.releasing.Unlock()
	if !news && !j.positionStale {
		return nil
	}
	j.mu.Lock()
	released := j.released
	j.mu.Unlock()
	err := j.failed("write", positionName, writeFull(j.position, positionOf(released), 0))
	j.positionStale = err != nil
	return err
}

// sweep removes the segments that are wholly done, but for the one that grows: oldest
// first and each durably, so that what is left is a run of numbers without a hole,
// whenever the power fails.
func (j *Journal) sweep() error {
	j.releasing.Lock()
	defer j.releasing.Unlock()
	for {
		s := j.done()
		if s == nil {
			return nil
		}
		if err := j.remove(s); err != nil {
			return err
		}
		j.mu.Lock()
		j.segs = j.segs[1:]
		j.bytes -= s.size
		j.mu.Unlock()
	}
}

// done is the oldest segment if it can be removed.
func (j *Journal) done() *segment {
	j.mu.Lock()
	defer j.mu.Unlock()
	if len(j.segs) == 0 || j.segs[0].growing || j.segs[0].last > j.released {
		return nil
	}
	return j.segs[0]
}

// remove removes a segment's file, or moves it aside when there is damage in it that
// could not be copied.
func (j *Journal) remove(s *segment) error {
	j.mu.Lock()
	keep := s.keep
	j.mu.Unlock()
	if keep {
		return j.moveAside(s)
	}
	if err := j.fs.Remove(j.path(s.name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return j.failed("remove", s.name(), err)
	}
	return j.failed("sync the directory of", s.name(), j.fs.SyncDir(j.dir))
}
