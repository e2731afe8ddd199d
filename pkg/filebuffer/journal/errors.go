package journal

import (
	"errors"
	"fmt"
	"syscall"
)

var (
	// ErrFull is Append's answer at BytesMax, and when the disk has no room; the
	// latter wraps the operating system's error too. What is there stays, and a
	// release makes room. The records were not written: they will not be found at Open.
	ErrFull = errors.New("the journal is full")

	// ErrTooLarge is Append's answer to a payload beyond PayloadBytesMax.
	ErrTooLarge = errors.New("the record is too large for the journal")

	// ErrClosed is the answer of a journal that was closed.
	ErrClosed = errors.New("the journal is closed")
)

// LockedError says that another process has the directory.
type LockedError struct {
	Dir string
	PID int // of who has it, 0 when that is not known
}

// Error is a sentence for the one who started the second process.
func (e *LockedError) Error() string {
	if e.PID == 0 {
		return fmt.Sprintf("the directory %q is in use by another process: give each its own", e.Dir)
	}
	return fmt.Sprintf("the directory %q is in use by process %d: give each its own", e.Dir, e.PID)
}

// VersionError says that a segment was written by a version that we do not know.
type VersionError struct {
	Name    string // of the file
	Version uint32
}

// Error is a sentence for the one who has gone back to an older version.
func (e *VersionError) Error() string {
	return fmt.Sprintf("the segment %q has version %d of the format, this program knows version %d: it was left as it is",
		e.Name, e.Version, segmentVersion)
}

// isFull tells whether there is no room: in the file system, in our quota of it, or in
// what one file may have.
func isFull(err error) bool {
	return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) || errors.Is(err, syscall.EFBIG)
}

// isUnsupported tells whether the file system cannot do this at all.
func isUnsupported(err error) bool {
	return errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS)
}
