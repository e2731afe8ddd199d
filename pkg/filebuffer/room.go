package filebuffer

import (
	"cmp"

	"github.com/queend/queend/pkg/filebuffer/journal"
)

// sayRoom warns when the disk is so full at the start that the buffer can keep about nothing:
// else the first outage would tell.
func (b *Buffer) sayRoom(j *journal.Journal) {
	var disk journal.FS = journal.OS{}
	if b.o.fs != nil {
		disk = b.o.fs
	}
	free, err := disk.Free(b.o.Dir)
	if err != nil {
		return // who writes will hear
	}
	s := j.Stats()
	room, need := s.BytesMax-s.Bytes, cmp.Or(b.o.SegmentBytes, journal.SegmentBytesDefault)
	if b.o.BytesMax > 0 { // a bound that leaves less was meant so
		room, need = free, min(need, b.o.BytesMax)
	}
	if room >= need {
		return
	}
	b.o.Log.Warn().Str("dir", b.o.Dir).Int64("free", free).Int64("room", max(room, 0)).Int64("segment", need).
		Msg("the disk is almost full: the file buffer has room for less than one of its files, and beyond it pushes hear 503 while PostgreSQL is away. Make room on it and start again, or set FILE_BUFFER_DIR to a directory on another disk; without FILE_BUFFER_MAX_BYTES the bound is 80 % of what is free at the start")
}
