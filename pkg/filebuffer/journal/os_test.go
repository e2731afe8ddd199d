package journal_test

import (
	"errors"
	"io/fs"
	"os"
	"syscall"
	"testing"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

func TestTheOperatingSystemSaysWhatIsWrong(t *testing.T) {
	t.Parallel()
	at := t.TempDir()
	must(t, os.WriteFile(at+"/file", nil, 0o600))
	f := func(err, want error) {
		t.Helper()
		if !errors.Is(err, want) {
			t.Fatal(err)
		}
	}
	var o journal.OS
	f(o.MakeDir(at+"/file"), syscall.ENOTDIR)
	f(o.MakeDir(at+"/file/below/it"), syscall.ENOTDIR)
	f(o.MakeDir(at), nil)
	f(o.SyncDir(at+"/none"), fs.ErrNotExist)
	f(o.SyncDir(at), nil)
	_, err := o.ReadDir(at + "/none")
	f(err, fs.ErrNotExist)
	_, err = o.Lock(at + "/none/lock")
	f(err, fs.ErrNotExist)
	_, err = o.Open(at + "/none")
	f(err, fs.ErrNotExist)
	_, err = o.Create(at + "/file")
	f(err, fs.ErrExist)
	_, err = o.Free(at + "/none")
	f(err, fs.ErrNotExist)
	free, err := o.Free(at)
	if f(err, nil); free <= 0 {
		t.Fatal(free)
	}
	_, err = journal.Open(journal.Options{Dir: at + "/file"})
	f(err, syscall.ENOTDIR)
}
