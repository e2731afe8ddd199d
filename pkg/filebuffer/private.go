package filebuffer

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
)

// private has the buffer's directory, and those in it, for their owner alone: Queen's server
// makes its own for everyone to look into. One that is not there for the buffer alone, or is
// not ours, stays as it is: somebody may have meant it so, and hears what that means.
func (b *Buffer) private() {
	dir := b.o.Dir
	info, err := os.Stat(dir)
	if err != nil || !b.closeOff(dir, info, isAlone(dir)) {
		return
	}
	for _, name := range []string{takenDir, "quarantine", "failed"} {
		path := filepath.Join(dir, name)
		if info, err := os.Lstat(path); err == nil && info.IsDir() {
			b.closeOff(path, info, true)
		}
	}
}

// closeOff takes the rights of others on a directory away, if it is ours to do so. It says
// whether they have none.
func (b *Buffer) closeOff(dir string, info fs.FileInfo, alone bool) bool {
	mode := info.Mode()
	if mode.Perm()&0o077 == 0 {
		return true
	}
	why := "it has files that are not the buffer's"
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !ok || int(stat.Uid) != os.Geteuid():
		why = "it is another user's"
	case mode&(fs.ModeSticky|fs.ModeSetgid) != 0:
		why = "it is set up to be shared"
	case alone:
		err := os.Chmod(dir, 0o700)
		if err == nil {
			b.o.Log.Info().Str("dir", dir).Stringer("mode", mode).Msg("other users could look into this directory of the file buffer; now it is for its owner alone")
			return true
		}
		why = err.Error()
	}
	b.o.Log.Warn().Str("dir", dir).Stringer("mode", mode).Str("because", why).
		Msg("other users of this machine have rights on the file buffer's directory, which stays as it is. What queend writes there only its owner can read, but Queen's files may be for everyone, and who can write there can remove messages; FILE_BUFFER_DIR is best a directory of its own")
	return false
}

// isAlone says whether a directory has nothing but what the buffer, or Queen's, puts there.
func isAlone(dir string) bool {
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false
	}
	for _, e := range entries {
		if !isOurs(e.Name()) {
			return false
		}
	}
	return true
}

func isOurs(name string) bool {
	switch name {
	case "lock", "position", "quarantine", "failed", takenDir, PoisonFile, "lost+found":
		return true
	}
	return isQueens(name) || strings.HasSuffix(name, ".queend") || strings.HasSuffix(name, ".queend.tmp")
}
