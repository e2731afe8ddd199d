package journal

import (
	"encoding/binary"
	"hash/crc32"
)

// A frame is a record on disk. All numbers are little-endian, and a frame begins at a
// multiple of 8, so that the next good one can be found behind damage.
//
//	 0  FF 51 44 FE       marker
//	 4  1                 version
//	 5  flags             1: seal, nothing follows in this segment
//	 6  kind              the caller's
//	 7  0
//	 8  length            of the payload, 32 bits
//	12  CRC-32C           of all the rest: bytes 0 to 11, and 16 to the frame's end
//	16  sequence number   64 bits; a seal has the next record's
//	24  time              nanoseconds since 1970, 64 bits, signed
//	32  payload           and zeros up to a multiple of 8
//
// FF and FE are no bytes of UTF-8: so text from outside cannot hold a frame which would
// be found instead of the one that it is in.
const (
	frameHeaderBytes = 32
	frameVersion     = 1
	frameAlign       = 8
	flagSeal         = 1
	sealBytes        = frameHeaderBytes
)

var (
	frameMarker = []byte{0xFF, 'Q', 'D', 0xFE}
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// frame is a decoded one. The payload is a part of the bytes that it was decoded
// from.
type frame struct {
	seal    bool
	kind    uint8
	seq     uint64
	time    int64
	payload []byte
	bytes   int64 // of the whole frame
}

// frameBytes is how large a frame with such a payload is.
func frameBytes(payload int) int64 {
	return (frameHeaderBytes + int64(payload) + frameAlign - 1) &^ (frameAlign - 1)
}

// appendFrame appends a frame to dst.
func appendFrame(dst []byte, f frame) []byte {
	start := len(dst)
	var flags byte
	if f.seal {
		flags = flagSeal
	}
	dst = append(dst, frameMarker...)
	dst = append(dst, frameVersion, flags, f.kind, 0)
	dst = binary.LittleEndian.AppendUint32(dst, uint32(len(f.payload)))
	dst = append(dst, 0, 0, 0, 0)
	dst = binary.LittleEndian.AppendUint64(dst, f.seq)
	dst = binary.LittleEndian.AppendUint64(dst, uint64(f.time))
	dst = append(dst, f.payload...)
	for (len(dst)-start)%frameAlign != 0 {
		dst = append(dst, 0)
	}
	whole := dst[start:]
	binary.LittleEndian.PutUint32(whole[12:], frameSum(whole))
	return dst
}

// frameSum is the checksum of a whole frame.
func frameSum(whole []byte) uint32 {
	return crc32.Update(crc32.Checksum(whole[:12], castagnoli), castagnoli, whole[16:])
}

// decodeHead reads what tells how large the frame is which begins with b. It may lie:
// the checksum is decodeFrame's.
func decodeHead(b []byte) (seq uint64, size int64, ok bool) {
	if len(b) < frameHeaderBytes || string(b[:4]) != string(frameMarker) || b[4] != frameVersion || b[5]&^flagSeal != 0 || b[7] != 0 {
		return 0, 0, false
	}
	length := binary.LittleEndian.Uint32(b[8:])
	if length > PayloadBytesMax {
		return 0, 0, false
	}
	return binary.LittleEndian.Uint64(b[16:]), frameBytes(int(length)), true
}

// decodeFrame decodes the frame which b begins with. b may be longer.
func decodeFrame(b []byte) (frame, bool) {
	seq, size, ok := decodeHead(b)
	if !ok || size > int64(len(b)) {
		return frame{}, false
	}
	b = b[:size:size]
	if binary.LittleEndian.Uint32(b[12:]) != frameSum(b) {
		return frame{}, false
	}
	end := frameHeaderBytes + int(binary.LittleEndian.Uint32(b[8:]))
	return frame{
		seal:    b[5]&flagSeal != 0,
		kind:    b[6],
		seq:     seq,
		time:    int64(binary.LittleEndian.Uint64(b[24:])),
		payload: b[frameHeaderBytes:end:end],
		bytes:   size,
	}, true
}
