package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"strconv"
	"time"
)

// Thread is what one thread did while it was watched.
type Thread struct {
	ID                     int
	Watched                time.Duration // between the first and the last time that it was seen
	Running, Ready         time.Duration // on a CPU; waiting for one
	Voluntary, Involuntary uint64        // context switches
	Sleeps                 map[int]int   // times that it was found asleep, by the number of its system call
}

// SleepsElsewhere stands for a sleep in no system call, such as a page fault.
const SleepsElsewhere = -1

// Watch looks at the threads of a process for as long as d, and every so often at what
// they sleep in. How long they ran and waited is the kernel's own account, and exact; where
// they slept is a sample. A thread that ends meanwhile is left out. Where a process may
// not see what another one's threads sleep in (proc_pid_syscall needs what ptrace does),
// Sleeps stays empty.
func Watch(ctx context.Context, pid int, d, every time.Duration) ([]Thread, error) {
	watch := watch{dir: fmt.Sprintf("/proc/%d/task", pid), first: map[int]look{}, last: map[int]look{}, sleeps: map[int]map[int]int{}}
	end, tick := time.NewTimer(d), time.NewTicker(every)
	defer end.Stop()
	defer tick.Stop()
	for {
		if err := watch.account(); err != nil {
			return nil, err
		}
		if watch.ended {
			return watch.threads(), nil
		}
		for ended := false; !ended; {
			select {
			case <-ctx.Done():
				return nil, ctx.Err()
			case <-end.C:
				watch.ended, ended = true, true
			case <-tick.C:
				watch.sample()
			}
		}
	}
}

type watch struct {
	dir         string
	first, last map[int]look
	sleeps      map[int]map[int]int
	ended       bool
}

// look is what the kernel says of a thread at one time.
type look struct {
	at             time.Time
	running, ready time.Duration
	thread
}

func (w *watch) ids() ([]int, error) {
	entries, err := os.ReadDir(w.dir)
	if err != nil {
		return nil, err
	}
	var all []int
	for _, e := range entries {
		if id, err := strconv.Atoi(e.Name()); err == nil {
			all = append(all, id)
		}
	}
	return all, nil
}

// account reads the accounts of all threads.
func (w *watch) account() error {
	all, err := w.ids()
	if err != nil {
		return err
	}
	clear(w.last)
	for _, id := range all {
		l, err := w.look(id)
		if gone(err) {
			continue
		}
		if err != nil {
			return err
		}
		if _, ok := w.first[id]; !ok && !w.ended {
			w.first[id] = l
		}
		w.last[id] = l
	}
	return nil
}

func (w *watch) look(id int) (l look, err error) {
	dir := fmt.Sprintf("%s/%d", w.dir, id)
	l.at = time.Now()
	if l.thread, err = readThread(dir); err != nil {
		return l, err
	}
	b, err := os.ReadFile(dir + "/schedstat")
	if err != nil {
		return l, fmt.Errorf("the kernel keeps no account of what threads wait for (CONFIG_SCHED_INFO): %w", err)
	}
	l.running, l.ready, err = parseSchedstatBoth(b)
	return l, err
}

// parseSchedstatBoth reads the first two numbers: time on a CPU, and waiting for one.
func parseSchedstatBoth(b []byte) (running, ready time.Duration, err error) {
	if running, err = parseSchedstat(b); err != nil {
		return 0, 0, err
	}
	ns, err := strconv.ParseInt(string(bytes.Fields(b)[1]), 10, 64)
	return running, time.Duration(ns), err
}

// sample looks at what each thread is doing now. Threads that cannot be looked at have
// ended, or may not be.
func (w *watch) sample() {
	all, err := w.ids()
	if err != nil {
		return
	}
	for _, id := range all {
		b, err := os.ReadFile(fmt.Sprintf("%s/%d/syscall", w.dir, id))
		if err != nil {
			continue
		}
		call, asleep, err := parseSyscall(b)
		if err != nil || !asleep {
			continue
		}
		if w.sleeps[id] == nil {
			w.sleeps[id] = map[int]int{}
		}
		w.sleeps[id][call]++
	}
}

var errSyscall = errors.New("the system call of a thread cannot be read")

// parseSyscall reads /proc/PID/task/TID/syscall (proc_pid_syscall(5)): "running", or the
// number of the system call, its arguments, and two registers; -1 is no system call.
func parseSyscall(b []byte) (call int, asleep bool, err error) {
	fields := bytes.Fields(b)
	if len(fields) == 0 {
		return 0, false, errSyscall
	}
	if string(fields[0]) == "running" {
		return 0, false, nil
	}
	if call, err = strconv.Atoi(string(fields[0])); err != nil || call < SleepsElsewhere {
		return 0, false, errSyscall
	}
	return call, true, nil
}

// threads compares the first and the last look.
func (w *watch) threads() (all []Thread) {
	for id, last := range w.last {
		first, ok := w.first[id]
		if !ok {
			continue // it began meanwhile
		}
		all = append(all, Thread{
			ID: id, Watched: last.at.Sub(first.at), Running: last.running - first.running, Ready: last.ready - first.ready,
			Voluntary: last.voluntary - first.voluntary, Involuntary: last.involuntary - first.involuntary, Sleeps: w.sleeps[id],
		})
	}
	slices.SortFunc(all, func(a, b Thread) int { return a.ID - b.ID })
	return all
}
