package httpparse

import "encoding/binary"

// tokenByte holds the bytes of a token (RFC 9110 §5.6.2).
var tokenByte = classOf("!#$%&'*+-.^_`|~" + alphanumeric)

// hostByte holds the bytes of a registered name (RFC 3986 §3.2.2); % only before
// two hexadecimal digits.
var hostByte = classOf("-._~!$&'()*+,;=%" + alphanumeric)

const alphanumeric = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"

func classOf(members string) (class [256]bool) {
	for i := range len(members) {
		class[members[i]] = true
	}
	return class
}

// hexValue maps a hexadecimal digit to its value, and other bytes to 0xFF.
var hexValue = func() (value [256]uint8) {
	for c := range value {
		switch {
		case '0' <= c && c <= '9':
			value[c] = uint8(c - '0')
		case 'A' <= c && c <= 'F':
			value[c] = uint8(c - 'A' + 10)
		case 'a' <= c && c <= 'f':
			value[c] = uint8(c - 'a' + 10)
		default:
			value[c] = 0xFF
		}
	}
	return value
}()

func isHex(c byte) bool   { return hexValue[c] != 0xFF }
func isDigit(c byte) bool { return '0' <= c && c <= '9' }
func isSpace(c byte) bool { return c == ' ' || c == '\t' }

// tokenLength is how many bytes of v, from its beginning, are a token.
func tokenLength(v []byte) int {
	for i, c := range v {
		if !tokenByte[c] {
			return i
		}
	}
	return len(v)
}

// trimSpace cuts off spaces and tabs on both sides (RFC 9110 §5.6.3).
func trimSpace(v []byte) []byte {
	v = trimLeft(v)
	for len(v) > 0 && isSpace(v[len(v)-1]) {
		v = v[:len(v)-1]
	}
	return v
}

func trimLeft(v []byte) []byte {
	for len(v) > 0 && isSpace(v[0]) {
		v = v[1:]
	}
	return v
}

// equalFold compares without regard to the case of ASCII letters.
func equalFold(v []byte, name string) bool {
	if len(v) != len(name) {
		return false
	}
	for i, c := range v {
		if lower[c] != lower[name[i]] {
			return false
		}
	}
	return true
}

// lower maps the capital ASCII letters to small ones, and other bytes to
// themselves.
var lower = func() (small [256]byte) {
	for i := range small {
		small[i] = byte(i)
		if 'A' <= i && i <= 'Z' {
			small[i] |= 0x20
		}
	}
	return small
}()

// The two checks below look at eight bytes at once. In a word w, some byte is
// smaller than n (n ≤ 128) exactly if (w - n·ones) &^ w & highs is not 0; some
// byte equals c exactly if some byte of w ^ c·ones is smaller than 1.
const (
	ones  = 0x0101010101010101
	highs = 0x8080808080808080
)

// isFieldValue says whether v consists of field-vchar, SP and HTAB (RFC 9110
// §5.5): no control bytes, in particular no NUL and no CR.
func isFieldValue(v []byte) bool {
	for len(v) >= 8 {
		w := binary.LittleEndian.Uint64(v)
		del := w ^ 0x7F*ones
		if ((w-0x20*ones)&^w|(del-ones)&^del)&highs != 0 && !areFieldBytes(v[:8]) {
			return false
		}
		v = v[8:]
	}
	return areFieldBytes(v)
}

func areFieldBytes(v []byte) bool {
	for _, c := range v {
		if c < ' ' && c != '\t' || c == 0x7F {
			return false
		}
	}
	return true
}

// isTarget says whether v has no space, no control byte and no #.
func isTarget(v []byte) bool {
	for len(v) >= 8 {
		w := binary.LittleEndian.Uint64(v)
		del, hash := w^0x7F*ones, w^'#'*ones
		if ((w-0x21*ones)&^w|(del-ones)&^del|(hash-ones)&^hash)&highs != 0 {
			return false
		}
		v = v[8:]
	}
	for _, c := range v {
		if c <= ' ' || c == 0x7F || c == '#' {
			return false
		}
	}
	return true
}
