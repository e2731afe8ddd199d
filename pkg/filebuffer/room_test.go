package filebuffer

import (
	"bytes"
	"strings"
	"testing"

	"github.com/rs/zerolog"
)

func TestADiskThatIsAlmostFullIsSaidAtTheStart(t *testing.T) {
	const segment = 8 << 10
	f := func(room, bound int64, says bool) {
		t.Helper()
		bubble(t, func(t *testing.T) *world {
			var log bytes.Buffer
			w := emptyWorld(t, func(o *Options) {
				o.BytesMax, o.SegmentBytes, o.Log = bound, segment, zerolog.New(zerolog.SyncWriter(&log))
			})
			w.fs.Room(room)
			w.boot(1)
			if n := strings.Count(log.String(), "the disk is almost full"); (n == 1) != says || n > 1 {
				w.errorf("room %d, bound %d: it is said %d times", room, bound, n)
			}
			w.drain()
			return w.ended()
		})
	}
	const none = 0 // and as a room: a disk without end
	f(none, none, false)
	f(none, 1000, false)
	f(2*segment, none, false) // 80 % of it are more than one
	f(segment+1000, none, true)
	f(1, none, true)
	f(segment+1000, 1<<30, false)
	f(segment-1000, 1<<30, true)
	f(segment-1000, 4000, false)
	f(3000, 4000, true)
}
