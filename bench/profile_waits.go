package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"text/tabwriter"
	"time"

	"golang.org/x/sys/unix"

	"github.com/queend/queend/bench/proc"
)

// The view of what is not on a CPU has two halves, since neither tells all. The kernel
// knows exactly how long each thread ran, waited for a CPU, and slept, and in which system
// call, but not for whom: goroutines change their threads. Go's execution trace knows what
// each goroutine waited for and where in the code, but its recording costs the server some
// of the very time that it measures.
//
// Nothing here needs a privilege: threads are a child's of ours in /proc, the trace is
// the server's own. (perf and eBPF would show both halves in one, where they are allowed.)

// traceSecondsMax bounds the trace: a second under load is some tens of megabytes.
const traceSecondsMax = 2

// traceFile is the trace, in the directory.
const traceFile = "trace.out"

// watchWaits looks at the threads during the first half of the load, and then records a
// trace.
func watchWaits(ctx context.Context, w *watched) error {
	window := time.Duration(w.o.seconds) * time.Second
	trace := min(window/2, traceSecondsMax*time.Second)
	threads, err := proc.Watch(ctx, w.pid, window-trace-window/10, 5*time.Millisecond)
	if err != nil {
		return fmt.Errorf("cannot look at the server's threads: %w", err)
	}
	w.threads = threads
	return w.fetch(ctx, fmt.Sprintf("trace?seconds=%g", trace.Seconds()), traceFile)
}

// goWaits are the profiles that a trace can be made into.
var goWaits = []struct{ kind, title string }{
	{"syscall", "in system calls. Of loops, epoll_wait is their rest: nothing is to be done"},
	{"net", "for the network, as goroutines do: the pool for PostgreSQL. Loops must not be here"},
	{"sync", "for each other: channels, locks, conditions. Loops must not be here"},
	{"sched", "for a processor, although they could run: what goroutines lose by being woken"},
}

func writeWaits(ctx context.Context, w *watched) error {
	w.writeThreads()
	for _, g := range goWaits {
		file := "waits-" + g.kind + ".pprof"
		cmd := exec.CommandContext(ctx, "go", "tool", "trace", "-pprof="+g.kind, filepath.Join(w.out, traceFile))
		out, err := cmd.Output()
		if err != nil {
			return fmt.Errorf("cannot read the trace: %w", err)
		}
		if err := os.WriteFile(filepath.Join(w.out, file), out, 0o644); err != nil {
			return err
		}
		fmt.Fprintf(w.text, "\nGoroutines waited %s:\n", g.title)
		if err := w.pprofTop(ctx, file, "-sample_index=delay", "-cum", fmt.Sprintf("-nodecount=%d", max(w.o.lines/2, 1))); err != nil {
			return err
		}
	}
	fmt.Fprintf(w.text, "\nThe whole trace, to look at: go tool trace %s\n", filepath.Join(w.out, traceFile))
	return nil
}

// writeThreads writes a line for each thread that did anything, those that ran most first.
func (w *watched) writeThreads() {
	all := slices.DeleteFunc(slices.Clone(w.threads), func(t proc.Thread) bool { return t.Running+t.Ready == 0 })
	slices.SortFunc(all, func(a, b proc.Thread) int { return int(b.Running - a.Running) })
	fmt.Fprintf(w.text, "\nThreads, by the kernel, before anything was recorded (%d; %d more slept all the time):\n", len(all), len(w.threads)-len(all))
	table := tabwriter.NewWriter(w.text, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "thread\ton a CPU\twaits for one\tsleeps\tgives up /s\tis made to /s\t  sleeps in\t")
	for _, t := range all {
		share := func(d time.Duration) float64 { return 100 * d.Seconds() / t.Watched.Seconds() }
		rate := func(n uint64) float64 { return float64(n) / t.Watched.Seconds() }
		fmt.Fprintf(table, "%d\t%.1f %%\t%.1f %%\t%.1f %%\t%.0f\t%.0f\t  %s\t\n", t.ID, share(t.Running), share(t.Ready),
			max(0, 100-share(t.Running)-share(t.Ready)), rate(t.Voluntary), rate(t.Involuntary), sleeps(t.Sleeps))
	}
	_ = table.Flush() // to memory and a file; a full disk is noticed when that is closed
}

// sleeps names the system calls that a thread was seen asleep in, the most frequent first.
func sleeps(seen map[int]int) (text string) {
	total := 0
	var calls []int
	for call, n := range seen {
		total += n
		calls = append(calls, call)
	}
	slices.SortFunc(calls, func(a, b int) int { return seen[b] - seen[a] })
	for i, call := range calls {
		if i > 0 {
			text += ", "
		}
		name, ok := callNames[call]
		if !ok {
			name = fmt.Sprint("system call ", call)
		}
		text += fmt.Sprintf("%s %.0f %%", name, 100*float64(seen[call])/float64(total))
	}
	return text
}

// callNames are the system calls that a server sleeps in.
var callNames = map[int]string{
	unix.SYS_EPOLL_PWAIT: "epoll_wait", unix.SYS_FUTEX: "futex", unix.SYS_NANOSLEEP: "nanosleep", unix.SYS_FDATASYNC: "fdatasync",
	unix.SYS_READ: "read", unix.SYS_WRITE: "write", unix.SYS_SENDTO: "sendto", unix.SYS_RECVFROM: "recvfrom", unix.SYS_ACCEPT4: "accept",
	unix.SYS_RT_SIGTIMEDWAIT: "rt_sigtimedwait", proc.SleepsElsewhere: "no system call",
}
