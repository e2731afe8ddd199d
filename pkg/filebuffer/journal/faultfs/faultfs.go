// Package faultfs is a file system in memory for tests, which fails when it is told
// to and forgets what was not synced when its power is cut.
//
// It is not a fast one, nor a whole one: it does what a journal asks for.
package faultfs

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

// Op is a kind of call.
type Op uint8

// The kinds of calls.
const (
	Create Op = iota
	Open      // for reading or for writing
	Read
	Write
	Sync
	Truncate
	Allocate
	Close
	Rename
	Remove
	ReadDir
	MakeDir
	SyncDir
	Lock
	Free
	ops
)

var opNames = [ops]string{"create", "open", "read", "write", "sync", "truncate", "allocate", "close",
	"rename", "remove", "readdir", "makedir", "syncdir", "lock", "free"}

// String is the kind's name.
func (o Op) String() string { return opNames[o] }

// Ops are all kinds.
func Ops() []Op {
	all := make([]Op, ops)
	for i := range all {
		all[i] = Op(i)
	}
	return all
}

// How is how a call fails.
type How uint8

// The ways to fail.
const (
	Before How = iota // nothing is done
	After             // all is done, and an error said all the same; a sync does nothing
	Half              // half is written or read; without an error that is said, with one it is not
)

// ErrPower is the answer to all calls when the power is off.
var ErrPower = errors.New("the power is off")

// sectorBytes is what the disk writes or does not write as one.
const sectorBytes = 512

type fault struct {
	op  Op
	n   int // the call of that kind, counted from New
	how How
	err error
}

// FS is a file system in memory. Any goroutine may use it.
type FS struct {
	mu      sync.Mutex
	calls   [ops]int
	total   int
	faults  []fault
	hits    int
	broken  map[Op]error
	cutAt   int // the power is off from this call on, 0 is never
	life    int // files of earlier lives are closed
	files   map[string]*inode
	durable map[string]*inode
	pending []change // of directories, since they were synced
	dirs    map[string]bool
	locks   map[string]bool
	room    int64 // for all files together, 0 is no bound
}

// inode is a file without its name.
type inode struct {
	data   []byte
	synced []byte
	dirty  map[int]bool // sectors that the disk may have as they are in data or as they are in synced
}

// change is one of a directory.
type change struct {
	from, to string // created: from is empty; removed: to is
	file     *inode
}

// New makes an empty file system.
func New() *FS {
	return &FS{files: map[string]*inode{}, durable: map[string]*inode{}, dirs: map[string]bool{},
		locks: map[string]bool{}, broken: map[Op]error{}}
}

// Fail makes the n-th call of a kind from now on fail, 1 being the next one.
func (f *FS) Fail(op Op, n int, how How, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.faults = append(f.faults, fault{op: op, n: f.calls[op] + n, how: how, err: err})
}

// Break makes all calls of a kind fail until Heal.
func (f *FS) Break(op Op, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.broken[op] = err
}

// Heal ends all faults, and switches the power on.
func (f *FS) Heal() {
	f.mu.Lock()
	defer f.mu.Unlock()
	clear(f.broken)
	f.faults, f.cutAt = nil, 0
}

// Room bounds the bytes of all files together; 0 is no bound. A file that has space
// allocated needs no more of it.
func (f *FS) Room(bytes int64) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room = bytes
}

// Calls is how many calls of a kind there were, and Total of all kinds.
func (f *FS) Calls(op Op) int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.calls[op]
}

// Total is how many calls there were.
func (f *FS) Total() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.total
}

// Hits is how many faults of Fail have happened.
func (f *FS) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

// CutAt switches the power off at the n-th call from now on, 1 being the next one.
func (f *FS) CutAt(n int) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.cutAt = f.total + n
}

// Kill ends the process that uses the file system: its files are closed and its locks
// free, and all it wrote is there.
func (f *FS) Kill() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.life++
	clear(f.locks)
}

// PowerCut ends the process, and leaves of what was not synced what chance will:
// sectors, sizes, and changes of directories.
func (f *FS) PowerCut(chance *rand.Rand) {
	f.Kill()
	f.Heal()
	f.mu.Lock()
	defer f.mu.Unlock()
	coin := func() bool { return chance.IntN(2) == 0 }
	kept := len(f.pending)
	inOrder := coin() // as a file system with a log does
	if inOrder {
		kept = chance.IntN(kept + 1)
	}
	for i, c := range f.pending {
		if i < kept && (inOrder || coin()) {
			f.settle(c)
		}
	}
	f.pending = nil
	f.files = maps.Clone(f.durable)
	for _, name := range slices.Sorted(maps.Keys(f.files)) {
		f.files[name].cut(coin)
	}
}

