package queue

import (
	"testing"
	"time"
)

func TestOnlyLargeRequestsGetMoreTime(t *testing.T) {
	f := func(rows, bytes int, want time.Duration) {
		t.Helper()
		if got := Allowance(rows, bytes); got != want {
			t.Errorf("%d rows, %d bytes: %v, want %v", rows, bytes, got, want)
		}
	}
	f(0, 0, 0)
	f(AllowanceRowsFree, AllowanceBytesFree, 0)
	f(AllowanceRowsFree+1, AllowanceBytesFree, 200*time.Microsecond)
	f(1, AllowanceBytesFree+8, time.Microsecond)
	f(21_000, 0, 4*time.Second)
	f(1, 1<<30, AllowanceMax)
}
