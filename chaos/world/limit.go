package world

import (
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// LimitDescriptors lets a process that runs have fewer descriptors from now on
// (prlimit(2)).
func LimitDescriptors(pid, n int) error {
	limit := unix.Rlimit{Cur: uint64(n), Max: uint64(n)}
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, &limit, nil); err != nil {
		return fmt.Errorf("cannot limit the descriptors of process %d: %w", pid, err)
	}
	return nil
}

// memoryCgroups is where cgroup v1 keeps memory limits (Linux, Documentation/
// admin-guide/cgroup-v1/memory.rst).
const memoryCgroups = "/sys/fs/cgroup/memory"

// LimitMemory puts a process under a memory limit and returns what ends that. An error
// means that this machine does not let us.
func LimitMemory(pid int, bytes int64) (func(), error) {
	dir := filepath.Join(memoryCgroups, fmt.Sprintf("queend-chaos-%d", pid))
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	remove := func() { _ = os.Remove(dir) } // once the process is gone
	for _, set := range [][2]string{{"memory.limit_in_bytes", fmt.Sprint(bytes)}, {"cgroup.procs", fmt.Sprint(pid)}} {
		if err := os.WriteFile(filepath.Join(dir, set[0]), []byte(set[1]), 0o644); err != nil {
			remove()
			return nil, err
		}
	}
	return remove, nil
}
