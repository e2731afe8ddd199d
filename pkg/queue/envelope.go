package queue

import (
	"bytes"
	"encoding/base64"
	"slices"
)

// Open appends to dst the payload that is in an envelope of Seal's or Queen's. ok is
// false, and dst as it was, for everything else: a payload that is no envelope (what
// decides is its shape, an object that has all three keys, not the row's flag), one
// that was sealed with another key or was altered, and if s is nil (no key was
// given). Such payloads are delivered as they are stored.
//
// payload is not changed and must not overlap with dst. Any goroutine.
func (s *Sealer) Open(dst, payload []byte) (plain []byte, ok bool) {
	if s == nil {
		return dst, false
	}
	e, ok := readEnvelope(payload)
	if !ok {
		return dst, false
	}
	b64 := base64.StdEncoding
	var ivRoom, tagRoom [32]byte
	iv, err := b64.AppendDecode(ivRoom[:0], e.iv)
	if err != nil || len(iv) != ivBytes {
		return dst, false
	}
	tag, err := b64.AppendDecode(tagRoom[:0], e.tag)
	if err != nil || len(tag) != tagBytes {
		return dst, false
	}
	from := len(dst)
	room := slices.Grow(dst, b64.DecodedLen(len(e.text))+tagBytes)
	sealed, err := b64.AppendDecode(room, e.text)
	if err != nil {
		return dst, false
	}
	sealed = append(sealed, tag...)
	plain, err = s.gcm.Open(sealed[from:from], iv[:nonceBytes], sealed[from:], nil)
	if err != nil || !isJSON(plain) {
		return dst, false
	}
	return sealed[:from+len(plain)], true
}

// envelope holds the three values of an envelope, in base64.
type envelope struct{ text, iv, tag []byte }

// readEnvelope reads a payload that has the shape of an envelope. The column may be
// jsonb, which orders keys and puts spaces between them as it likes.
func readEnvelope(payload []byte) (e envelope, ok bool) {
	// Most payloads are none: they are told by what they lack, at the speed of memory.
	if !bytes.Contains(payload, authTagKey) {
		return e, false
	}
	var s scanner
	s.reset(payload)
	if s.space() != '{' || !s.open(true) {
		return e, false
	}
	for {
		from, to, ok := s.key(badKey)
		if !ok {
			return e, false
		}
		key := payload[from:to]
		s.space()
		at := s.i
		if !s.value() {
			return e, false
		}
		switch string(key) {
		case "encrypted":
			e.text, ok = stringValue(payload[at:s.i])
		case "iv":
			e.iv, ok = stringValue(payload[at:s.i])
		case "authTag":
			e.tag, ok = stringValue(payload[at:s.i])
		}
		if !ok {
			return e, false
		}
		c := s.space()
		s.i++
		if c == '}' {
			return e, e.text != nil && e.iv != nil && e.tag != nil
		}
		if c != ',' {
			return e, false
		}
	}
}

var authTagKey = []byte(`"authTag"`)

// stringValue is the text of a value that is a string.
func stringValue(value []byte) ([]byte, bool) {
	if value[0] != '"' {
		return nil, false
	}
	text := value[1 : len(value)-1]
	if bytes.IndexByte(text, '\\') >= 0 {
		text = unescape(bytes.Clone(text)) // "\/" is a way to write what base64 uses
	}
	return text, true
}

// isJSON says whether text is one JSON value: what was opened goes into an answer as
// it is.
func isJSON(text []byte) bool {
	var s scanner
	s.reset(text)
	return s.value() && s.end()
}
