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
var errUnbounded = errors.New("the answer has no Content-Length")

// cutAnswer takes one whole answer off the front of buf. n is 0 while buf does
// not hold all of it.
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
	length, err := contentLength(head)
	if err != nil {
		return a, 0, err
	}
	if n = end + 4 + length; n > len(buf) {
		return a, 0, nil
	}
	a.body = buf[end+4 : n]
	return a, n, nil
}

func contentLength(head []byte) (int, error) {
	for line := range bytes.Lines(head) {
		name, value, _ := bytes.Cut(line, []byte(":"))
		if bytes.EqualFold(name, []byte("Content-Length")) {
			return strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
	return 0, errUnbounded
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