// cut leaves what the disk has of a file.
func (n *inode) cut(coin func() bool) {
	size := len(n.synced)
	if coin() {
		size = len(n.data)
	}
	left := make([]byte, size)
	copy(left, n.synced)
	for _, s := range slices.Sorted(maps.Keys(n.dirty)) {
		if lo, hi := s*sectorBytes, min((s+1)*sectorBytes, size, len(n.data)); lo < hi && coin() {
			copy(left[lo:hi], n.data[lo:hi])
		}
	}
	n.data, n.synced, n.dirty = left, slices.Clone(left), map[int]bool{}
}

// settle makes a change of a directory durable. f.mu is held.
func (f *FS) settle(c change) {
	if f.durable[c.from] == c.file {
		delete(f.durable, c.from)
	}
	if c.to != "" {
		f.durable[c.to] = c.file
	}
}

// Names are the files that are there.
func (f *FS) Names() []string {
	f.mu.Lock()
	defer f.mu.Unlock()
	return slices.Sorted(maps.Keys(f.files))
}

// Content is what is in a file; nil when it is not there.
func (f *FS) Content(name string) []byte {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := f.files[name]
	if n == nil {
		return nil
	}
	return slices.Clone(n.data)
}

// Put makes a file, durably, or gives it other content.
func (f *FS) Put(name string, content []byte) {
	f.mu.Lock()
	defer f.mu.Unlock()
	n := &inode{data: slices.Clone(content), synced: slices.Clone(content), dirty: map[int]bool{}}
	f.files[name], f.durable[name] = n, n
}

// call counts a call and tells whether it fails. f.mu is held.
func (f *FS) call(op Op) (how How, fails bool, err error) {
	f.calls[op]++
	f.total++
	if f.cutAt > 0 && f.total >= f.cutAt {
		return Before, true, ErrPower
	}
	for _, x := range f.faults {
		if x.op == op && x.n == f.calls[op] {
			f.hits++
			return x.how, true, x.err
		}
	}
	if err := f.broken[op]; err != nil {
		return Before, true, err
	}
	return 0, false, nil
}

// do is a call that is done or not.
func (f *FS) do(op Op, work func() error) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	how, fails, err := f.call(op)
	if fails && how != After {
		return err
	}
	if done := work(); done != nil {
		return done
	}
	return err
}

// grow tells whether there is room for so many bytes more. f.mu is held.
func (f *FS) grow(more int) error {
	used := int64(more)
	for _, n := range f.files {
		used += int64(len(n.data))
	}
	if f.room > 0 && more > 0 && used > f.room {
		return syscall.ENOSPC
	}
	return nil
}

