package journal

// Frame is a decoded frame, for the tests.
type Frame struct {
	Seal    bool
	Kind    uint8
	Seq     uint64
	Time    int64
	Payload []byte
	Bytes   int64
}

// DecodeFrame decodes the frame which b begins with.
func DecodeFrame(b []byte) (Frame, bool) {
	f, ok := decodeFrame(b)
	return Frame{f.seal, f.kind, f.seq, f.time, f.payload, f.bytes}, ok
}

// AppendFrame encodes a frame.
func AppendFrame(dst []byte, f Frame) []byte {
	return appendFrame(dst, frame{seal: f.Seal, kind: f.Kind, seq: f.Seq, time: f.Time, payload: f.Payload})
}
