package journal

import (
	"errors"
	"fmt"
	"syscall"
)

// holeBytes is how much of a file is given up when the disk does not give it: a page,
// which is what the kernel reads at least.
const holeBytes = 4 << 10

// isUnreadable tells whether the disk does not give what is there, and nothing but the disk
// is to blame.
func isUnreadable(err error) bool {
	return errors.Is(err, syscall.EIO) || errors.Is(err, syscall.EUCLEAN) || errors.Is(err, syscall.EBADMSG) || errors.Is(err, syscall.ENODATA)
}

// holey is a file whose unreadable pages read as zeros, which are no frames: so what is
// before and behind them is found as it is around damage. Each is asked for once, since a
// disk may take seconds to refuse.
type holey struct {
	File
	holes map[int64]bool // by page
	err   error          // the first one
}

// ReadAt reads, page by page where the whole cannot be read.
func (h *holey) ReadAt(b []byte, off int64) (n int, err error) {
	if h.holes == nil {
		if n, err = h.File.ReadAt(b, off); !isUnreadable(err) {
			return n, err
		}
		h.holes, h.err = map[int64]bool{}, err
	}
	for err = nil; n < len(b) && err == nil; {
		at := off + int64(n)
		part := b[n:min(len(b), n+int(holeBytes-at%holeBytes))]
		got := 0
		if !h.holes[at/holeBytes] {
			got, err = readFull(h.File, part, at)
		}
		if h.holes[at/holeBytes] || isUnreadable(err) {
			h.holes[at/holeBytes], err = true, nil
			clear(part[got:])
			got = len(part)
		}
		n += got
	}
	return n, err
}

// unread says what could not be read.
func (h *holey) unread() error {
	if h == nil {
		return nil
	}
	return h.err
}

// UnreadError is the end of a Read that has passed over what the disk did not give.
type UnreadError struct {
	Segments map[string]error // by their files' names
}

// Error names one of them.
func (e *UnreadError) Error() string {
	first := ""
	for name := range e.Segments {
		if first == "" || name < first {
			first = name
		}
	}
	text := fmt.Sprintf("%s cannot be read: %v", first, e.Segments[first])
	if n := len(e.Segments) - 1; n > 0 {
		text += fmt.Sprintf(" (and %d more)", n)
	}
	return text
}
