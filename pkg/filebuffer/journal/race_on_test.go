//go:build race

package journal_test

// stride: of each byte and each bit every so many are tried. There is nothing to find
// for the race detector in them, and it takes its time.
const stride = 13
