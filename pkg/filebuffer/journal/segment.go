package journal

import (
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"strconv"
	"strings"
)

// A segment begins with a header. Its first 16 bytes and its checksum stay where they
// are in every later version, so that an older program knows what it does not know.
//
//	 0  "queend\r\n"  magic; the line end tells when somebody has copied it as text
//	 8  version       32 bits
//	12  0             32 bits
//	16  base          the first frame's sequence number, 64 bits
//	24  0             32 bits
//	28  CRC-32C       of bytes 0 to 27
const (
	segmentMagic       = "queend\r\n"
	segmentVersion     = 1
	segmentHeaderBytes = 32

	segmentSuffix = ".queend"
	newSuffix     = ".tmp" // behind a segment's name while it is made
	lockName      = "lock"
)

// segment is a file of the journal. But for base, which stays, Journal.mu guards it.
type segment struct {
	base    uint64
	last    uint64 // record; frames with higher numbers are void
	end     int64  // of what is durable; of the file for one that was not read yet
	size    int64  // what it takes on disk
	growing bool   // the appender has it
	keep    bool   // not all of its damage could be set aside
}

// name is the segment's file's.
func (s *segment) name() string { return segmentName(s.base) }

func segmentName(base uint64) string { return fmt.Sprintf("%020d%s", base, segmentSuffix) }

// segmentBase is the base in a segment's name. Other names are none of ours.
func segmentBase(name string) (uint64, bool) {
	digits, ok := strings.CutSuffix(name, segmentSuffix)
	if !ok || len(digits) != 20 {
		return 0, false
	}
	base, err := strconv.ParseUint(digits, 10, 64)
	return base, err == nil && base > 0 && segmentName(base) == name
}

// putSegmentHeader writes a header to the first bytes of b.
func putSegmentHeader(b []byte, base uint64) {
	copy(b, segmentMagic)
	binary.LittleEndian.PutUint32(b[8:], segmentVersion)
	binary.LittleEndian.PutUint32(b[12:], 0)
	binary.LittleEndian.PutUint64(b[16:], base)
	binary.LittleEndian.PutUint32(b[24:], 0)
	binary.LittleEndian.PutUint32(b[28:], crc32.Checksum(b[:28], castagnoli))
}

// checkSegmentHeader tells whether a file begins with the header of that segment. One
// which does not is damaged: its name says the same, so that its frames are as good.
// The error is a *VersionError for a whole header of another version.
func checkSegmentHeader(f File, base uint64) (ok bool, err error) {
	var b [segmentHeaderBytes]byte
	n, err := readFull(f, b[:], 0)
	if n < len(b) {
		return false, ignoreEOF(err)
	}
	if string(b[:8]) != segmentMagic || binary.LittleEndian.Uint32(b[28:]) != crc32.Checksum(b[:28], castagnoli) {
		return false, nil
	}
	if version := binary.LittleEndian.Uint32(b[8:]); version != segmentVersion {
		return false, &VersionError{Name: segmentName(base), Version: version}
	}
	return binary.LittleEndian.Uint64(b[16:]) == base, nil
}
