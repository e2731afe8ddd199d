package load

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
)

// ID is a message's UUID, as its 16 bytes.
type ID [16]byte

// answer is one response, its body pointing into the buffer that it was cut from.
type answer struct {
	status int
	body   []byte
}

// errUnbounded: we read only answers that say how long they are.
var errUnbounded = errors.New("the answer has neither Content-Length nor chunks")

// cutAnswer takes one whole answer off the front of buf. n is 0 while buf does
// not hold all of it. Chunked bodies (RFC 9112 §7.1) are put together in a buffer of
// their own.
func cutAnswer(buf []byte) (a answer, n int, err error) {
	end := bytes.Index(buf, []byte("\r\n\r\n"))
	if end < 0 {
		return a, 0, nil
	}
	head := buf[:end]
	if len(head) < 12 || !bytes.HasPrefix(head, []byte("HTTP/1.")) {
		return a, 0, fmt.Errorf("not an HTTP answer: %.40q", head)
	}
	if a.status, err = strconv.Atoi(string(head[9:12])); err != nil {
		return a, 0, fmt.Errorf("not an HTTP answer: %.40q", head)
	}
	if a.status == 204 || a.status == 304 { // RFC 9112 §6.3
		return a, end + 4, nil
	}
	length, chunked, err := bodyLength(head)
	if err != nil {
		return a, 0, err
	}
	if chunked {
		a.body, n, err = cutChunks(buf[end+4:])
		if n > 0 {
			n += end + 4
		}
		return a, n, err
	}
	if n = end + 4 + length; n > len(buf) {
		return a, 0, nil
	}
	a.body = buf[end+4 : n]
	return a, n, nil
}

func bodyLength(head []byte) (length int, chunked bool, err error) {
	for line := range bytes.Lines(head) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		switch {
		case bytes.EqualFold(name, []byte("Content-Length")):
			length, err = strconv.Atoi(string(bytes.TrimSpace(value)))
			if err == nil && length < 0 {
				err = fmt.Errorf("the answer has a length of %d", length)
			}
			return length, false, err
		case bytes.EqualFold(name, []byte("Transfer-Encoding")) && bytes.EqualFold(bytes.TrimSpace(value), []byte("chunked")):
			return 0, true, nil
		}
	}
	return 0, false, errUnbounded
}

// cutChunks puts a chunked body together; n is 0 while it is not whole.
func cutChunks(buf []byte) (body []byte, n int, err error) {
	for {
		line := bytes.Index(buf[n:], []byte("\r\n"))
		if line < 0 {
			return nil, 0, nil
		}
		size, _, _ := bytes.Cut(buf[n:n+line], []byte(";"))
		length, err := strconv.ParseUint(string(bytes.TrimSpace(size)), 16, 31)
		if err != nil {
			return nil, 0, fmt.Errorf("no size of a chunk: %.40q", size)
		}
		n += line + 2
		if length == 0 {
			break
		}
		if n+int(length)+2 > len(buf) {
			return nil, 0, nil
		}
		body = append(body, buf[n:n+int(length)]...)
		n += int(length) + 2
	}
	for { // trailers, and an empty line
		line := bytes.Index(buf[n:], []byte("\r\n"))
		if line < 0 {
			return nil, 0, nil
		}
		if n += line + 2; line == 0 {
			return body, n, nil
		}
	}
}

// appendQueued appends the ids of the items that the answer calls queued.
//
// It looks for the two members by name and reads no JSON beyond that: both
// spellings of an answer that we know put them into flat objects.
func appendQueued(ids []ID, body []byte) []ID {
	const member, queued = `"message_id":"`, `"status":"queued"`
	for {
		item, rest, more := bytes.Cut(body, []byte("}"))
		if at := bytes.Index(item, []byte(member)); at >= 0 && bytes.Contains(item, []byte(queued)) {
			if id, ok := parseID(item[at+len(member):]); ok {
				ids = append(ids, id)
			}
		}
		if !more {
			return ids
		}
		body = rest
	}
}

// parseID reads the 36 characters of a UUID at the front of b.
func parseID(b []byte) (id ID, ok bool) {
	if len(b) < 36 || b[8] != '-' || b[13] != '-' || b[18] != '-' || b[23] != '-' {
		return id, false
	}
	var digits [32]byte
	n := copy(digits[:], b[:8])
	n += copy(digits[n:], b[9:13])
	n += copy(digits[n:], b[14:18])
	n += copy(digits[n:], b[19:23])
	copy(digits[n:], b[24:36])
	_, err := hex.Decode(id[:], digits[:])
	return id, err == nil
}

// Queued is how many items an answer calls queued.
func Queued(body []byte) int { return bytes.Count(body, []byte(`"status":"queued"`)) }

// Buffered is how many items an answer calls buffered.
func Buffered(body []byte) int { return bytes.Count(body, []byte(`"status":"buffered"`)) }
