package asyncdb

import (
	"encoding/binary"
	"errors"
	"fmt"
	"math"

	"github.com/queend/queend/pkg/offheap"
)

// Messages of PostgreSQL's protocol 3 (manual, chapter "Frontend/Backend
// Protocol"): one byte of kind, four of length (which counts itself), a body. This
// file cuts the server's and writes ours; it knows no socket and not what a message
// is for. Every length comes from outside and is checked before it is used.

// Kinds of messages that the server sends on a lane.
const (
	kindParseComplete = '1'
	kindBindComplete  = '2'
	kindNotification  = 'A'
	kindComplete      = 'C'
	kindDataRow       = 'D'
	kindError         = 'E'
	kindNotice        = 'N'
	kindParameter     = 'S'
	kindReady         = 'Z'
)

// headerBytes is the size of a message's kind and length.
const headerBytes = 5

// FrameBytesMaxDefault bounds one message from the server. What a push reads is small
// (ids, counts, errors); a longer message is a broken or foreign server, and the
// connection is closed. A store that reads payloads is given a larger bound.
const FrameBytesMaxDefault = 1 << 20

// restBytesKept is the largest buffer for a cut message that is kept for the next.
const restBytesKept = 64 << 10

var (
	errFrameLength = errors.New("a message from the server has an impossible length")
	errFrameBody   = errors.New("a message from the server is malformed")
)

// cutter cuts messages out of the bytes of one connection, however they are sliced.
// A message that is whole in what was delivered is given out in place; only one that
// is cut across deliveries is gathered in memory of the cutter's own, which grows
// with what has arrived and never with what a header promises (of a region, only what was
// written to is memory).
//
// For each delivery: begin, next until it returns kind 0, end.
type cutter struct {
	bytesMax int // of one message, 0: FrameBytesMaxDefault

	data []byte // what of this delivery is not given out yet; the loop's memory
	rest []byte // the head of a message whose end has not arrived; ours
	used bool   // rest holds a message that was given out

	region *offheap.Region // that a large rest is in
}

// begin takes a delivery; data must stay as it is until end.
func (c *cutter) begin(data []byte) { c.data = data }

// next returns the next whole message; kind 0 without an error means that none is
// left. body is valid until the next call of any method.
func (c *cutter) next() (kind byte, body []byte, err error) {
	if c.used {
		c.empty()
	}
	if len(c.rest) > 0 {
		return c.complete()
	}
	if len(c.data) < headerBytes {
		return 0, nil, nil
	}
	size, err := frameSize(c.data, c.bytesMax)
	if err != nil || len(c.data) < size {
		return 0, nil, err
	}
	kind, body = c.data[0], c.data[headerBytes:size:size]
	c.data = c.data[size:]
	return kind, body, nil
}

// complete moves bytes from data to rest until rest is one whole message.
func (c *cutter) complete() (kind byte, body []byte, err error) {
	c.take(headerBytes - len(c.rest))
	if len(c.rest) < headerBytes {
		return 0, nil, nil
	}
	size, err := frameSize(c.rest, c.bytesMax)
	if err != nil {
		return 0, nil, err
	}
	c.room(size)
	c.take(size - len(c.rest))
	if len(c.rest) < size {
		return 0, nil, nil
	}
	c.used = true
	return c.rest[0], c.rest[headerBytes:size:size], nil
}

// room makes room in rest for what is about to be taken of a message of that size. A large
// one gets a region; else room is doubled each time, which costs a message two of its sizes
// in all, where append alone would cost five.
func (c *cutter) room(size int) {
	need := min(size, len(c.rest)+len(c.data))
	if need <= cap(c.rest) || need <= restBytesKept {
		return
	}
	grown := min(size, max(2*cap(c.rest), need))
	if grown > offheap.RegionBytesMin {
		if r := offheap.New(size); r != nil {
			c.region, c.rest = r, append(r.Empty(), c.rest...)
			return
		}
	}
	c.rest = append(make([]byte, 0, grown), c.rest...)
}

// empty empties rest for its next use, and lets go of one that has grown too large to be
// kept.
func (c *cutter) empty() {
	c.used = false
	c.rest = keep(c.rest, restBytesKept)
	c.region.Free()
	c.region = nil
}

func (c *cutter) take(n int) {
	if n <= 0 {
		return
	}
	n = min(n, len(c.data))
	c.rest = append(c.rest, c.data[:n]...)
	c.data = c.data[n:]
}

// end keeps the beginning of a message whose end is to come, and lets go of the
// delivery.
func (c *cutter) end() {
	if c.used {
		c.empty()
	}
	c.rest = append(c.rest, c.data...)
	c.data = nil
}

