package httpparse

import (
	"bytes"
	"fmt"
	"strings"
	"testing"
)

const chunkedHead = "POST /c HTTP/1.1\r\nHost: h\r\nTransfer-Encoding: chunked\r\n\r\n"

// chunkedTranscript checks the body behind chunkedHead; want is the body, or a
// refusal.
func chunkedTranscript(t *testing.T) func(body, want string) {
	return func(body, want string) {
		t.Helper()
		switch {
		case strings.HasPrefix(want, "!"):
		case want == "":
			want = "POST /c 1.1 h keep chunked"
		default:
			want = fmt.Sprintf("POST /c 1.1 h keep chunked %q", want)
		}
		transcript(t, nil)(chunkedHead+body, want)
	}
}

func TestChunksArePutTogether(t *testing.T) {
	f := chunkedTranscript(t)
	f("0\r\n\r\n", "")
	f("000\r\n\r\n", "")
	f("5\r\nhello\r\n0\r\n\r\n", "hello")
	f("1\r\nh\r\n1\r\ne\r\n3\r\nllo\r\n0\r\n\r\n", "hello")
	f("A\r\n0123456789\r\na\r\nabcdefghij\r\n0\r\n\r\n", "0123456789abcdefghij")
	f("1a\r\nabcdefghijklmnopqrstuvwxyz\r\n0\r\n\r\n", "abcdefghijklmnopqrstuvwxyz")
	f("0000000000000005\r\nhello\r\n0\r\n\r\n", "hello")
	f("7\r\n0\r\n\r\n\r\n\r\n0\r\n\r\n", "0\r\n\r\n\r\n")
	f("2\r\n\r\n\r\n2\r\n\x00\xff\r\n0\r\n\r\n", "\r\n\x00\xff")
}

func TestChunkExtensionsAreSkipped(t *testing.T) {
	f := chunkedTranscript(t)
	f("5;a\r\nhello\r\n0;b=c\r\n\r\n", "hello")
	f("5;a=b;c=\"d;e\\\"\"\r\nhello\r\n0\r\n\r\n", "hello")
	f("5 \t; a = b\r\nhello\r\n0\r\n\r\n", "hello")
	f("5;a=\"\";b;c=\"\xff\t \"\r\nhello\r\n0\r\n\r\n", "hello")
	const ext = "!400 A chunk extension is malformed."
	for _, v := range []string{";", ";;", ";a;", ";a=", ";=b", ";a=b=c", ";a b", ";a=b c", ";a ", ";a=\"b\" ", ";a=b ",
		";\"a\"", ";a=\"", ";a=\"b", ";a=\"b\\\"", ";a=\"\\", ";a=\"\x00\"", ";a=\"\r\"", ";a=\"\\\r\"", ";\xff", ";a=\xff"} {
		f("5"+v+"\r\nhello\r\n0\r\n\r\n", ext)
	}
	f("5 \r\nhello\r\n0\r\n\r\n", ext)
	f("5 a\r\nhello\r\n0\r\n\r\n", ext)
	f("5,a\r\nhello\r\n0\r\n\r\n", ext)
	f("5;a\rb\r\nhello\r\n0\r\n\r\n", ext)
	f("5;a\r\r\nhello\r\n0\r\n\r\n", ext)
	f("5;\x00\r\nhello\r\n0\r\n\r\n", ext)
	f("5\x0b;a\r\nhello\r\n0\r\n\r\n", ext)
	f("0 \r\n\r\n", ext)
	f("5;a\nhello\r\n0\r\n\r\n", "!400 A line ends with LF without CR.")
	f("5;\nhello\r\n0\r\n\r\n", "!400 A line ends with LF without CR.")
}

func TestBrokenChunksAreRefused(t *testing.T) {
	f := chunkedTranscript(t)
	const size = "!400 A chunk does not begin with its size in hexadecimal digits."
	f("\r\n", size)
	f(" 5\r\nhello\r\n0\r\n\r\n", size)
	f("+5\r\nhello\r\n0\r\n\r\n", size)
	f("-5\r\nhello\r\n0\r\n\r\n", size)
	f("x\r\n", size)
	f(";a\r\n", size)
	f("00000000000000005\r\nhello\r\n0\r\n\r\n", size) // 17 digits
	f("10000000000000005\r\nhello\r\n0\r\n\r\n", size) // 5 modulo 2⁶⁴
	f("0x5\r\nhello\r\n0\r\n\r\n", "!400 A chunk extension is malformed.")
	f("5h\r\nhello\r\n0\r\n\r\n", "!400 A chunk extension is malformed.")
	f("ffffffffffffffff\r\n", "!413")
	f("8000000000000000\r\n", "!413")
	const end = "!400 A chunk is not followed by CR LF."
	f("5\r\nhello0\r\n\r\n", end)
	f("5\r\nhello!\r\n0\r\n\r\n", end)
	f("5\r\nhelloXX0\r\n\r\n", end)
	f("5\r\nhello\rX0\r\n\r\n", end)
	f("5\r\nhello\r\r\n0\r\n\r\n", end)
	f("5\r\nhello\n0\r\n\r\n", end)
	f("4\r\nhello\r\n0\r\n\r\n", end)
	f("6\r\nhello\r\n0\r\n\r\n", end)
}

