package journal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"io/fs"
	"slices"
	"strings"
)

// headersReadMax is how many segments' headers are looked at on either side of the
// list when the journal is opened; the Reader looks at each. A start does not take
// longer because there is more to do.
const headersReadMax = 128

// seqMax is beyond all numbers that will ever be given; a position that has it is a lie.
const seqMax = 1 << 62

// recover finds out what is in the directory.
func (j *Journal) recover() error {
	segs, fresh, err := list(j.fs, j.dir)
	if err != nil {
		return j.failed("list", "", err)
	}
	if err := j.checkHeaders(segs); err != nil {
		return err
	}
	if err := j.listAside(); err != nil {
		return err
	}
	j.keepThose(segs)
	for _, name := range fresh {
		_ = j.failed("remove", name, j.fs.Remove(j.path(name))) // in the way of nobody
	}
	j.segs, j.next = segs, 1
	for _, s := range segs {
		j.bytes += s.size
	}
	if n := len(segs); n > 0 {
		if err := j.recoverNewest(segs[n-1]); err != nil {
			return err
		}
	}
	if err := j.recoverPosition(); err != nil {
		return err
	}
	if j.bytesMax == 0 {
		free, err := j.fs.Free(j.dir)
		if err != nil {
			return j.failed("find the free space of", "", err)
		}
		j.bytesMax = j.bytes + free/100*FreePercentMax
	}
	// What cannot be removed now is removed with the next release.
	if err := j.sweep(); err != nil {
		j.log.Warn().Err(err).Msg("journal: segments that are done stay for now")
	}
	return nil
}

// list finds the segments in a directory, and those that were never finished.
func list(f FS, dir string) (segs []*segment, fresh []string, err error) {
	entries, err := f.ReadDir(dir)
	if err != nil {
		return nil, nil, err
	}
	for _, e := range entries {
		name, isNew := strings.CutSuffix(e.Name, newSuffix)
		base, ok := segmentBase(name)
		switch {
		case !ok || e.Dir:
		case isNew:
			fresh = append(fresh, e.Name)
		default:
			segs = append(segs, &segment{base: base, end: e.Bytes, size: e.Bytes})
		}
	}
	slices.SortFunc(segs, func(a, b *segment) int {
		if a.base < b.base {
			return -1
		}
		return 1
	})
	for i := range segs[:max(0, len(segs)-1)] {
		segs[i].last = segs[i+1].base - 1
	}
	return segs, fresh, nil
}

// checkHeaders fails when there is a segment of a version that we do not know.
func (j *Journal) checkHeaders(segs []*segment) error {
	for i, s := range segs {
		if i >= headersReadMax && i < len(segs)-headersReadMax {
			continue
		}
		f, err := j.fs.Open(j.path(s.name()))
		if err == nil {
			_, err = checkSegmentHeader(f, s.base)
			_ = f.Close()
		}
		var version *VersionError
		if errors.As(err, &version) {
			return err
		}
		if isUnreadable(err) {
			_ = j.failed("read", s.name(), err)
			continue // the Reader's to say: what is in the others can be delivered
		}
		if err != nil {
			return j.failed("read", s.name(), err)
		}
	}
	return nil
}

// recoverNewest finds the end of the newest segment, and cuts off what is behind it.
func (j *Journal) recoverNewest(s *segment) error {
	f, err := j.fs.OpenWrite(j.path(s.name()))
	if err != nil {
		return j.failed("open", s.name(), err)
	}
	found, err := j.readNewest(s, f)
	if err == nil && found {
		j.cutNewest(s, f)
	}
	_ = f.Close()
	if err != nil || found {
		return err
	}
	return j.dropNewest(s)
}

