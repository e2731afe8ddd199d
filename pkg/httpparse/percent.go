package httpparse

import "bytes"

// CutSegment splits the first segment off a path: "/a%2Fb/c" → "a%2Fb", "/c". The
// segment is still encoded, so that a slash that the client encoded does not
// become one that separates (RFC 3986 §2.2): cut first, then DecodeSegment. A path
// that ends with "/" has an empty last segment; a path that does not begin with "/"
// (empty, or "*") has none, and ok is false.
func CutSegment(path []byte) (segment, rest []byte, ok bool) {
	if len(path) == 0 || path[0] != '/' {
		return nil, path, false
	}
	path = path[1:]
	if i := bytes.IndexByte(path, '/'); i >= 0 {
		return path[:i], path[i:], true
	}
	return path, nil, true
}

// DecodeSegment appends the decoded segment to dst, which the caller owns and
// which must not overlap with it. "+" stays what it is. A percent sign without two
// hexadecimal digits, and the byte NUL, are errors (400). The result may contain
// any other byte: whether it is UTF-8, or a name, is for the caller to ask.
func DecodeSegment(dst, segment []byte) ([]byte, *Error) {
	return decode(dst, segment, false)
}

// QueryValue looks for a key in a query (key=value pairs, separated by "&";
// percent-encoded, "+" for a space) and appends the first value it has, decoded,
// to dst, which the caller owns. A key without "=" has the value "". found is
// false if there is no such key. An error (400) is reported for the value that was
// looked for only; it is found then, and dst is as it was.
func QueryValue(dst, query []byte, key string) (value []byte, found bool, err *Error) {
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, ampersand)
		name, raw, _ := bytes.Cut(pair, equalSign)
		if len(pair) > 0 && decodesTo(name, key) {
			value, err = decode(dst, raw, true)
			return value, true, err
		}
	}
	return dst, false, nil
}

var ampersand, equalSign = []byte("&"), []byte("=")

func decode(dst, src []byte, form bool) ([]byte, *Error) {
	was := len(dst)
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case c == '+' && form:
			c = ' '
		case c == '%':
			if len(src)-i < 3 || !isHex(src[i+1]) || !isHex(src[i+2]) {
				return dst[:was], errPercent
			}
			c = hexValue[src[i+1]]<<4 | hexValue[src[i+2]]
			i += 2
		}
		if c == 0 {
			return dst[:was], errNUL
		}
		dst = append(dst, c)
	}
	return dst, nil
}

// decodesTo says whether src, decoded, is key.
func decodesTo(src []byte, key string) bool {
	n := 0
	for i := 0; i < len(src); i++ {
		c := src[i]
		switch {
		case c == '+':
			c = ' '
		case c == '%':
			if len(src)-i < 3 || !isHex(src[i+1]) || !isHex(src[i+2]) {
				return false
			}
			c = hexValue[src[i+1]]<<4 | hexValue[src[i+2]]
			i += 2
		}
		if n == len(key) || key[n] != c {
			return false
		}
		n++
	}
	return n == len(key)
}
