package proc

import (
	"io"
	"os"
	"os/exec"
	"testing"
	"time"
)

func TestStatIsReadBehindAnyName(t *testing.T) {
	f := func(line string, want stat) {
		t.Helper()
		got, err := parseStat([]byte(line))
		if err != nil || got != want {
			t.Fatalf("parseStat(%q) = %+v, %v; want %+v", line, got, err, want)
		}
	}
	f("7 (postgres) S 3 7 7 0 -1 4194304 1 2 3 4 100 20 5 6 20 0 1 0 0 0", stat{3, 1200 * time.Millisecond, 110 * time.Millisecond})
	f("7 (a) S 1) b) R 9 7 7 0 -1 4194304 1 2 3 4 1 0 0 0 20 0 1", stat{9, 10 * time.Millisecond, 0})
	for _, bad := range []string{"", "7 (x", "7 (x) S 3 7"} {
		if _, err := parseStat([]byte(bad)); err == nil {
			t.Errorf("parseStat(%q) is no error", bad)
		}
	}
}

func TestSchedstatIsThreeNumbers(t *testing.T) {
	f := func(line string, want time.Duration, ok bool) {
		t.Helper()
		got, err := parseSchedstat([]byte(line))
		if got != want || (err == nil) != ok {
			t.Fatalf("parseSchedstat(%q) = %v, %v", line, got, err)
		}
	}
	f("123456789 5 6\n", 123456789, true)
	f("123456789 5\n", 0, false)
	f("x 5 6\n", 0, false)
}

func TestStatusNumbersAreFoundByTheirWholeName(t *testing.T) {
	status := []byte("Name:\tx\nVmRSS:\t  2048 kB\nvoluntary_ctxt_switches:\t12\nnonvoluntary_ctxt_switches:\t3\n")
	f := func(name string, want uint64) {
		t.Helper()
		if got := statusNumber(status, name); got != want {
			t.Fatalf("%s %d, want %d", name, got, want)
		}
	}
	f("VmRSS:", 2048)
	f("voluntary_ctxt_switches:", 12)
	f("nonvoluntary_ctxt_switches:", 3)
	f("VmSwap:", 0)
}

func TestAThreadThatEndedIsCountedByTheGroup(t *testing.T) {
	before := Sample{threads: map[int]thread{1: {cpu: 5, voluntary: 1}, 2: {cpu: 7, voluntary: 4}}, group: 100}
	after := Sample{threads: map[int]thread{1: {cpu: 9, voluntary: 3}, 3: {cpu: 2, voluntary: 8}}, group: 130}
	if got, want := after.Since(before), (Usage{CPU: 30, Voluntary: 10}); got != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
	delete(before.threads, 2)
	if got, want := after.Since(before), (Usage{CPU: 6, Voluntary: 10}); got != want {
		t.Fatalf("%+v, want %+v", got, want)
	}
}

func TestThisProcessUsesCPUAndMemory(t *testing.T) {
	before, err := Process(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	var after Sample
	for deadline := time.Now().Add(30 * time.Second); after.Since(before).CPU <= 0; {
		if time.Now().After(deadline) {
			t.Fatal("no CPU was used in 30 s of use")
		}
		if after, err = Process(os.Getpid()); err != nil {
			t.Fatal(err)
		}
	}
	if after.RSS <= 0 {
		t.Fatalf("RSS is %d", after.RSS)
	}
}

// A shell that burns CPU in a child of its own, waits for it and ends: the
// tree's account keeps what both used.
func TestATreeKeepsTheCPUOfItsDead(t *testing.T) {
	before, err := TreeCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	burn := `i=0; while [ $i -lt 200000 ]; do i=$((i+1)); done`
	if out, err := exec.Command("/bin/sh", "-c", "("+burn+"); true").CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	after, err := TreeCPU(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if after-before < 2*tick {
		t.Fatalf("a shell counted to 200,000 in %v of CPU", after-before)
	}
}

func TestAProcessThatIsNotThereIsAnError(t *testing.T) {
	if _, err := Process(1 << 30); err == nil {
		t.Error("Process")
	}
	if _, err := TreeCPU(1 << 30); err == nil {
		t.Error("TreeCPU")
	}
}

func TestTheMachineIsDescribed(t *testing.T) {
	if m := ThisMachine(); m.Cores < 1 || m.MemoryBytes <= 0 || m.Kernel == "" || m.Go == "" {
		t.Fatalf("%+v", m)
	}
}

func TestATreeIsSampledWithItsChildren(t *testing.T) {
	child := exec.Command("/bin/sleep", "60")
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = child.Process.Kill()
		_ = child.Wait()
	}()
	tree, err := Tree(os.Getpid())
	if err != nil {
		t.Fatal(err)
	}
	if _, there := tree.threads[child.Process.Pid]; !there || tree.RSS <= 0 {
		t.Fatalf("%d threads, %d bytes", len(tree.threads), tree.RSS)
	}
	if _, err := Tree(1 << 30); err == nil {
		t.Fatal("a tree of nobody")
	}
}

func TestSystemCallsAreCounted(t *testing.T) {
	for name, count := range map[string]func(int) (*Syscalls, error){"perf": countByPerf, "strace": countByStrace} {
		t.Run(name, func(t *testing.T) { countLines(t, count) })
	}
}

func countLines(t *testing.T, begin func(pid int) (*Syscalls, error)) {
	child := exec.Command("/bin/sh", "-c", "read x; i=0; while [ $i -lt 100 ]; do echo; i=$((i+1)); done; echo; read x")
	in, err := child.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		in.Close()
		_ = child.Wait()
	}()
	count, err := begin(child.Process.Pid)
	if err != nil {
		t.Skipf("the kernel does not let us count system calls, which is said in a report too: %v", err)
	}
	if _, err := in.Write([]byte("\n")); err != nil {
		t.Fatal(err)
	}
	if _, err := io.ReadFull(out, make([]byte, 101)); err != nil {
		t.Fatal(err)
	}
	n, err := count.Stop()
	if err != nil || n < 101 || n > 2000 || count.How() == "" {
		t.Fatalf("101 lines were written with %d system calls, %v", n, err)
	}
}

func TestStracesTotalIsRead(t *testing.T) {
	f := func(table string, want uint64, ok bool) {
		t.Helper()
		if got, err := parseStrace([]byte(table)); got != want || (err == nil) != ok {
			t.Fatalf("%q: %d, %v", table, got, err)
		}
	}
	f("% time     seconds  usecs/call     calls    errors syscall\n  0.21    0.000005           5         1           read\n100.00    0.002351          29        81         1 total\n", 81, true)
	f("100.00    0.002351          29        81           total\n", 81, true)
	f("", 0, false)
}
