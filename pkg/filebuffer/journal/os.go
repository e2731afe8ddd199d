package journal

import (
	"errors"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// OS is the operating system's file system, Linux's.
type OS struct{}

// Create makes a file.
func (OS) Create(name string) (File, error) {
	return open(name, os.O_RDWR|os.O_CREATE|os.O_EXCL)
}

// Open opens a file for reading.
func (OS) Open(name string) (File, error) { return open(name, os.O_RDONLY) }

// OpenWrite opens a file for reading and writing.
func (OS) OpenWrite(name string) (File, error) { return open(name, os.O_RDWR) }

func open(name string, flag int) (File, error) {
	f, err := os.OpenFile(name, flag, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename is rename(2).
func (OS) Rename(from, to string) error { return os.Rename(from, to) }

// Remove is unlink(2).
func (OS) Remove(name string) error { return os.Remove(name) }

// ReadDir lists a directory; what vanishes meanwhile is left out.
func (OS) ReadDir(dir string) ([]Entry, error) {
	found, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	entries := make([]Entry, 0, len(found))
	for _, e := range found {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		entries = append(entries, Entry{Name: e.Name(), Bytes: info.Size(), Dir: e.IsDir()})
	}
	return entries, nil
}

// MakeDir makes a directory and those above it, and syncs what each is made in.
func (o OS) MakeDir(dir string) error {
	info, err := os.Stat(dir)
	if err == nil && !info.IsDir() {
		return &fs.PathError{Op: "mkdir", Path: dir, Err: unix.ENOTDIR}
	}
	if err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	above := filepath.Dir(dir)
	if above != dir {
		if err := o.MakeDir(above); err != nil {
			return err
		}
	}
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return o.SyncDir(above)
}

// SyncDir is fsync(2) of the directory.
func (OS) SyncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// Lock takes flock(2) of the file, and writes our process id into it.
func (OS) Lock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	err = retry(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		if errors.Is(err, unix.EWOULDBLOCK) {
			err = &LockedError{Dir: filepath.Dir(name), PID: holder(f)}
		}
		return nil, errors.Join(err, f.Close())
	}
	// The number only serves the sentence that another process says; without it the
	// lock is as good.
	if f.Truncate(0) == nil {
		_, _ = f.WriteAt([]byte(strconv.Itoa(os.Getpid())+"\n"), 0)
	}
	return f, nil
}

// holder is the process id in a lock file, 0 when there is none.
func holder(f *os.File) int {
	var b [16]byte
	n, _ := f.ReadAt(b[:], 0)
	pid, err := strconv.Atoi(strings.TrimSpace(string(b[:n])))
	if err != nil {
		return 0
	}
	return pid
}

// Free is what statfs(2) says that we may use.
func (OS) Free(dir string) (int64, error) {
	var s unix.Statfs_t
	err := retry(func() error { return unix.Statfs(dir, &s) })
	return int64(s.Bavail) * s.Bsize, err
}

// osFile is a file of the operating system.
type osFile struct{ *os.File }

// Sync is fdatasync(2): all that is needed to read the data again, the size too.
func (f osFile) Sync() error {
	return retry(func() error { return unix.Fdatasync(int(f.Fd())) })
}

// Allocate is fallocate(2).
func (f osFile) Allocate(size int64) error {
	return retry(func() error { return unix.Fallocate(int(f.Fd()), 0, 0, size) })
}

// retry repeats a call that a signal interrupted.
func retry(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}
