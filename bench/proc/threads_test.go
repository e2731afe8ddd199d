package proc

import (
	"context"
	"os/exec"
	"testing"
	"time"
)

func TestASystemCallIsReadAsTheKernelWritesIt(t *testing.T) {
	f := func(text string, call int, asleep, ok bool) {
		t.Helper()
		gotCall, gotAsleep, err := parseSyscall([]byte(text))
		if gotCall != call || gotAsleep != asleep || (err == nil) != ok {
			t.Errorf("%q: %d %v %v", text, gotCall, gotAsleep, err)
		}
	}
	f("running\n", 0, false, true)
	f("281 0x5 0x7ffd 0x80 0xffffffff 0x0 0x8 0x7ffd5 0x7f33\n", 281, true, true)
	f("-1 0x7ffd5 0x7f33\n", SleepsElsewhere, true, true)
	f("", 0, false, false)
	f("-7 0x0\n", 0, false, false)
	f("what", 0, false, false)
}

func TestAScheduleIsReadAsTheKernelWritesIt(t *testing.T) {
	f := func(text string, running, ready time.Duration, ok bool) {
		t.Helper()
		gotRunning, gotReady, err := parseSchedstatBoth([]byte(text))
		if ok != (err == nil) || ok && (gotRunning != running || gotReady != ready) {
			t.Errorf("%q: %v %v %v", text, gotRunning, gotReady, err)
		}
	}
	f("1500 27 9\n", 1500, 27, true)
	f("1500 27\n", 0, 0, false)
	f("1500 x 9\n", 0, 0, false)
}

func TestAThreadThatSleepsIsSeenAsleep(t *testing.T) {
	cat := exec.Command("cat")
	in, err := cat.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cat.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = in.Close()
		_ = cat.Wait()
	}()
	threads, err := Watch(context.Background(), cat.Process.Pid, 100*time.Millisecond, time.Millisecond)
	if err != nil || len(threads) != 1 {
		t.Fatal(threads, err)
	}
	one := threads[0]
	if one.ID != cat.Process.Pid || one.Watched <= 0 {
		t.Errorf("%+v", one)
	}
	ended, stop := context.WithCancel(context.Background())
	stop()
	if _, err := Watch(ended, cat.Process.Pid, time.Hour, time.Hour); err == nil {
		t.Error("it went on when it was told to stop")
	}
}
