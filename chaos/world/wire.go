package world

import (
	"fmt"
	"net"
	"os"
	"runtime"
	"strings"
	"sync/atomic"

	"golang.org/x/sys/unix"
)

// Wire is a network of two ends in this machine: a veth(4) pair whose far end is in a
// network namespace of its own (ip-netns(8)). When it is cut, packets are lost without a
// word: no reset, no error. Only root may make one.
type Wire struct {
	Listener net.Listener // at the far end
	name     string       // of the namespace
	near     string       // the interface
}

var wires atomic.Int64

// MakeWire makes one with somebody who listens at its far end. An error says that this
// machine does not let us.
func MakeWire() (w *Wire, err error) {
	n := wires.Add(1)
	id := fmt.Sprintf("%d-%d", os.Getpid(), n)
	w = &Wire{name: "queend-chaos-" + id, near: fmt.Sprintf("qc%da%d", os.Getpid(), n)}
	far := strings.Replace(w.near, "a", "b", 1)
	removeStaleWires()
	// Addresses that are set aside for trials of networks (RFC 2544, appendix C.2.2).
	block := 4 * (os.Getpid()*8 + int(n)) & 0xfffc
	near, there := fmt.Sprintf("198.18.%d.%d", block>>8, block&255|1), fmt.Sprintf("198.18.%d.%d", block>>8, block&255|2)
	defer func() {
		if err != nil {
			w.Remove()
		}
	}()
	for _, args := range [][]string{
		{"netns", "add", w.name},
		{"link", "add", w.near, "type", "veth", "peer", "name", far, "netns", w.name},
		{"address", "add", near + "/30", "dev", w.near},
		{"link", "set", w.near, "up"},
		{"-n", w.name, "address", "add", there + "/30", "dev", far},
		{"-n", w.name, "link", "set", far, "up"},
	} {
		if err := tool("ip", args...); err != nil {
			return w, err
		}
	}
	if w.Listener, err = listenIn(w.name, there+":0"); err != nil {
		return w, err
	}
	// Who does not know the other's hardware address hears "no route to host" after some
	// seconds; behind a router that would not be so.
	if err := w.remember(far, there); err != nil {
		return w, err
	}
	return w, nil
}

// remember fixes the hardware address of the far end.
func (w *Wire) remember(far, address string) error {
	var hardware string
	err := within(w.name, func() error {
		link, err := net.InterfaceByName(far)
		if err == nil {
			hardware = link.HardwareAddr.String()
		}
		return err
	})
	if err != nil {
		return err
	}
	return tool("ip", "neighbour", "replace", address, "lladdr", hardware, "dev", w.near, "nud", "permanent")
}

// Cut lets all packets be lost from now on.
func (w *Wire) Cut() error { return w.set("down") }

// Mend ends that.
func (w *Wire) Mend() error { return w.set("up") }

func (w *Wire) set(state string) error {
	return tool("ip", "-n", w.name, "link", "set", strings.Replace(w.near, "a", "b", 1), state)
}

// Remove ends it and all that it carried.
func (w *Wire) Remove() {
	if w.Listener != nil {
		_ = w.Listener.Close()
	}
	_ = tool("ip", "link", "del", w.near)
	_ = tool("ip", "netns", "del", w.name)
}

// removeStaleWires removes what a killed run has left.
func removeStaleWires() {
	entries, _ := os.ReadDir("/run/netns")
	for _, entry := range entries {
		rest, ours := strings.CutPrefix(entry.Name(), "queend-chaos-")
		pid, _, _ := strings.Cut(rest, "-")
		if _, err := os.Stat("/proc/" + pid); ours && os.IsNotExist(err) {
			_ = tool("ip", "netns", "del", entry.Name())
		}
	}
}

// listenIn listens in a namespace. A socket stays where it was made (network_namespaces(7)).
func listenIn(namespace, address string) (listener net.Listener, err error) {
	err = within(namespace, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
	return listener, err
}

// within runs f on a thread that is in a namespace meanwhile. The thread must not end with
// f: processes that it has started would end with it (PR_SET_PDEATHSIG in prctl(2)).
func within(namespace string, f func() error) error {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	home, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return err
	}
	defer home.Close()
	there, err := os.Open("/run/netns/" + namespace)
	if err != nil {
		return err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return fmt.Errorf("cannot enter a network namespace: %w", err)
	}
	defer func() {
		if err := unix.Setns(int(home.Fd()), unix.CLONE_NEWNET); err != nil {
			panic("BUG: the way back from a network namespace is closed: " + err.Error())
		}
	}()
	return f()
}
