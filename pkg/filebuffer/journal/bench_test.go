package journal_test

import (
	"fmt"
	"testing"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

// BenchmarkAppend appends groups of records of 300 bytes to the disk that TMPDIR is on.
func BenchmarkAppend(b *testing.B) {
	for _, n := range []int{1, 32, 256} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			j := mustOpen(b, journal.Options{Dir: b.TempDir()})
			payloads := group(n, 300)
			b.ReportAllocs()
			b.SetBytes(int64(n * 300))
			for b.Loop() {
				seq := mustAppend(b, j, payloads)
				if seq%65536 < uint64(n) {
					must(b, j.Release(seq))
				}
			}
			b.ReportMetric(float64(n)*float64(b.N)/b.Elapsed().Seconds(), "records/s")
			must(b, j.Close())
		})
	}
}

// BenchmarkNext reads records of 300 bytes.
func BenchmarkNext(b *testing.B) {
	j := mustOpen(b, journal.Options{Dir: b.TempDir()})
	for range 400 {
		mustAppend(b, j, group(256, 300))
	}
	r := j.Reader()
	b.ReportAllocs()
	b.SetBytes(300)
	for b.Loop() {
		if _, err := r.Next(); err != nil {
			r = j.Reader()
		}
	}
	must(b, j.Close())
}