func TestTrailersAreCheckedAndForgotten(t *testing.T) {
	f := chunkedTranscript(t)
	f("2\r\nhi\r\n0\r\nX: y\r\nZ:\r\n\r\n", "hi")
	f("0\r\nX: y\r\n\r\n", "")
	f("0\r\nX: "+strings.Repeat("y", 5000)+"\r\n\r\n", "")
	// What they say about the message's shape or address is not heard (RFC 9110 §6.5.1).
	f("2\r\nhi\r\n0\r\nContent-Length: 7\r\nHost: other\r\nTransfer-Encoding: x\r\nConnection: close\r\nExpect: x\r\n\r\n", "hi")
	var p Parser
	event, _, err := p.Next([]byte(chunkedHead + "0\r\nX: y\r\n\r\n"))
	if event != Complete || p.Request.Field("X") != nil {
		t.Error("a trailer is seen as a field:", event, err)
	}
}

func TestTransferCodingsOtherThanChunkedAreRefused(t *testing.T) {
	f := func(fields, want string) {
		t.Helper()
		transcript(t, nil)("POST /c HTTP/1.1\r\nHost: h\r\n"+fields+"\r\n2\r\nhi\r\n0\r\n\r\n", want)
	}
	const (
		list    = "!400 Transfer-Encoding is not a list of codings."
		order   = "!400 The chunked coding has to be the last one, once and without parameters."
		unknown = "!501 The only transfer coding that is understood here is chunked."
		both    = "!400 There are both Content-Length and Transfer-Encoding."
	)
	f("Transfer-Encoding: chunked\r\n", `POST /c 1.1 h keep chunked "hi"`)
	f("transfer-encoding:\tCHUNKED \r\n", `POST /c 1.1 h keep chunked "hi"`)
	f("Transfer-Encoding: gzip\r\n", unknown)
	f("Transfer-Encoding: identity\r\n", unknown)
	f("Transfer-Encoding: xchunked\r\n", unknown)
	f("Transfer-Encoding: gzip;q=1\r\n", unknown)
	f("Transfer-Encoding: gzip, chunked\r\n", unknown)
	f("Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n", unknown)
	f("Transfer-Encoding: chunked, gzip\r\n", order)
	f("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", order)
	f("Transfer-Encoding: chunked, chunked\r\n", order)
	f("Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n", order)
	f("Transfer-Encoding: chunked;a=b\r\n", order)
	f("Transfer-Encoding: chunked ; a=b\r\n", order)
	f("Transfer-Encoding: chunked x\r\n", list)
	f("Transfer-Encoding: gzip, chunked, gzip\r\n", order)
	f("Transfer-Encoding:\r\n", list)
	f("Transfer-Encoding: ,chunked\r\n", list)
	f("Transfer-Encoding: chunked,\r\n", list)
	f("Transfer-Encoding: chunked, , gzip\r\n", list)
	f("Transfer-Encoding: \"chunked\"\r\n", list)
	f("Transfer-Encoding: ;chunked\r\n", list)
	f("Transfer-Encoding: chunked\r\nContent-Length: 2\r\n", both)
	f("Content-Length: 2\r\nTransfer-Encoding: chunked\r\n", both)
	f("Content-Length: 2\r\nTransfer-Encoding: gzip\r\n", both)
	f("Content-Length: 0\r\nTransfer-Encoding: chunked\r\n", both)
	for _, connection := range []string{"", "Connection: keep-alive\r\n"} {
		transcript(t, nil)("POST /c HTTP/1.0\r\n"+connection+"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
			"!400 Transfer-Encoding does not exist in HTTP/1.0.")
	}
}

func TestTheFirstChunkStaysWhereItIs(t *testing.T) {
	buf := []byte(chunkedHead + "5\r\nhello\r\n1\r\n!\r\n0\r\n\r\n")
	var p Parser
	if event, _, err := p.Next(buf); event != Complete {
		t.Fatal(event, err)
	}
	if at := bytes.Index(buf, []byte("hello!")); at != len(chunkedHead)+3 || &buf[at] != &p.Request.Body[0] {
		t.Errorf("the body was moved to %d", at)
	}
}
