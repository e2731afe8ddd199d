package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"syscall"
)

// owner is the user that the server runs as and that its files belong to.
type owner struct {
	name     string
	uid, gid int
	switched bool // another one than we are
}

// chooseOwner: ourselves, unless we are root, whom initdb and postgres refuse.
// Then it is the user that PostgreSQL's packages make, or else nobody. It must
// have a name, which initdb looks up.
func chooseOwner() (owner, error) {
	if os.Geteuid() != 0 {
		name := strconv.Itoa(os.Geteuid())
		if me, err := user.Current(); err == nil {
			name = me.Username
		}
		return owner{name: name, uid: os.Geteuid(), gid: os.Getegid()}, nil
	}
	for _, name := range []string{"postgres", "nobody"} {
		found, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errUid := strconv.Atoi(found.Uid)
		gid, errGid := strconv.Atoi(found.Gid)
		if errUid == nil && errGid == nil && uid != 0 {
			return owner{name: name, uid: uid, gid: gid, switched: true}, nil
		}
	}
	return owner{}, errors.New("PostgreSQL does not run as root and there is no user named postgres or nobody to run it as: start queend as another user")
}

// command prepares a program that runs as the owner, in a session of its own (a
// Ctrl-C on the terminal is queend's to answer) and with nothing of our
// environment but the PATH: PGDATA, PGPORT, LC_ALL and their like are settings.
func (o owner) command(program string, args ...string) *exec.Cmd {
	cmd := exec.Command(program, args...)
	cmd.Dir = "/"
	cmd.Env = []string{"PATH=" + os.Getenv("PATH") + ":/usr/bin:/bin", "LC_ALL=C"}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if o.switched {
		cmd.SysProcAttr.Credential = &syscall.Credential{Uid: uint32(o.uid), Gid: uint32(o.gid)}
	}
	return cmd
}

// makeDir makes a directory that only the owner can enter, and looks that it can
// get there.
func (o owner) makeDir(path string) error {
	made := false
	if _, err := os.Stat(path); errors.Is(err, os.ErrNotExist) {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("cannot make %s: %w", filepath.Dir(path), err)
		}
		if err := os.Mkdir(path, 0o700); err != nil {
			return fmt.Errorf("cannot make %s: %w", path, err)
		}
		made = true
	}
	info, err := os.Lstat(path)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", path, err)
	}
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		panic("BUG: a file without an owner")
	}
	// A symbolic link is followed by the ones above it in the path, not here: who
	// can replace it would choose what we give away.
	if !info.IsDir() {
		return fmt.Errorf("cannot use %s for PostgreSQL: it is not a directory", path)
	}
	if uid(status) != o.uid && uid(status) != os.Geteuid() {
		return fmt.Errorf("cannot use %s for PostgreSQL: it belongs to uid %d", path, uid(status))
	}
	// What others use already is not ours to close or to give away.
	if !made && (uid(status) != o.uid || info.Mode().Perm()&0o077 != 0) && !empty(path) {
		return fmt.Errorf("cannot use %s for PostgreSQL: it is not empty, and not closed to all but user %s; choose another directory", path, o.name)
	}
	if err := os.Chmod(path, 0o700); err != nil {
		return fmt.Errorf("cannot close %s to others: %w", path, err)
	}
	if o.switched {
		if err := os.Lchown(path, o.uid, o.gid); err != nil {
			return fmt.Errorf("cannot give %s to user %s: %w", path, o.name, err)
		}
	}
	return o.reach(path)
}

func uid(status *syscall.Stat_t) int { return int(status.Uid) }

func empty(path string) bool {
	entries, err := os.ReadDir(path)
	return err == nil && len(entries) == 0
}

// openFile opens or makes a file that only the owner can use. It follows no link:
// the directory is the owner's, who could point it at a file of root's.
func (o owner) openFile(path string, flags int) (*os.File, error) {
	file, err := os.OpenFile(path, flags|os.O_CREATE|syscall.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, fmt.Errorf("cannot open %s: %w", path, err)
	}
	if o.switched {
		if err := file.Chown(o.uid, o.gid); err != nil {
			file.Close()
			return nil, fmt.Errorf("cannot give %s to user %s: %w", path, o.name, err)
		}
	}
	return file, nil
}

// writeFile replaces a file that only the owner can read.
func (o owner) writeFile(path string, content []byte) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("cannot replace %s: %w", path, err)
	}
	file, err := o.openFile(path, os.O_WRONLY|os.O_EXCL)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(content); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	if err := file.Sync(); err != nil {
		return fmt.Errorf("cannot write %s: %w", path, err)
	}
	return file.Close()
}

// reach looks whether the owner can pass the directories above path: root can,
// and would not notice.
func (o owner) reach(path string) error {
	if !o.switched {
		return nil
	}
	real, err := filepath.EvalSymlinks(path)
	if err != nil {
		return fmt.Errorf("cannot use %s: %w", path, err)
	}
	for dir := filepath.Dir(real); dir != "/"; dir = filepath.Dir(dir) {
		info, err := os.Stat(dir)
		if err != nil {
			return fmt.Errorf("cannot use %s: %w", path, err)
		}
		status, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			panic("BUG: a file without an owner")
		}
		pass := info.Mode().Perm()&0o001 != 0
		if int(status.Gid) == o.gid {
			pass = info.Mode().Perm()&0o010 != 0
		}
		if int(status.Uid) == o.uid {
			pass = info.Mode().Perm()&0o100 != 0
		}
		if !pass {
			return fmt.Errorf("PostgreSQL runs as user %s, who cannot pass %s to reach %s: choose another directory", o.name, dir, path)
		}
	}
	return nil
}
