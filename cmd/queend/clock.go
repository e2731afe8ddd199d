//go:build !chaosclock

package main

import "time"

// wallClockMs is the wall clock in Unix milliseconds, of which ids are made.
func wallClockMs() int64 { return time.Now().UnixMilli() }
