// Package offheap is memory for few, large and short-lived byte slices beside the
// collector's: a message of megabytes on its way to a client. On the heap it would make
// the collector wait until there is twice as much of everything, and the memory would
// stay with the process. It is no allocator: each region is a mapping of its own.
package offheap

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// RegionBytesMin is from what size on memory is better had here.
const RegionBytesMin = 1 << 20

// hugeBytes is the size of a huge page. To get memory in such pages, where the system has
// them (madvise(2), MADV_HUGEPAGE), is some thirty times cheaper than in small ones.
const hugeBytes = 2 << 20

// Region is one piece of memory. It is freed by Free, or by the collector some time after
// nobody knows it any more; a slice of it does not count as knowing it.
type Region struct {
	bytes   []byte // in mapping
	mapping []byte
	cleanup runtime.Cleanup
}

// New returns a region of at least so many bytes, in huge pages if it can be, for what is
// soon done with it; nil: the system has no more. What is not written to takes no memory,
// to the page. Any goroutine.
func New(size int) *Region {
	size = (size + hugeBytes - 1) &^ (hugeBytes - 1)
	mapping, err := unix.Mmap(-1, 0, size+hugeBytes, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE)
	if err != nil {
		return nil
	}
	from := -int(uintptr(unsafe.Pointer(unsafe.SliceData(mapping)))) & (hugeBytes - 1)
	bytes := mapping[from : from+size : from+size]
	_ = unix.Madvise(bytes, unix.MADV_HUGEPAGE) // small ones do too
	return region(bytes, mapping)
}

// NewLasting is New for what may be kept for long: of less than a huge page it has only the
// bytes that it was asked for. It will be written to at once, to its end.
func NewLasting(size int) *Region {
	if size >= hugeBytes {
		return New(size)
	}
	mapping, err := unix.Mmap(-1, 0, size, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_ANON|unix.MAP_PRIVATE|unix.MAP_POPULATE)
	if err != nil {
		return nil
	}
	return region(mapping, mapping)
}

func region(bytes, mapping []byte) *Region {
	r := &Region{bytes: bytes, mapping: mapping}
	r.cleanup = runtime.AddCleanup(r, unmap, mapping)
	return r
}

func unmap(b []byte) {
	if err := unix.Munmap(b); err != nil {
		panic("BUG: memory that was mapped cannot be unmapped: " + err.Error())
	}
}

// Size is how many bytes a region has; nil has none.
func (r *Region) Size() int {
	if r == nil {
		return 0
	}
	return len(r.bytes)
}

// Empty is a slice without bytes that has room for all of the region.
func (r *Region) Empty() []byte { return r.bytes[:0:len(r.bytes)] }

// Holds says whether b begins where the region does: it has grown out of it if not.
func (r *Region) Holds(b []byte) bool {
	return r != nil && unsafe.SliceData(b) == unsafe.SliceData(r.bytes)
}

// Free gives the memory back. No slice of it may be used any more. nil is allowed; twice
// is a bug.
func (r *Region) Free() {
	if r == nil {
		return
	}
	if r.bytes == nil {
		panic("BUG: a region is freed twice")
	}
	r.cleanup.Stop()
	unmap(r.mapping)
	r.bytes, r.mapping = nil, nil
}
