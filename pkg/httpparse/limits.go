package httpparse

import "math"

// Limits bound what one request may make its reader hold. Each is inclusive: at
// the bound a request is served, one byte (or field) more is refused.
type Limits struct {
	// HeaderBytesMax bounds the head, from the request line (and empty lines before
	// it) to the empty line that ends it, together with the trailers of a chunked
	// body. More: 431.
	HeaderBytesMax int
	// TargetBytesMax bounds the request target. More: 414.
	TargetBytesMax int
	// FieldsMax bounds the number of field lines, trailers included. More: 431.
	FieldsMax int
	// BodyBytesMax bounds the body, chunk framing not counted. More: 413, as soon
	// as it is known.
	BodyBytesMax int64
}

// Bounds that need no turning.
const (
	// MethodBytesMax is longer than any registered method. A longer one: 501
	// (RFC 9112 §3).
	MethodBytesMax = 32
	// EmptyLinesMax is how many empty lines before a request line are skipped, for
	// clients that send one too many behind a body (RFC 9112 §2.2 asks for at least
	// one). More: 400.
	EmptyLinesMax = 4
	// ChunkLineBytesMax bounds a chunk's size and extensions, CR LF included. More:
	// 400 (RFC 9112 §7.1.1 wants extensions bounded).
	ChunkLineBytesMax = 256
	// ChunkFramingBytesMax is how much longer than its data a chunked body may be
	// in framing (sizes, extensions, line ends): framing ≤ this + data, at each chunk. So a
	// chunked body never holds more than 2 × BodyBytesMax + ChunkFramingBytesMax of
	// buffer. More: 413.
	ChunkFramingBytesMax = 64 << 10
)

// DefaultLimits returns the limits queend runs with: a head of 64 KiB, a target
// of 16 KiB, 128 fields, a body of 64 MiB.
func DefaultLimits() Limits {
	return Limits{
		HeaderBytesMax: 64 << 10,
		TargetBytesMax: 16 << 10,
		FieldsMax:      128,
		BodyBytesMax:   64 << 20,
	}
}

var defaultLimits = DefaultLimits()

func (l *Limits) orDefault() *Limits {
	if l == nil {
		return &defaultLimits
	}
	const headMax, bodyMax = 1 << 28, math.MaxInt / 4 // no sum of them overflows
	if l.HeaderBytesMax < 1 || l.HeaderBytesMax > headMax ||
		l.TargetBytesMax < 1 || l.TargetBytesMax > headMax ||
		l.FieldsMax < 1 || l.BodyBytesMax < 0 || l.BodyBytesMax > bodyMax {
		panic("BUG: limits that no server can mean")
	}
	return l
}