// readNewest walks the newest segment. It reports whether there was a record.
func (j *Journal) readNewest(s *segment, f File) (found bool, err error) {
	ok, err := checkSegmentHeader(f, s.base)
	if err != nil {
		return false, j.failed("read", s.name(), err)
	}
	at := newScan(f, s.base, s.size)
	var damage []Region
	if !ok {
		damage = append(damage, Region{Bytes: min(segmentHeaderBytes, s.size)})
	}
	for {
		_, bad, err := at.next()
		if err != nil && err != io.EOF {
			return false, j.failed("read", s.name(), err)
		}
		if !bad.empty() && (err == nil || at.sealed) {
			damage = append(damage, bad)
		}
		if err == nil {
			found = true
			continue
		}
		s.last, s.end, j.next = at.prev, at.good, at.prev+1
		if !found {
			return false, nil
		}
		for _, r := range damage {
			j.setAside(s, f, r)
		}
		if !at.sealed && !bad.empty() {
			j.counts.tornTails.Add(1)
			j.log.Info().Str("segment", s.name()).Int64("offset", bad.Offset).Int64("bytes", bad.Bytes).
				Msg("journal: the end of the newest segment was not written whole, and is cut off")
		}
		return true, nil
	}
}

// cutNewest makes what was found durable, since more will be promised on top of it. A
// cut that fails changes nothing: what is behind the end is void once there is a next
// segment.
func (j *Journal) cutNewest(s *segment, f File) {
	if s.size > s.end {
		if err := j.failed("truncate", s.name(), f.Truncate(s.end)); err != nil {
			j.log.Warn().Err(err).Msg("journal: the newest segment stays longer than it is")
		} else {
			j.resize(s, s.end)
		}
	}
	// What was promised was synced by who promised it; so this may fail too.
	if err := j.failed("sync", s.name(), f.Sync()); err != nil {
		j.log.Warn().Err(err).Msg("journal: the newest segment cannot be synced")
	}
}

// dropNewest takes the newest segment away when there is no record in it. It had one
// when it was made, so that this is damage, unless nothing at all is left.
func (j *Journal) dropNewest(s *segment) error {
	j.segs = j.segs[:len(j.segs)-1]
	j.bytes -= s.size
	if s.size > 0 {
		j.sayDamage(s, Region{Bytes: s.size, Lost: 1})
		return j.moveAside(s)
	}
	return j.failed("remove", s.name(), j.fs.Remove(j.path(s.name())))
}

// The position file says up to which record all is done. It is written over and over
// and seldom synced: when it is old or broken, more is read again.
//
//	 0  "position"
//	 8  released     64 bits
//	16  CRC-32C      of bytes 0 to 15
//	20  0            32 bits
const (
	positionName  = "position"
	positionBytes = 24
)

func positionOf(released uint64) []byte {
	b := append(make([]byte, 0, positionBytes), positionName...)
	b = binary.LittleEndian.AppendUint64(b, released)
	b = binary.LittleEndian.AppendUint32(b, crc32.Checksum(b, castagnoli))
	return append(b, 0, 0, 0, 0)
}

// readPosition reads the position that a file has, if it has one.
func readPosition(f File) (released uint64, ok bool, err error) {
	var b [positionBytes]byte
	if n, err := readFull(f, b[:], 0); n < len(b) {
		return 0, false, ignoreEOF(err)
	}
	released = binary.LittleEndian.Uint64(b[8:])
	return released, string(b[:]) == string(positionOf(released)), nil
}

// recoverPosition finds the record to begin with. A position that does not go with
// the segments is not believed; it is written anew, so that it is not believed later
// either, when the numbers have reached it.
func (j *Journal) recoverPosition() error {
	f, err := j.fs.OpenWrite(j.path(positionName))
	fresh := errors.Is(err, fs.ErrNotExist)
	if fresh {
		f, err = j.fs.Create(j.path(positionName))
	}
	if err != nil {
		return j.failed("open", positionName, err)
	}
	j.position = f
	released, ok, err := readPosition(f)
	if err != nil {
		return j.failed("read", positionName, err)
	}
	if len(j.segs) == 0 && ok && released >= j.next && released < seqMax {
		j.next = released + 1
	}
	if ok && released < j.next {
		j.released = released
		return nil
	}
	if !fresh {
		j.log.Warn().Uint64("position", released).Bool("whole", ok).Uint64("next", j.next).
			Msg("journal: the position is not believed, all that is there is read again")
	}
	j.released = j.next - 1
	if len(j.segs) > 0 {
		j.released = j.segs[0].base - 1
	}
	err = writeFull(f, positionOf(j.released), 0)
	if err == nil {
		err = f.Sync()
	}
	full := isFull(err)
	if err = j.failed("write", positionName, err); err != nil && (fresh || full) {
		// Without one all is read again too; a full disk does not keep us from starting.
		j.positionStale, err = true, nil
	}
	return err
}
