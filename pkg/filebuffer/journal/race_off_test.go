//go:build !race

package journal_test

// stride: each byte and each bit is tried.
const stride = 1
