package filebuffer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// This file is about those who still write to Queen's files: a server that ends as we begin,
// or one that was forgotten and runs on.

const (
	// writerPatience is how long writers are waited for, in all.
	writerPatience = 5 * time.Second

	// writerEvery is how often is looked, where nobody tells.
	writerEvery = 50 * time.Millisecond

	// stillFor is how long a file must not grow to count as finished where it cannot be
	// asked whether somebody has it open, and oldFrom how long ago it must have been
	// written to for nobody to ask: Queen finishes a file after 0.2 s without a message.
	stillFor = time.Second
	oldFrom  = time.Minute
)

// await waits until nobody has the file open for writing. It is not free when that takes too
// long, or ctx has ended; known says whether it could be asked.
func (t *taking) await(f *os.File) (free, known bool) {
	for t.leases {
		written, known := isWritten(f)
		if !written {
			return true, known
		}
		if t.patience <= 0 || !t.pause() {
			return false, true
		}
		t.patience -= writerEvery
	}
	return true, false
}

// leave says that a file is left, unless it is because of ctx.
func (t *taking) leave(path string) error {
	if err := t.ctx.Err(); err != nil {
		return err
	}
	t.left[path] = true
	t.b.o.Log.Error().Str("file", path).Msg("another process still writes to this buffer file of Queen's, and it is left there until the next start; is Queen's server still running? Two servers must not share a directory")
	return nil
}

// watch takes what is written to a file that was moved, until it is still. One that
// is not, in time, or because ctx has ended, is to be put back.
func (t *taking) watch(s *source) (bool, error) {
	info, err := s.Stat()
	if err != nil {
		return false, err
	}
	if err := t.more(s, info); err != nil { // between its end and the move
		return false, err
	}
	if !strings.HasSuffix(s.path, ".tmp") || time.Since(info.ModTime()) > oldFrom {
		return true, nil // Queen had finished it
	}
	for still := time.Duration(0); still < stillFor; still += writerEvery {
		if !t.pause() {
			return false, nil
		}
		now, err := s.Stat()
		if err != nil {
			return false, err
		}
		if now.Size() == info.Size() {
			continue
		}
		if t.patience -= still + writerEvery; t.patience < 0 {
			return false, nil
		}
		info, still = now, -writerEvery // it begins anew
		if err := t.more(s, info); err != nil {
			return false, err
		}
	}
	return true, nil
}

// more takes what came to a file of this size since it was read.
func (t *taking) more(s *source, info fs.FileInfo) error {
	if info.Size() <= s.read {
		return nil
	}
	return t.rest(s)
}

// putBack gives a file that was moved its place again.
func (t *taking) putBack(s *source) error {
	err := os.Rename(filepath.Join(t.b.o.Dir, takenDir, filepath.Base(s.path)), s.path)
	return errors.Join(err, t.syncMove(s.path))
}

// pause waits until it is time to look again. It is false when ctx has ended.
func (t *taking) pause() bool {
	select {
	case <-time.After(writerEvery):
		return true
	case <-t.ctx.Done():
		return false
	}
}

// A lease for reading can be had on a file only while nobody has it open for writing (fcntl(2),
// F_SETLEASE). It is given back at once: it is the answer that is wanted.

// isWritten says whether somebody has the file open for writing, if that is known: of
// another user's file it is not.
func isWritten(f *os.File) (written, known bool) {
	err := lease(f)
	written = errors.Is(err, unix.EAGAIN)
	return written, written || err == nil
}

// leasesWork says whether the directory's file system can be asked: some refuse every lease
// as if the file was in use (NFS).
func leasesWork(dir string) bool {
	w, err := os.CreateTemp(dir, "lease-*")
	if err != nil {
		return false
	}
	defer os.Remove(w.Name())
	if w.Close() != nil {
		return false
	}
	f, err := os.Open(w.Name())
	if err != nil {
		return false
	}
	defer f.Close()
	return lease(f) == nil
}

func lease(f *os.File) error {
	if _, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_RDLCK); err != nil {
		return err
	}
	_, err := unix.FcntlInt(f.Fd(), unix.F_SETLEASE, unix.F_UNLCK)
	return err
}
