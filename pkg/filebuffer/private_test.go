package filebuffer

import (
	"bytes"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestTheDirectoryIsForItsOwnerAlone(t *testing.T) {
	const (
		nothing = ""
		info    = "now it is for its owner alone"
		warn    = "other users of this machine have rights"
	)
	f := func(name string, mode, want fs.FileMode, says string, there ...string) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			var log bytes.Buffer
			w := emptyWorld(t, func(o *Options) { o.Log = zerolog.New(zerolog.SyncWriter(&log)) })
			for _, file := range there {
				w.queensBytes(file, nil)
			}
			if err := os.Chmod(w.dir, mode); err != nil {
				t.Fatal(err)
			}
			w.boot(1)
			at, err := os.Stat(w.dir)
			if err != nil || at.Mode()&^fs.ModeDir != want {
				w.errorf("%s: it is %v, not %v: %v", name, at.Mode(), want, err)
			}
			for _, sentence := range []string{info, warn} {
				if strings.Contains(log.String(), sentence) != (says == sentence) {
					w.errorf("%s: it says %s", name, log.String())
				}
			}
			w.drain()
			return w.ended()
		})
	}
	f("one that was made by us", 0o700, 0o700, nothing)
	f("an empty one", 0o755, 0o700, info)
	f("one that its group can list", 0o710, 0o700, info)
	f("one of the two", 0o755, 0o700, info, "lock", "position", "poison.jsonl", "00000000000000000001.queend", "taken/x", "failed/y", "quarantine/z",
		"failover_"+queensName(0)+".buf.tmp", "lost+found/x")
	f("one with something else in it", 0o755, 0o755, warn, "notes.txt")
	f("one like /tmp", fs.ModeSticky|0o777, fs.ModeSticky|0o777, warn)
	f("one of a group", fs.ModeSetgid|0o770, fs.ModeSetgid|0o770, warn)
	f("one that is shared but closed", fs.ModeSticky|0o700, fs.ModeSticky|0o700, nothing, "notes.txt")
}

func TestTheDirectoryOfAnotherUserStaysAsItIs(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("only root can give a directory away")
	}
	bubble(t, func(t *testing.T) *world {
		var log bytes.Buffer
		w := emptyWorld(t, func(o *Options) { o.Log = zerolog.New(zerolog.SyncWriter(&log)) })
		if err := errors.Join(os.Chmod(w.dir, 0o755), os.Chown(w.dir, 4711, 4711)); err != nil {
			t.Fatal(err)
		}
		w.boot(1)
		if at, err := os.Stat(w.dir); err != nil || at.Mode().Perm() != 0o755 || !strings.Contains(log.String(), "it is another user's") {
			w.errorf("%v %v: %s", at, err, log.String())
		}
		w.drain()
		return w.ended()
	})
}

// Those in it are made for their owner alone, and are so where others have made them.
func TestTheDirectoriesInItAreForTheirOwnerAlone(t *testing.T) {
	bubble(t, func(t *testing.T) *world {
		w := emptyWorld(t)
		w.queens("failed/failover_"+queensName(0)+".buf", w.event(0))
		w.queens("quarantine/x")
		w.queens("failover_"+queensName(1)+".buf", w.event(1))
		w.boot(1)
		w.drain()
		w.quiet()
		for _, name := range []string{"taken", "failed", "quarantine"} {
			if at, err := os.Stat(filepath.Join(w.dir, name)); err != nil || at.Mode().Perm() != 0o700 {
				w.errorf("%s: %v %v", name, at, err)
			}
		}
		return w.ended()
	})
}