// frameSize returns the whole size of the message that b begins with; b holds at
// least a header.
func frameSize(b []byte, bytesMax int) (int, error) {
	n := binary.BigEndian.Uint32(b[1:])
	if n < 4 || n > uint32(or(bytesMax, FrameBytesMaxDefault)-1) {
		return 0, fmt.Errorf("%w: kind %q, %d bytes", errFrameLength, b[0], n)
	}
	return int(n) + 1, nil
}

// keep empties a buffer for its next use, and lets go of one that has grown too
// large to be kept.
func keep(b []byte, bytesMax int) []byte {
	if cap(b) > bytesMax {
		return nil
	}
	return b[:0]
}

// dataRow slices the values out of a DataRow's body, in values' memory. A value is
// nil for NULL and points into body otherwise.
func dataRow(values [][]byte, body []byte) ([][]byte, error) {
	values = values[:0]
	if len(body) < 2 {
		return values, errFrameBody
	}
	n := int(binary.BigEndian.Uint16(body))
	body = body[2:]
	for range n {
		if len(body) < 4 {
			return values, errFrameBody
		}
		size := int(int32(binary.BigEndian.Uint32(body)))
		body = body[4:]
		if size == -1 {
			values = append(values, nil)
			continue
		}
		if size < 0 || size > len(body) {
			return values, errFrameBody
		}
		values = append(values, body[:size:size])
		body = body[size:]
	}
	if len(body) != 0 {
		return values, errFrameBody
	}
	return values, nil
}

// tagRows reads the row count off a CommandComplete's body ("INSERT 0 5", "SELECT 1");
// a command that counts nothing has 0.
func tagRows(body []byte) (int64, error) {
	end := len(body) - 1
	if end < 0 || body[end] != 0 {
		return 0, errFrameBody
	}
	at := end
	for at > 0 && '0' <= body[at-1] && body[at-1] <= '9' {
		at--
	}
	if at == end || at == 0 || body[at-1] != ' ' {
		return 0, nil
	}
	var n int64
	for _, digit := range body[at:end] {
		if n > (math.MaxInt64-9)/10 {
			return 0, errFrameBody
		}
		n = n*10 + int64(digit-'0')
	}
	return n, nil
}

// appendParse writes a Parse for the unnamed statement. The types of the parameters
// are left to the server.
func appendParse(dst []byte, sql string) []byte {
	dst, at := beginFrame(dst, 'P')
	dst = append(dst, 0) // the unnamed statement
	dst = append(dst, sql...)
	dst = append(dst, 0)
	dst = append(dst, 0, 0) // no parameter types
	return endFrame(dst, at)
}

// appendBind writes a Bind of params to a prepared statement ("": the unnamed one) and
// the unnamed portal: parameters and results in binary.
func appendBind(dst []byte, statement string, params [][]byte) []byte {
	if len(params) > math.MaxUint16 {
		panic("BUG: more parameters than a Bind can carry")
	}
	dst, at := beginFrame(dst, 'B')
	dst = append(dst, 0) // the unnamed portal
	dst = append(dst, statement...)
	dst = append(dst, 0)
	dst = append(dst, 0, 1, 0, 1) // one format for all parameters: binary
	dst = binary.BigEndian.AppendUint16(dst, uint16(len(params)))
	for _, p := range params {
		if p == nil {
			dst = append(dst, 0xff, 0xff, 0xff, 0xff)
			continue
		}
		if len(p) > math.MaxInt32 {
			panic("BUG: a parameter larger than a Bind can carry")
		}
		dst = binary.BigEndian.AppendUint32(dst, uint32(len(p)))
		dst = append(dst, p...)
	}
	dst = append(dst, 0, 1, 0, 1) // one format for all results: binary
	return endFrame(dst, at)
}

// appendExecute writes an Execute of the unnamed portal, to its end.
func appendExecute(dst []byte) []byte {
	return append(dst, 'E', 0, 0, 0, 9, 0, 0, 0, 0, 0)
}

// appendFlush writes a Flush: the server sends the answers that it has, before the Sync.
func appendFlush(dst []byte) []byte { return append(dst, 'H', 0, 0, 0, 4) }

// appendSync ends a step: the server commits or rolls back, and says that it is ready.
func appendSync(dst []byte) []byte { return append(dst, 'S', 0, 0, 0, 4) }

// appendTerminate says good-bye.
func appendTerminate(dst []byte) []byte { return append(dst, 'X', 0, 0, 0, 4) }

func beginFrame(dst []byte, kind byte) ([]byte, int) {
	return append(dst, kind, 0, 0, 0, 0), len(dst) + 1
}

func endFrame(dst []byte, at int) []byte {
	size := len(dst) - at
	if size > math.MaxInt32 {
		panic("BUG: a message larger than the protocol can carry")
	}
	binary.BigEndian.PutUint32(dst[at:], uint32(size))
	return dst
}