// Create makes a file.
func (f *FS) Create(name string) (journal.File, error) {
	var made *file
	err := f.do(Create, func() error {
		if f.files[name] != nil {
			return fs.ErrExist
		}
		n := &inode{dirty: map[int]bool{}}
		f.files[name] = n
		f.pending = append(f.pending, change{to: name, file: n})
		made = &file{fs: f, inode: n, life: f.life, writable: true}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return made, nil
}

// Open opens a file for reading.
func (f *FS) Open(name string) (journal.File, error) { return f.open(name, false) }

// OpenWrite opens a file for reading and writing.
func (f *FS) OpenWrite(name string) (journal.File, error) { return f.open(name, true) }

func (f *FS) open(name string, writable bool) (journal.File, error) {
	var opened *file
	err := f.do(Open, func() error {
		n := f.files[name]
		if n == nil {
			return fs.ErrNotExist
		}
		opened = &file{fs: f, inode: n, life: f.life, writable: writable}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return opened, nil
}

// Rename gives a file another name.
func (f *FS) Rename(from, to string) error {
	return f.do(Rename, func() error {
		n := f.files[from]
		if n == nil {
			return fs.ErrNotExist
		}
		delete(f.files, from)
		f.files[to] = n
		f.pending = append(f.pending, change{from: from, to: to, file: n})
		return nil
	})
}

// Remove takes a file's name away.
func (f *FS) Remove(name string) error {
	return f.do(Remove, func() error {
		n := f.files[name]
		if n == nil {
			return fs.ErrNotExist
		}
		delete(f.files, name)
		f.pending = append(f.pending, change{from: name, file: n})
		return nil
	})
}

// ReadDir lists a directory.
func (f *FS) ReadDir(dir string) (entries []journal.Entry, err error) {
	err = f.do(ReadDir, func() error {
		if !f.dirs[dir] {
			return fs.ErrNotExist
		}
		for name, n := range f.files {
			if filepath.Dir(name) == dir {
				entries = append(entries, journal.Entry{Name: filepath.Base(name), Bytes: int64(len(n.data))})
			}
		}
		for name := range f.dirs {
			if filepath.Dir(name) == dir {
				entries = append(entries, journal.Entry{Name: filepath.Base(name), Dir: true})
			}
		}
		return nil
	})
	return entries, err
}

// MakeDir makes a directory, durably.
func (f *FS) MakeDir(dir string) error {
	return f.do(MakeDir, func() error {
		f.dirs[dir] = true
		return nil
	})
}

// SyncDir makes durable what a directory has.
func (f *FS) SyncDir(dir string) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, fails, err := f.call(SyncDir); fails {
		return err
	}
	left := f.pending[:0]
	for _, c := range f.pending {
		if filepath.Dir(c.from) == dir || filepath.Dir(c.to) == dir {
			f.settle(c)
		} else {
			left = append(left, c)
		}
	}
	f.pending = left
	return nil
}

// Lock takes a lock.
func (f *FS) Lock(name string) (io.Closer, error) {
	var taken *lock
	err := f.do(Lock, func() error {
		if f.locks[name] {
			return &journal.LockedError{Dir: filepath.Dir(name), PID: 1}
		}
		f.locks[name] = true
		taken = &lock{fs: f, name: name, life: f.life}
		return nil
	})
	if err != nil {
		if taken != nil {
			_ = taken.Close()
		}
		return nil, err
	}
	return taken, nil
}

type lock struct {
	fs   *FS
	name string
	life int
}

// Close gives the lock back.
func (l *lock) Close() error {
	l.fs.mu.Lock()
	defer l.fs.mu.Unlock()
	if l.life == l.fs.life {
		delete(l.fs.locks, l.name)
	}
	return nil
}

// Free is how much room there is.
func (f *FS) Free(string) (free int64, err error) {
	err = f.do(Free, func() error {
		free = f.room
		if free == 0 {
			free = 1 << 40
			return nil
		}
		for _, n := range f.files {
			free -= int64(len(n.data))
		}
		return nil
	})
	return free, err
}

// file is an open file.
type file struct {
	fs       *FS
	inode    *inode
	life     int
	writable bool
	closed   bool
}

// use tells whether the file can be used. fs.mu is held.
func (f *file) use(write bool) error {
	if f.closed || f.life != f.fs.life {
		return fs.ErrClosed
	}
	if write && !f.writable {
		return syscall.EBADF
	}
	return nil
}

// ReadAt reads; Half reads half of it.
func (f *file) ReadAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	how, fails, err := f.fs.call(Read)
	if fails && (how != Half || err != nil) {
		return 0, err
	}
	if err := f.use(false); err != nil {
		return 0, err
	}
	if off >= int64(len(f.inode.data)) {
		return 0, io.EOF
	}
	if fails {
		b = b[:(len(b)+1)/2]
		return copy(b, f.inode.data[off:]), nil
	}
	n := copy(b, f.inode.data[off:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

// WriteAt writes; Half writes half of it.
func (f *file) WriteAt(b []byte, off int64) (int, error) {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	how, fails, err := f.fs.call(Write)
	if fails && how == Before {
		return 0, err
	}
	if err := f.use(true); err != nil {
		return 0, err
	}
	if fails && how == Half {
		b = b[:(len(b)+1)/2]
	}
	if err := f.fs.grow(int(off) + len(b) - len(f.inode.data)); err != nil {
		return 0, err
	}
	n := f.inode
	n.resize(max(int(off)+len(b), len(n.data)))
	copy(n.data[off:], b)
	n.touch(int(off), int(off)+len(b))
	return len(b), err
}

// resize sets the size; what is new is zero.
func (n *inode) resize(size int) {
	if was := len(n.data); size < was {
		clear(n.data[size:])
		n.data = n.data[:size]
		n.touch(size, was)
	} else {
		n.data = append(n.data, make([]byte, size-was)...)
	}
}

// touch marks sectors.
func (n *inode) touch(lo, hi int) {
	for s := lo / sectorBytes; s*sectorBytes < hi; s++ {
		n.dirty[s] = true
	}
}

// Sync makes the file durable. When it fails the kernel drops what it could not write:
// it can still be read, but the next sync does not write it.
func (f *file) Sync() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	_, fails, err := f.fs.call(Sync)
	if err == ErrPower {
		return err
	}
	if err := f.use(false); err != nil {
		return err
	}
	n := f.inode
	if !fails {
		n.synced = append(n.synced[:min(len(n.synced), len(n.data))], make([]byte, max(0, len(n.data)-len(n.synced)))...)
		for s := range n.dirty {
			if lo, hi := s*sectorBytes, min((s+1)*sectorBytes, len(n.data)); lo < hi {
				copy(n.synced[lo:hi], n.data[lo:hi])
			}
		}
	}
	n.dirty = map[int]bool{}
	return err
}

// Truncate sets the size.
func (f *file) Truncate(size int64) error {
	return f.fs.do(Truncate, func() error {
		if err := f.use(true); err != nil {
			return err
		}
		f.inode.resize(int(size))
		return nil
	})
}

// Allocate makes the file larger.
func (f *file) Allocate(size int64) error {
	return f.fs.do(Allocate, func() error {
		if err := f.use(true); err != nil {
			return err
		}
		if err := f.fs.grow(int(size) - len(f.inode.data)); err != nil {
			return err
		}
		f.inode.resize(max(int(size), len(f.inode.data)))
		return nil
	})
}

// Close closes the file; that it fails does not keep it open.
func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	_, _, err := f.fs.call(Close)
	if used := f.use(false); used != nil {
		return used
	}
	f.closed = true
	return err
}
