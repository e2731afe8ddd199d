package journal

import (
	"errors"
	"fmt"
	"io"
)

// FS is what the journal asks of a file system. Files are made for their owner alone
// (0600), directories too (0700). Errors are those of the os package: they answer to
// errors.Is with fs.ErrNotExist, fs.ErrExist and the syscall errors.
type FS interface {
	// Create makes a file that is not there yet, for reading and writing.
	Create(name string) (File, error)
	// Open opens a file that is there for reading.
	Open(name string) (File, error)
	// OpenWrite opens a file that is there for reading and writing.
	OpenWrite(name string) (File, error)
	// Rename gives a file another name, whose own file is gone then.
	Rename(from, to string) error
	// Remove takes a file's name away; who has it open keeps it.
	Remove(name string) error
	// ReadDir lists a directory.
	ReadDir(dir string) ([]Entry, error)
	// MakeDir makes a directory and those above it, durably; it may be there.
	MakeDir(dir string) error
	// SyncDir makes durable what was created, renamed and removed in a directory.
	SyncDir(dir string) error
	// Lock takes the file of that name for this process until it is closed, and makes it
	// when it is not there. The error is a *LockedError when another has it.
	Lock(name string) (io.Closer, error)
	// Free is how many bytes may still be written to the file system.
	Free(dir string) (int64, error)
}

// File is an open file. Any goroutine may read while another one writes.
type File interface {
	io.ReaderAt
	// WriteAt writes once; it may write less than it is given and say so without an
	// error.
	io.WriterAt
	io.Closer
	// Sync makes durable what was written, and the size (fdatasync).
	Sync() error
	// Truncate sets the size.
	Truncate(size int64) error
	// Allocate makes the file that large, reading as zeros, and takes the space for it.
	Allocate(size int64) error
}

// Entry is a file of a directory.
type Entry struct {
	Name  string
	Bytes int64
	Dir   bool
}

// readFull reads until b is full. With io.EOF the file ends after n bytes.
func readFull(f File, b []byte, off int64) (n int, err error) {
	for n < len(b) && err == nil {
		var got int
		got, err = f.ReadAt(b[n:], off+int64(n))
		n += got
	}
	if n == len(b) {
		err = nil
	}
	return n, err
}

// writeFull writes all of b.
func writeFull(f File, b []byte, off int64) error {
	for rest := b; len(rest) > 0; {
		n, err := f.WriteAt(rest, off)
		if n == 0 && len(rest) == len(b) && isFull(err) {
			return fmt.Errorf("%w: %w", errUnwritten, err)
		}
		if err != nil {
			return err
		}
		if n == 0 {
			return io.ErrShortWrite
		}
		rest, off = rest[n:], off+int64(n)
	}
	return nil
}

// errUnwritten: there was no room for a single byte.
var errUnwritten = errors.New("nothing was written")
