//go:build chaosclock

package main

import (
	"os"
	"strconv"
	"strings"
	"sync/atomic"
	"time"
)

// wallClockMs is the wall clock in Unix milliseconds, of which ids are made, off by what
// the file named by QUEEND_TEST_CLOCK_OFFSET_FILE says, in ms. It is in no binary that is
// not built for trials with clocks that leap.
func wallClockMs() int64 { return time.Now().UnixMilli() + clockOffset.Load() }

var clockOffset atomic.Int64

func init() {
	path := os.Getenv("QUEEND_TEST_CLOCK_OFFSET_FILE")
	if path == "" {
		return
	}
	go func() {
		for range time.Tick(10 * time.Millisecond) {
			text, err := os.ReadFile(path)
			if err != nil {
				continue
			}
			if ms, err := strconv.ParseInt(strings.TrimSpace(string(text)), 10, 64); err == nil {
				clockOffset.Store(ms)
			}
		}
	}()
}
