package filebuffer

import (
	"errors"
	"os"
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

// await waits until nobody has the file open for writing: a Queen that runs goes on writing
// to a file that is moved, and nobody would ever read that. Where it cannot be asked, the file
// is watched for a moment. It is not free when that takes too long.
func (q *queens) await(s *source) (free bool, err error) {
	if err := s.begin(); err != nil {
		return false, err
	}
	written, known := true, false
	for q.leases && written {
		if written, known = isWritten(s.f); !written {
			break
		}
		if q.patience <= 0 {
			return false, nil
		}
		if err := q.pause(); err != nil {
			return false, err
		}
		q.patience -= writerEvery
	}
	if !known {
		if free, err := q.watch(s); !free || err != nil {
			return false, err
		}
	}
	_, err = os.Lstat(s.path) // who wrote to it may have given it its other name
	return err == nil, err
}

// leave says that a file is left.
func (q *queens) leave(s *source) {
	q.left++
	q.b.o.Log.Error().Str("file", s.path).Msg("another process still writes to this buffer file of Queen's, and it is left there until the next start; is Queen's server still running? Two servers must not share a directory")
}

// watch waits until a file that Queen has not finished is still. It is not, in time, when it
// is still written to.
func (q *queens) watch(s *source) (bool, error) {
	info, err := s.f.Stat()
	if err != nil {
		return false, err
	}
	if !strings.HasSuffix(s.path, ".tmp") || time.Since(info.ModTime()) > oldFrom {
		return true, nil
	}
	for still := time.Duration(0); still < stillFor; still += writerEvery {
		if err := q.pause(); err != nil {
			return false, err
		}
		now, err := s.f.Stat()
		if err != nil {
			return false, err
		}
		if now.Size() == info.Size() {
			continue
		}
		if q.patience -= still + writerEvery; q.patience < 0 {
			return false, nil
		}
		info, still = now, -writerEvery // it begins anew
	}
	return true, nil
}

// pause waits until it is time to look again, unless it was stopped.
func (q *queens) pause() error {
	q.b.pause(writerEvery)
	return q.b.ctx.Err()
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
