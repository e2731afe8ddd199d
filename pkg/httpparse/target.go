package httpparse

import "bytes"

// readTarget reads the request target, which may have one of three forms
// (RFC 9112 §3.2): a path, a whole http URI, or "*" with OPTIONS.
//
// Bytes that RFC 3986 wants percent-encoded, such as { or those of UTF-8, are
// let through: browsers leave the first alone in a query, curl sends the second as
// typed, and neither can be taken for a delimiter. Spaces, control bytes and #
// can, and are refused.
func (p *Parser) readTarget(buf []byte) *Error {
	target := p.target.of(buf)
	if !isTarget(target) {
		return errTargetByte
	}
	p.path = p.target
	if target[0] != '/' {
		if string(target) == "*" {
			if string(p.method.of(buf)) != "OPTIONS" {
				return errTargetAsterisk
			}
			return nil
		}
		from := schemeLength(target)
		if from == 0 {
			return errTargetForm
		}
		to := from
		for to < len(target) && target[to] != '/' && target[to] != '?' {
			to++
		}
		// An http URI without a host is invalid, and userinfo in it is a trap
		// (RFC 9110 §4.2.1, §4.2.4).
		if from == to || target[from] == ':' || !isHost(target[from:to]) {
			return errHostInvalid
		}
		p.host = span{p.target.from + from, p.target.from + to}
		p.path.from = p.host.to
	}
	if i := bytes.IndexByte(buf[p.path.from:p.path.to], '?'); i >= 0 {
		p.query = span{p.path.from + i + 1, p.path.to}
		p.path.to = p.path.from + i
	}
	return nil
}

// schemeLength is the length of http:// or https:// at the beginning of a target,
// or 0. Schemes have no case (RFC 3986 §3.1).
func schemeLength(target []byte) int {
	for _, scheme := range [...]string{"http://", "https://"} {
		if len(target) >= len(scheme) && equalFold(target[:len(scheme)], scheme) {
			return len(scheme)
		}
	}
	return 0
}

// isHost says whether v is uri-host [":" port] (RFC 9110 §7.2): a registered
// name, which may be empty, an IPv4 address, which looks like one, or an IP
// literal in brackets.
func isHost(v []byte) bool {
	if len(v) > 0 && v[0] == '[' {
		end := bytes.IndexByte(v, ']')
		if end < 0 || !isLiteral(v[1:end]) {
			return false
		}
		v = v[end+1:]
	} else {
		n := 0
		for ; n < len(v) && hostByte[v[n]]; n++ {
			if v[n] == '%' && (len(v) < n+3 || !isHex(v[n+1]) || !isHex(v[n+2])) {
				return false
			}
		}
		v = v[n:]
	}
	if len(v) == 0 {
		return true
	}
	if v[0] != ':' {
		return false
	}
	for _, c := range v[1:] {
		if !isDigit(c) {
			return false
		}
	}
	return true
}

// isLiteral says whether v may stand between the brackets of an IP literal: the
// bytes of an IPv6 address, or of one from the future. Whether it is an address
// is of no interest here.
func isLiteral(v []byte) bool {
	for _, c := range v {
		if c != ':' && (!hostByte[c] || c == '%') {
			return false
		}
	}
	return len(v) > 0
}
