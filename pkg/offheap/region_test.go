package offheap

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"testing"
	"time"
	"unsafe"
)

func TestARegionHoldsWhatIsWrittenToIt(t *testing.T) {
	f := func(r *Region, size int) {
		t.Helper()
		b := append(r.Empty(), bytes.Repeat([]byte("x"), size-1)...)
		if !r.Holds(b) || r.Size() != size || cap(b) != size {
			t.Errorf("%v, %d, %d", r.Holds(b), r.Size(), cap(b))
		}
		if grown := append(b, "yz"...); r.Holds(grown) || !bytes.HasPrefix(grown, b) {
			t.Error("it has grown out of it")
		}
		r.Free()
	}
	f(New(1), hugeBytes)
	f(New(hugeBytes), hugeBytes)
	f(New(hugeBytes+1), 2*hugeBytes)
	f(NewLasting(10_000), 10_000)
	f(NewLasting(hugeBytes+1), 2*hugeBytes)
	var none *Region
	if none.Free(); none.Holds(nil) || none.Size() != 0 {
		t.Error("there is none")
	}
	if New(1<<50) != nil || NewLasting(0) != nil {
		t.Error("the system gives none")
	}
}

func TestFreeingTwiceIsABug(t *testing.T) {
	r := New(1)
	r.Free()
	defer func() {
		if fmt.Sprint(recover()) != "BUG: a region is freed twice" {
			t.Error("it was not noticed")
		}
	}()
	r.Free()
}

func TestARegionThatIsForgottenIsFreed(t *testing.T) {
	const size = 64 << 20 // so large that nothing else comes in its place
	r := New(size)
	middle := uint64(uintptr(unsafe.Pointer(unsafe.SliceData(r.Empty())))) + size/2
	isMapped := func() bool {
		maps, err := os.ReadFile("/proc/self/maps")
		if err != nil {
			t.Fatal(err)
		}
		for line := range bytes.Lines(maps) {
			var from, to uint64
			if _, err := fmt.Sscanf(string(line), "%x-%x", &from, &to); err == nil && from <= middle && middle < to {
				return true
			}
		}
		return false
	}
	if !isMapped() {
		t.Fatal("it was never there")
	}
	runtime.KeepAlive(r)
	for deadline := time.Now().Add(time.Minute); isMapped(); time.Sleep(10 * time.Millisecond) {
		if runtime.GC(); time.Now().After(deadline) {
			t.Fatal("it is still there")
		}
	}
}
