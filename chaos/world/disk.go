package world

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
)

// The disks of this file are mounts, which only root may make. MakeDisk and MakeImage say
// so by an error; then the machine does not let us, and that is no verdict on queend.

var mounts atomic.Int64

// Disk is a small file system in memory (tmpfs(5)).
type Disk struct{ Dir string }

// MakeDisk mounts one of so many bytes.
func (w *World) MakeDisk(bytes int) (*Disk, error) {
	dir := filepath.Join(w.Dir, fmt.Sprintf("disk-%d", mounts.Add(1)))
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := tool("mount", "-t", "tmpfs", "-o", fmt.Sprintf("size=%d,mode=0700", bytes), "tmpfs", dir); err != nil {
		_ = os.Remove(dir)
		return nil, err
	}
	return &Disk{dir}, nil
}

// Resize gives it another size.
func (d *Disk) Resize(bytes int) error {
	return tool("mount", "-o", fmt.Sprintf("remount,size=%d", bytes), d.Dir)
}

// Remove unmounts it.
func (d *Disk) Remove() {
	_ = tool("umount", "-l", d.Dir)
	_ = os.Remove(d.Dir)
}

// Image is an ext4 file system in a file, as a disk whose power can be cut: what was not
// written to the file by then is gone.
type Image struct {
	Dir  string // where it is mounted, always the same
	path string
	cuts int
}

// imageBytes is the size of one; its file has holes.
const imageBytes = 64 << 20

// MakeImage makes one and mounts it.
func (w *World) MakeImage() (*Image, error) {
	base := filepath.Join(w.Dir, fmt.Sprintf("image-%d", mounts.Add(1)))
	m := &Image{Dir: base, path: base + ".img"}
	file, err := os.Create(m.path)
	if err != nil {
		return nil, err
	}
	if err := file.Truncate(imageBytes); err != nil {
		return nil, err
	}
	if err := file.Close(); err != nil {
		return nil, err
	}
	if err := tool("mkfs.ext4", "-q", "-F", m.path); err != nil {
		return nil, err
	}
	if err := os.Mkdir(m.Dir, 0o700); err != nil {
		return nil, err
	}
	if err := m.mount(); err != nil {
		return nil, err
	}
	return m, nil
}

func (m *Image) mount() error { return tool("mount", "-o", "loop", m.path, m.Dir) }

// Snapshot copies what is on the disk now. Whoever writes to it should stand still; the
// kernel may write on its own, so that it is copied again until it has not changed
// meanwhile.
func (m *Image) Snapshot() error {
	for range 100 {
		if err := copySparse(m.path, m.next()); err != nil {
			return err
		}
		same, err := equal(m.path, m.next())
		if same || err != nil {
			return err
		}
	}
	return fmt.Errorf("%s changes all the time", m.path)
}

func (m *Image) next() string {
	return fmt.Sprintf("%s.%d", strings.TrimSuffix(m.path, ".img"), m.cuts) + ".next"
}

// Cut puts the snapshot in place of the disk, where it was. Nobody may use it meanwhile.
func (m *Image) Cut() error {
	if err := tool("umount", m.Dir); err != nil {
		return err
	}
	if err := os.Rename(m.next(), m.path); err != nil {
		return err
	}
	m.cuts++
	return m.mount()
}

// Remove unmounts it.
func (m *Image) Remove() {
	_ = tool("umount", "-l", m.Dir)
	_ = os.Remove(m.Dir)
	_ = os.Remove(m.path)
	_ = os.Remove(m.next())
}

// copySparse copies a file and leaves out its zeros.
func copySparse(from, to string) error {
	source, err := os.Open(from)
	if err != nil {
		return err
	}
	defer source.Close()
	target, err := os.Create(to)
	if err != nil {
		return err
	}
	defer target.Close()
	block, zeros := make([]byte, 64<<10), make([]byte, 64<<10)
	var at int64
	for {
		n, err := io.ReadFull(source, block)
		if n > 0 && string(block[:n]) != string(zeros[:n]) {
			if _, err := target.WriteAt(block[:n], at); err != nil {
				return err
			}
		}
		at += int64(n)
		if err == io.EOF || err == io.ErrUnexpectedEOF {
			return target.Truncate(at)
		}
		if err != nil {
			return err
		}
	}
}

// equal says that two files are.
func equal(a, b string) (bool, error) {
	x, err := os.ReadFile(a)
	if err != nil {
		return false, err
	}
	y, err := os.ReadFile(b)
	return err == nil && bytes.Equal(x, y), err
}

// tool runs a program of the machine.
func tool(name string, args ...string) error {
	cmd := exec.Command(name, args...)
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/sbin:/sbin", "LC_ALL=C"}
	if text, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(args, " "), err, strings.TrimSpace(string(text)))
	}
	return nil
}
