package proc

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"
)

// TreeCPU is the CPU time of a process and of all its descendants, ended ones
// included (once their parent has waited for them, as PostgreSQL's postmaster
// does). It only ever grows, so the difference of two calls is what the tree
// used between them; each child that ended adds up to 10 ms of rounding.
func TreeCPU(root int) (time.Duration, error) {
	family, err := descendants(root)
	if err != nil {
		return 0, err
	}
	var sum time.Duration
	for _, pid := range family {
		cpu, err := processCPU(pid)
		if gone(err) && pid != root {
			continue
		}
		if err != nil {
			return 0, err
		}
		sum += cpu
	}
	return sum, nil
}

// processCPU is one process's own time, all its threads', and that of the
// children it has waited for.
func processCPU(pid int) (time.Duration, error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	st, err := readStat(dir)
	if err != nil {
		return 0, err
	}
	tasks, err := os.ReadDir(dir + "/task")
	if err != nil {
		return 0, err
	}
	if len(tasks) != 1 { // threads may have ended: only the group's account is whole
		return st.self + st.children, nil
	}
	cpu, err := readCPU(dir)
	return cpu + st.children, err
}

// descendants lists a process and everything below it. PostgreSQL's processes
// are all direct children of the postmaster, but nothing here depends on it.
func descendants(root int) ([]int, error) {
	all, err := os.ReadDir("/proc")
	if err != nil {
		return nil, err
	}
	children := map[int][]int{}
	for _, e := range all {
		pid, err := strconv.Atoi(e.Name())
		if err != nil {
			continue
		}
		if st, err := readStat("/proc/" + e.Name()); err == nil {
			children[st.parent] = append(children[st.parent], pid)
		}
	}
	family := []int{root}
	for i := 0; i < len(family); i++ {
		family = append(family, children[family[i]]...)
	}
	return family, nil
}

// Parent is a process's name, cut to 15 bytes by the kernel, and its parent.
func Parent(pid int) (name string, parent int, err error) {
	dir := fmt.Sprintf("/proc/%d", pid)
	st, err := readStat(dir)
	if err != nil {
		return "", 0, err
	}
	comm, err := os.ReadFile(dir + "/comm")
	return strings.TrimSpace(string(comm)), st.parent, err
}
