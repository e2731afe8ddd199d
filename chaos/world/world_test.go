package world

import (
	"bytes"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"testing"
	"time"
)

// neverHangs bounds what a test waits for. It is not a measurement.
const neverHangs = 2 * time.Minute

// What only root may do is tried where it may be done.
func asRoot(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Skipf("not on this machine: %v", err)
	}
}

func TestACutWireLosesEverythingWithoutAWord(t *testing.T) {
	w, err := MakeWire()
	asRoot(t, err)
	defer w.Remove()
	client, err := net.DialTimeout("tcp", w.Listener.Addr().String(), neverHangs)
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	server, err := w.Listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	if err := w.Cut(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Write([]byte("lost")); err != nil {
		t.Errorf("the client notices: %v", err)
	}
	_ = server.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := server.Read(make([]byte, 4)); n > 0 || !os.IsTimeout(err) {
		t.Errorf("%d bytes arrive, %v", n, err)
	}
	if err := w.Mend(); err != nil {
		t.Fatal(err)
	}
	_ = server.SetReadDeadline(time.Now().Add(neverHangs))
	if n, err := server.Read(make([]byte, 4)); n != 4 || err != nil {
		t.Errorf("%d bytes arrive, %v", n, err)
	}
}

// What a process has dialled itself, and what listens, is not counted.
func TestConnectionsThatOthersMadeAreCounted(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	before := Process(os.Getpid())
	for range 3 {
		client, err := net.DialTimeout("tcp", listener.Addr().String(), neverHangs)
		if err != nil {
			t.Fatal(err)
		}
		defer client.Close()
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
	}
	now := Process(os.Getpid())
	if now.Accepted-before.Accepted != 3 || now.Descriptors-before.Descriptors != 6 {
		t.Errorf("%+v, then %+v", before, now)
	}
}

func TestACutOfThePowerLosesWhatWasNotSynced(t *testing.T) {
	w := &World{Dir: t.TempDir()}
	m, err := w.MakeImage()
	asRoot(t, err)
	defer m.Remove()
	write := func(name string, sync bool) {
		t.Helper()
		file, err := os.Create(filepath.Join(m.Dir, name))
		if err != nil {
			t.Fatal(err)
		}
		defer file.Close()
		if _, err := file.WriteString("text"); err != nil {
			t.Fatal(err)
		}
		if !sync {
			return
		}
		dir, err := os.Open(m.Dir)
		if err != nil {
			t.Fatal(err)
		}
		defer dir.Close()
		for _, f := range []*os.File{file, dir} {
			if err := f.Sync(); err != nil {
				t.Fatal(err)
			}
		}
	}
	write("kept", true)
	write("lost", false)
	if err := m.Snapshot(); err != nil {
		t.Fatal(err)
	}
	write("later", true)
	if err := m.Cut(); err != nil {
		t.Fatal(err)
	}
	if text, err := os.ReadFile(filepath.Join(m.Dir, "kept")); string(text) != "text" || err != nil {
		t.Errorf("what was synced is %q, %v", text, err)
	}
	if text, _ := os.ReadFile(filepath.Join(m.Dir, "lost")); len(text) > 0 {
		t.Errorf("what was not synced is %q", text)
	}
	if _, err := os.Stat(filepath.Join(m.Dir, "later")); err == nil {
		t.Error("there is a file that was made after the cut")
	}
}

func TestADiskIsFullAndGetsLarger(t *testing.T) {
	w := &World{Dir: t.TempDir()}
	d, err := w.MakeDisk(64 << 10)
	asRoot(t, err)
	defer d.Remove()
	path := filepath.Join(d.Dir, "file")
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 100<<10), 0o600); err == nil {
		t.Error("more fits than there is space for")
	}
	if err := d.Resize(256 << 10); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, bytes.Repeat([]byte("x"), 100<<10), 0o600); err != nil {
		t.Error(err)
	}
}

// victim is a process that writes to a file until it cannot.
func victim(t *testing.T, path string) *exec.Cmd {
	t.Helper()
	cmd := exec.Command("/bin/sh", "-c", `while sleep 0.01; do echo line >>"$0" || exit 3; done`, path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _ = cmd.Wait() })
	return cmd
}

func TestASystemCallFails(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	cmd := victim(t, path)
	end, err := Inject(cmd.Process.Pid, []string{path}, "write:error=ENOSPC:when=2")
	asRoot(t, err)
	defer end()
	if err := cmd.Wait(); cmd.ProcessState.ExitCode() != 3 && cmd.ProcessState.ExitCode() != 2 {
		t.Errorf("it ended with %v", err)
	}
}

func TestAFileGetsNoLonger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	cmd := victim(t, path)
	if err := LimitFiles(cmd.Process.Pid, 12); err != nil {
		t.Fatal(err)
	}
	_ = cmd.Wait() // SIGXFSZ ends a shell
	if info, err := os.Stat(path); err == nil && info.Size() > 12 && info.Size()%5 != 0 {
		t.Errorf("the file has %d bytes, %v", info.Size(), err)
	}
}

func TestAStoppedProcessStandsStill(t *testing.T) {
	cmd := victim(t, filepath.Join(t.TempDir(), "file"))
	if err := cmd.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	if err := StandsStill(cmd.Process.Pid); err != nil {
		t.Error(err)
	}
}
