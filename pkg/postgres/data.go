package postgres

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// binaries chooses the binaries: those of the data directory's version if there
// is one, since PostgreSQL reads no other major version's files.
func (s *Server) binaries() (string, error) {
	written := 0
	if text, err := os.ReadFile(filepath.Join(s.dataDir(), "PG_VERSION")); err == nil {
		written, _ = strconv.Atoi(strings.TrimSpace(string(text)))
	}
	if s.options.Bin != "" {
		version, err := versionOf(s.options.Bin)
		if err != nil {
			return "", err
		}
		s.version = version
	} else {
		found, err := findVersion(written)
		if err != nil {
			return "", err
		}
		s.options.Bin, s.version = found.Dir, found.Version
	}
	if written != 0 && written != s.version {
		return "", fmt.Errorf("%s was written by PostgreSQL %d and the binaries in %s are version %d: install version %d, or move the directory away",
			s.dataDir(), written, s.options.Bin, s.version, written)
	}
	return s.options.Bin, nil
}

// initialise makes the data directory at the first start. It is made under
// another name and renamed when it is whole: what an interrupted initdb leaves
// is never taken for data.
func (s *Server) initialise(ctx context.Context, bin string, last *os.File) error {
	if _, err := os.Stat(filepath.Join(s.dataDir(), "PG_VERSION")); err == nil {
		return nil
	}
	s.options.Log("making PostgreSQL's data directory " + s.dataDir())
	password := filepath.Join(s.options.Dir, "password")
	if err := s.owner.writeFile(password, []byte(rand.Text()+"\n")); err != nil {
		return err
	}
	half := s.dataDir() + ".new"
	// Names sort by their bytes, on every machine and after every upgrade of its C
	// library. A machine without the character classes of C.UTF-8 does with C's.
	var err error
	for _, ctype := range []string{"C.UTF-8", "C"} {
		if err := os.RemoveAll(half); err != nil {
			return fmt.Errorf("cannot remove a half-made data directory: %w", err)
		}
		command := []string{filepath.Join(bin, "initdb"), "-D", half, "--username=" + User,
			"--auth-local=trust", "--auth-host=scram-sha-256", "--pwfile=" + password, "--data-checksums",
			"--encoding=UTF8", "--lc-collate=C", "--lc-ctype=" + ctype, "--lc-messages=C"}
		if s.options.Settings["fsync"] == "off" {
			command = append(command, "--no-sync")
		}
		if s.version >= 14 {
			command = append(command, "--no-instructions") // how to start it without us
		}
		var r *run
		if r, err = s.supervise(last, command...); err != nil {
			return err
		}
		if err = r.waitUntil(ctx); err == nil || ctx.Err() != nil {
			break
		}
	}
	if err != nil {
		return fmt.Errorf("cannot make PostgreSQL's data directory: %w; the end of %s says: %s", err, s.LogPath(), s.logTail())
	}
	if err := os.Rename(half, s.dataDir()); err != nil {
		return fmt.Errorf("cannot put PostgreSQL's data directory in place: %w", err)
	}
	return syncDir(s.options.Dir)
}

func syncDir(path string) error {
	dir, err := os.Open(path)
	if err != nil {
		return err
	}
	defer dir.Close()
	return dir.Sync()
}

// removeStalePid removes a postmaster.pid whose pid has since been given to
// somebody else, which PostgreSQL itself would take for a running server (it
// happens whenever a container starts again). It is called under both locks, so
// only a server that somebody started by hand can be there: that one is refused.
// A pid that belongs to nobody is left to PostgreSQL, which then also looks
// whether the old shared memory is still in use.
func removeStalePid(data string) error {
	pid, _ := readPidFile(data)
	if pid <= 0 || errors.Is(syscall.Kill(pid, 0), syscall.ESRCH) {
		return nil
	}
	if worksIn(pid, data) {
		return fmt.Errorf("a PostgreSQL that queend did not start, pid %d, runs in %s: stop it first", pid, data)
	}
	if err := os.Remove(filepath.Join(data, "postmaster.pid")); err != nil {
		return fmt.Errorf("cannot remove a stale postmaster.pid: %w", err)
	}
	return nil
}

// worksIn says whether a process is a PostgreSQL of that data directory: each of
// them makes it its working directory. (stat follows the link for us: no race with
// a pid that ends in between.)
func worksIn(pid int, data string) bool {
	at, errAt := os.Stat(fmt.Sprintf("/proc/%d/cwd", pid))
	is, errIs := os.Stat(data)
	return errAt == nil && errIs == nil && os.SameFile(at, is)
}

// readPidFile reads the pid and the state from postmaster.pid; 0 if there is none.
func readPidFile(data string) (pid int, status string) {
	text, err := os.ReadFile(filepath.Join(data, "postmaster.pid"))
	if err != nil {
		return 0, ""
	}
	lines := strings.Split(string(text), "\n")
	pid, _ = strconv.Atoi(strings.TrimSpace(lines[0]))
	if len(lines) > 7 {
		status = strings.TrimSpace(lines[7])
	}
	return pid, status
}
