package httpparse

import (
	"bytes"
	"math"
)

// coding is what Transfer-Encoding said so far.
type coding uint8

const (
	codingChunked   coding = 1 << iota // chunked was named
	codingOther                        // another coding was named
	codingMisplaced                    // something was named behind chunked
)

// fieldHost reads a Host field's value, buf[from:to]. More than one Host, or an
// invalid one, is refused in HTTP/1.0 too (RFC 9112 §3.2).
func (p *Parser) fieldHost(buf []byte, from, to int) *Error {
	if p.hosts > 0 {
		return errHostRepeated
	}
	p.hosts++
	for from < to && isSpace(buf[from]) {
		from++
	}
	for from < to && isSpace(buf[to-1]) {
		to--
	}
	if !isHost(buf[from:to]) {
		return errHostInvalid
	}
	if p.host.to == 0 { // else the target named the authority: RFC 9112 §3.2.2
		p.host = span{from, to}
	}
	return nil
}

// fieldExpect reads an Expect field's value. An expectation in HTTP/1.0 is
// ignored, one that is unknown is refused (RFC 9110 §10.1.1).
func (p *Parser) fieldExpect(value []byte) {
	switch {
	case p.minor == 0:
	case equalFold(value, "100-continue"):
		p.expect = true
	default:
		p.expectElse = true
	}
}

// fieldConnection reads a Connection field's value, a list of which two members
// mean something (RFC 9112 §9.3). close wins, wherever it stands.
func (p *Parser) fieldConnection(value []byte) {
	for more := true; more; {
		var member []byte
		member, value, more = bytes.Cut(value, comma)
		switch member = trimSpace(member); len(member) {
		case len("close"):
			p.close = p.close || equalFold(member, "close")
		case len("keep-alive"):
			p.keepAlive = p.keepAlive || equalFold(member, "keep-alive")
		}
	}
}

var comma = []byte(",")

// fieldLength reads a Content-Length field's value: digits, and nothing else. A
// list of equal numbers, which RFC 9112 §6.3 lets a recipient repair, is refused,
// in one line or in two: no client means it.
func (p *Parser) fieldLength(value []byte) *Error {
	if p.hasLength {
		return errLengthRepeated
	}
	p.hasLength = true
	if len(value) == 0 {
		return errLengthNumber
	}
	var n int64
	for _, c := range value {
		if !isDigit(c) {
			return errLengthNumber
		}
		d := int64(c - '0')
		if n > (math.MaxInt64-d)/10 {
			return errLengthOverflow // RFC 9110 §8.6
		}
		n = n*10 + d
	}
	p.length = n
	return nil
}

// fieldCoding reads a Transfer-Encoding field's value. Several fields are one
// list. Only chunked can be served, but which refusal it is has to wait for the
// whole list. In HTTP/1.0 there is no such field: the framing is faulty (RFC 9112
// §6.1).
func (p *Parser) fieldCoding(value []byte) *Error {
	if p.minor == 0 {
		return errCodedBefore11
	}
	for more := true; more; {
		var member []byte
		member, value, more = bytes.Cut(value, comma)
		member = trimSpace(member)
		n := tokenLength(member)
		parameters := trimSpace(member[n:])
		if n == 0 || len(parameters) > 0 && parameters[0] != ';' {
			return errCodingList
		}
		if p.codings&codingChunked != 0 {
			p.codings |= codingMisplaced
		}
		switch {
		case !equalFold(member[:n], "chunked"):
			p.codings |= codingOther
		case len(parameters) == 0:
			p.codings |= codingChunked
		default: // "chunked;x=y": RFC 9112 §7.1
			p.codings |= codingChunked | codingMisplaced
		}
	}
	return nil
}
