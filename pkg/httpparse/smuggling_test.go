package httpparse

import (
	"strings"
	"testing"
)

// Each of these was, somewhere, read in two ways by two servers in a row, so that
// the second one saw a request that the first one had taken for a body (RFC 9112
// §11.2). Here none of them is served, and what follows is never looked at.
func TestSmugglersAreRefused(t *testing.T) {
	const hidden = "0\r\n\r\nGET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
	f := func(fields string, want string) {
		t.Helper()
		got := readAnyhow(t, nil, "POST / HTTP/1.1\r\nHost: h\r\n"+fields+"\r\n\r\n"+hidden)
		if len(got) != 1 || !strings.HasPrefix(got[0], want) {
			t.Errorf("%q: %q, want %s", fields, got, want)
		}
	}
	// Two lengths.
	f("Content-Length: 5\r\nTransfer-Encoding: chunked", "!400")
	f("Transfer-Encoding: chunked\r\nContent-Length: 5", "!400")
	f("Content-Length: 5\r\nTransfer-Encoding: identity", "!400")
	f("Content-Length: 5\r\nContent-Length: 6", "!400")
	f("Content-Length: 5, 6", "!400")
	f("Content-Length: 5 6", "!400")
	f("Content-Length: 5\r\nX: y\r\nCONTENT-LENGTH: 0", "!400")
	// A number that is read in two ways.
	f("Content-Length: +5", "!400")
	f("Content-Length: -5", "!400")
	f("Content-Length: 0x5", "!400")
	f("Content-Length: 5e0", "!400")
	f("Content-Length: 5\x0b", "!400")
	f("Content-Length: 5\x00", "!400")
	f("Content-Length: 4294967301000000000000", "!400")
	f("Content-Length:\r\n 5", "!400")
	f("Content-Length: 1\r\n 5", "!400")
	// A name that is read in two ways.
	f("Content-Length : 5", "!400")
	f("Content-Length\t: 5", "!400")
	f("Content-Length\x00: 5", "!400")
	f(" Content-Length: 5", "!400")
	f("X: y\n Content-Length: 5", "!400")
	f("X: y\nContent-Length: 5", "!400")
	f("X: y\rContent-Length: 5", "!400")
	f("X: y\r\rContent-Length: 5", "!400")
	f("Transfer-Encoding : chunked", "!400")
	f("Transfer-Encoding\r\n : chunked", "!400")
	f("Transfer-Encoding:\r\n chunked", "!400")
	f(" Transfer-Encoding: chunked", "!400")
	f("X: y\r\n Transfer-Encoding: chunked", "!400")
	f("X: y\nTransfer-Encoding: chunked", "!400")
	f("X: \x00\nTransfer-Encoding: chunked", "!400")
	f("\xefTransfer-Encoding: chunked", "!400")
	f("Transfer\x00Encoding: chunked", "!400")
	f(":Transfer-Encoding: chunked", "!400")
	// A coding that is read in two ways.
	f("Transfer-Encoding: xchunked", "!501")
	f("Transfer-Encoding: chunkedx", "!501")
	f("Transfer-Encoding: chunke", "!501")
	f("Transfer-Encoding: x\r\nTransfer-Encoding: chunked", "!501")
	f("Transfer-Encoding: chunked\r\nTransfer-Encoding: x", "!400")
	f("Transfer-Encoding: chunked, identity", "!400")
	f("Transfer-Encoding: identity, chunked", "!501")
	f("Transfer-Encoding: chunked, cow", "!400")
	f("Transfer-Encoding: cow, chunked", "!501")
	f("Transfer-Encoding: \x0bchunked", "!400")
	f("Transfer-Encoding: chunked\x0b", "!400")
	f("Transfer-Encoding: \x0cchunked", "!400")
	f("Transfer-Encoding: chunked\x00", "!400")
	f("Transfer-Encoding: chunk\x00ed", "!400")
	f("Transfer-Encoding: \x00", "!400")
	f("Transfer-Encoding: chun\xc4\xb7ed", "!400")
	f("Transfer-Encoding: \xe2\x84\xaa", "!400") // the Kelvin sign folds to k, elsewhere
	f("Transfer-Encoding: \"chunked\"", "!400")
	f("Transfer-Encoding: 'chunked'", "!501")
	f("Transfer-Encoding: chunked;", "!400")
	f("Transfer-Encoding: ,chunked", "!400")
	f("Transfer-Encoding: chunked,", "!400")
	f("Transfer-Encoding: []", "!400")
	f("Transfer-Encoding: chunked\r\n\tx", "!400")
	f("Transfer-Encoding: chunked\n\r\n", "!400")
	// Two hosts.
	f("Host: other", "!400")
	f("Host : other", "!400")
	f(" Host: other", "!400")
}

func TestChunksHideNothing(t *testing.T) {
	const hidden = "GET /hidden HTTP/1.1\r\nHost: h\r\n\r\n"
	f := func(body string) {
		t.Helper()
		got := readAnyhow(t, nil, chunkedHead+body+hidden)
		if len(got) != 1 || !strings.HasPrefix(got[0], "!4") {
			t.Errorf("%q: %q", body, got)
		}
	}
	f("0x0\r\n\r\n")
	f("0;\n\r\n\r\n")
	f("0\n\n")
	f("0\r\n\n")
	f("0\n\r\n")
	f("0\r\r\n\r\n")
	f("0 \r\n\r\n")
	f(" 0\r\n\r\n")
	f("+0\r\n\r\n")
	f("-0\r\n\r\n")
	f("0_\r\n\r\n")
	f("\r\n0\r\n\r\n")
	f("1\r\na0\r\n\r\n")
	f("1\r\naXX0\r\n\r\n")
	f("1\r\na\n0\r\n\r\n")
	f("1\r\na\r0\r\n\r\n")
	f("1;a\n\r\na\r\n0\r\n\r\n")
	f("1;a=\"\r\n\"\r\n0\r\n\r\n")
	f("1;a=\"\n\"\r\na\r\n0\r\n\r\n")
	f("1;\rx\r\na\r\n0\r\n\r\n")
	f("10000000000000000\r\na\r\n0\r\n\r\n")
	f("ffffffff00000001\r\na\r\n0\r\n\r\n")
	f("-1\r\na\r\n0\r\n\r\n")
	f("1\x00\r\na\r\n0\r\n\r\n")
	f("0\r\n : \r\n\r\n")
	f("0\r\nX : y\r\n\r\n")
	f("0\r\nX\r\n\r\n")
	f("0\r\nX: y\n\r\n")
	f("0\r\nX: y\r\n z\r\n\r\n")
	f("0\r\nX: y\r\r\n\r\n")
	f("0\r\nX: \x00\r\n\r\n")
}

// What looks like a length, but is none for anybody, is a field like others.
func TestNamesThatLookLikeALengthMeanNothing(t *testing.T) {
	f := func(field string) {
		t.Helper()
		transcript(t, nil)("POST / HTTP/1.1\r\nHost: h\r\n"+field+"\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", "POST / 1.1 h keep", "GET / 1.1 h keep")
	}
	f("Content_Length: 5")
	f("Content-Lengthy: 5")
	f("X-Content-Length: 5")
	f("Contentxlength: 5")
	f("Content-Length!: 5")
	f("Transfer_Encoding: chunked")
	f("Transfer-Encodings: chunked")
	f("TE: chunked")
	f("Trailer: X")
	f("Keep-Alive: timeout=5")
	f("Upgrade: h2c")
	f("Hosts: x")
	f("Expext: x")
	f("Connectiom: close")
}
