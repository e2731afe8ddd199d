package queue

import (
	"bytes"
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/valyala/fastjson"
)

// scan says whether text is JSON to the scanner, and what is wrong with it if not.
func scan(text []byte) string {
	var s scanner
	s.reset(text)
	if s.value() && s.end() {
		if s.i != len(text) || s.depth != 0 {
			panic(fmt.Sprintf("accepted, but stopped at %d of %d, depth %d", s.i, len(text), s.depth))
		}
		return ""
	}
	if s.at < 0 || s.at > len(text) || s.bad == "" {
		panic(fmt.Sprintf("refused at %d of %d: %q", s.at, len(text), s.bad))
	}
	return s.sentence(text)
}

func TestScannerAcceptsTheGrammarOfRFC8259(t *testing.T) {
	for _, text := range []string{
		`null`, `true`, `false`, `0`, `-0`, `12`, `-1.5`, `1e3`, `1E+3`, `1e-3`, `0.0e00`, `""`, `"a"`,
		`[]`, `{}`, ` [ ] `, "\t{\r\n} ", `[1,2]`, `[[],{}]`, `{"a":1,"a":2}`, `{"":{"":[{}]}}`,
		`"\"\\\/\b\f\n\r\t\u0041\u0000\ud83d\ude00\ud800"`, `"é😀` + "\u2028\x7f" + `"`,
		`{"a":[1,{"b":null}],"c":"d"}`, ` 1 `,
		strings.Repeat("[", DepthMax) + strings.Repeat("]", DepthMax),
	} {
		if got := scan([]byte(text)); got != "" {
			t.Errorf("%s: %s", text, got)
		}
	}
}

func TestScannerSaysWhatIsWrongAndWhere(t *testing.T) {
	f := func(text, want string) {
		t.Helper()
		if got := scan([]byte(text)); got != want {
			t.Errorf("%q:\n got %s\nwant %s", text, got, want)
		}
	}
	f("", "expected a value; found the end of the text at line 1, column 1")
	f("  ", "expected a value; found the end of the text at line 1, column 3")
	f("{bad json", "expected a string in double quotes as the object's first key, or '}'; found 'b' at line 1, column 2")
	f(`{"items":[{"queue":"q"`, "expected ',' or '}' after a value in an object; found the end of the text at line 1, column 23")
	f("{\n \"a\": tru}", "expected a value; found 't' at line 2, column 7")
	f(`{"a":1,}`, "expected a string in double quotes as the object's next key; found '}' at line 1, column 8")
	f(`{"a" 1}`, "expected ':' after the object's key; found '1' at line 1, column 6")
	f(`{"a":}`, "expected a value; found '}' at line 1, column 6")
	f(`[1,]`, "expected a value; found ']' at line 1, column 4")
	f(`[1 2]`, "expected ',' or ']' after a value in an array; found '2' at line 1, column 4")
	f(`[1}`, "expected ',' or ']' after a value in an array; found '}' at line 1, column 3")
	f(`{"a":1]`, "expected ',' or '}' after a value in an object; found ']' at line 1, column 7")
	f(`1 2`, "expected nothing after the value; found '2' at line 1, column 3")
	f(`"é" x`, "expected nothing after the value; found 'x' at line 1, column 5")
	f(`"abc`, "the text ends inside a string; found the end of the text at line 1, column 5")
	f(`"abc\`, "the text ends inside a string; found the end of the text at line 1, column 6")
	f("\"a\nb\"", "a control character in a string must be escaped; found byte 0x0a at line 1, column 3")
	f("\"12345678\x00\"", "a control character in a string must be escaped; found byte 0x00 at line 1, column 10")
	f(`"\x"`, badEscape+`; found '\' at line 1, column 2`)
	f(`"\u12g4"`, badEscape+`; found '\' at line 1, column 2`)
	f(`"\u12`, badEscape+`; found '\' at line 1, column 2`)
	f("\"a\xffb\"", "a string is not valid UTF-8; found byte 0xff at line 1, column 3")
	f("\"\xed\xa0\x80\"", "a string is not valid UTF-8; found byte 0xed at line 1, column 2")
	f("\"\xc3\"", "a string is not valid UTF-8; found byte 0xc3 at line 1, column 2")
	f("\"\xc0\x80\"", "a string is not valid UTF-8; found byte 0xc0 at line 1, column 2")
	f("\xef\xbb\xbf{}", "expected a value; found byte 0xef at line 1, column 1")
	f("-", "a number needs a digit here; found the end of the text at line 1, column 2")
	f("-a", "a number needs a digit here; found 'a' at line 1, column 2")
	f("1.", "a number needs a digit here; found the end of the text at line 1, column 3")
	f("1.e5", "a number needs a digit here; found 'e' at line 1, column 3")
	f("1e+", "a number needs a digit here; found the end of the text at line 1, column 4")
	f("01", "expected nothing after the value; found '1' at line 1, column 2")
	f("+1", "expected a value; found '+' at line 1, column 1")
	f("NaN", "expected a value; found 'N' at line 1, column 1")
	f("nulL", "expected a value; found 'n' at line 1, column 1")
	f("'a'", "expected a value; found ''' at line 1, column 1")
	f("[1]\x00", "expected nothing after the value; found byte 0x00 at line 1, column 4")
	f("\x00", "expected a value; found byte 0x00 at line 1, column 1")
	f("\v1", "expected a value; found byte 0x0b at line 1, column 1")
	f(strings.Repeat("[", DepthMax+1), "nested deeper than 512 levels; found '[' at line 1, column 513")
	f(strings.Repeat(`{"a":`, DepthMax+1), "nested deeper than 512 levels; found '{' at line 1, column 2561")
}

func TestScannerFlagsWhatCannotBeStoredEverywhere(t *testing.T) {
	f := func(text string, want textFlags) {
		t.Helper()
		var s scanner
		s.reset([]byte(text))
		s.numbers = true
		if !s.value() || s.flags != want {
			t.Errorf("%.60s: flags %b, want %b (%s)", text, s.flags, want, s.bad)
		}
	}
	f(`"plain é"`, 0)
	f(`"\n"`, hasEscape)
	f(`"\u0000"`, hasEscape|hasNUL)
	f(`"\\u0000"`, hasEscape)
	f(`["a",{"\u0000":1}]`, hasEscape|hasNUL)
	f(`"\ud83d\ude00"`, hasEscape)
	f(`"\ud83d"`, hasEscape|hasSurrogate)
	f(`"\ud83dA"`, hasEscape|hasSurrogate)
	f(`"\ud83d\u0041"`, hasEscape|hasSurrogate)
	f(`"\ud83d\ud83d\ude00"`, hasEscape|hasSurrogate)
	f(`"\ude00\ud83d"`, hasEscape|hasSurrogate)
	f(`"\uDE00"`, hasEscape|hasSurrogate)
	f(`"\ufffd\uFFFF"`, hasEscape)
	f(`1e400`, 0)
	f(`1e-400`, 0)
	f(`1e401`, hasNumber)
	f(`[1E+00000401]`, hasNumber)
	f(`1e0000000000000000000000000400`, 0)
	f(`1e-99999999999999999999999999`, hasNumber)
	f(strings.Repeat("9", NumberDigitsMax), 0)
	f("-"+strings.Repeat("9", NumberDigitsMax), 0)
	f(strings.Repeat("9", NumberDigitsMax+1), hasNumber)
	f("1."+strings.Repeat("9", NumberDigitsMax), hasNumber)
}

func TestUnescapeIsWhatEncodingJSONReads(t *testing.T) {
	for _, text := range []string{`""`, `"abc"`, `"\"\\\/\b\f\n\r\t"`, `"a\u00e9\u20acz\ud83d\ude00"`, `"\ud83d"`, `"\ud83d\u0041"`, `"\ude00\ud83dx"`, `"\u0000"`, `"é\n"`} {
		var want string
		if err := json.Unmarshal([]byte(text), &want); err != nil {
			t.Fatal(err)
		}
		if got := string(unescape([]byte(text[1 : len(text)-1]))); got != want {
			t.Errorf("%s: %q, want %q", text, got, want)
		}
	}
}

// FuzzScan compares the scanner with encoding/json and fastjson. What differs:
//   - encoding/json takes invalid UTF-8 in strings for U+FFFD; we refuse it (RFC 8259
//     §8.1);
//   - we refuse to go deeper than DepthMax; encoding/json's limit is 10,000, fastjson's
//     validator recurses without one (which is why deep text is not given to it);
//   - fastjson's validator lets pass what is pinned in TestWhereFastjsonIsLenient.
func FuzzScan(f *testing.F) {
	for _, text := range []string{`{"items":[{"queue":"q","payload":{"a":[1,2.5e-3,null,true,"\u00e9"]}}]}`, `[[[]]]`, `"\ud800"`, `{"a":1,"a":2}`, "\"\xff\"", `-0.0e+1`, `[1,`, strings.Repeat("[", 600), `"` + strings.Repeat("é", 20) + `\n"`} {
		f.Add([]byte(text))
	}
	f.Fuzz(func(t *testing.T, text []byte) {
		bad := scan(text)
		want := json.Valid(text)
		switch {
		case strings.HasPrefix(bad, badDepth):
			return
		case bad == "" && !want:
			t.Fatalf("%q: accepted", text)
		case bad != "" && want && utf8.Valid(text):
			t.Fatalf("%q: %s", text, bad)
		case bad == "" && !utf8.Valid(text):
			t.Fatalf("%q: accepted, and is not UTF-8", text)
		}
		if bytes.Count(text, []byte("["))+bytes.Count(text, []byte("{")) > DepthMax {
			return
		}
		if fast := fastjson.ValidateBytes(text); bad == "" && fast != nil {
			t.Fatalf("%q: accepted; fastjson: %v", text, fast)
		} else if bad != "" && fast == nil && utf8.Valid(text) && !fastjsonIsLenient(text) {
			t.Fatalf("%q: %s; fastjson accepts it", text, bad)
		}
	})
}

// fastjsonIsLenient: its validator lets control characters pass in strings with escapes.
func fastjsonIsLenient(text []byte) bool {
	return bytes.ContainsFunc(text, func(c rune) bool { return c < ' ' })
}

func TestWhereFastjsonIsLenient(t *testing.T) {
	text := []byte("\"\x12\\n\"")
	if fastjson.ValidateBytes(text) != nil || scan(text) == "" {
		t.Error("fastjson and the scanner no longer differ in control characters")
	}
}

func BenchmarkScan(b *testing.B) {
	for _, c := range []struct{ name, text string }{
		{"push 370 B", pushOf370},
		{"ascii string 4 KiB", `"` + strings.Repeat("0123456789abcdef", 256) + `"`},
		{"two-byte string 4 KiB", `"` + strings.Repeat("é", 2048) + `"`},
	} {
		b.Run(c.name, func(b *testing.B) {
			text := []byte(c.text)
			b.SetBytes(int64(len(text)))
			b.ReportAllocs()
			var s scanner
			for b.Loop() {
				s.reset(text)
				if !s.value() {
					b.Fatal(s.bad)
				}
			}
		})
	}
}

// pushOf370 is one message of 200 bytes, as a client sends it.
var pushOf370 = `{"items":[{"queue":"orders.created","partition":"customer-4711","transactionId":"019dc9b7-cb4f-7c1a-9b21-7e8a5c3a40e1","payload":` +
	`{"id":4711,"customer":"Ada Lovelace","amount":129.95,"currency":"EUR","lines":[{"sku":"A-100","n":2},{"sku":"B-200","n":1}],"note":"` +
	strings.Repeat("leave it at the door ", 4) + `"}}]}`

func TestHalfOfASurrogatePairIsFound(t *testing.T) {
	f := func(text string, half bool) {
		t.Helper()
		if got := HasHalfPair([]byte(text)); got != half {
			t.Errorf("%s: %v", text, got)
		}
	}
	f(`{"queue":"\ud800"}`, true)
	f(`{"queue":"\udc00\ud800"}`, true)
	f(`{"queue":"\uD83D\uD83D\uDE00"}`, true)
	f(`{"queue":"\uD83D\uDE00\uDE00"}`, true)
	f(`{"queue":"\uD83D\n"}`, true)
	f(`{"queue":"\uD83Dudc00"}`, true)
	f(`{"queue":"\uD83D\uDE00"}`, false)
	f(`{"queue":"\\ud800"}`, false)
	f(`{"queue":"\\\"\u0041\ufffd\\"}`, false)
	f("{\"queue\":\"\ufffd\U0001f600\"}", false)
}
