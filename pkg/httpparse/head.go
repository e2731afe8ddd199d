package httpparse

import "encoding/binary"

// readHead reads up to the empty line that ends the head. It reports whether the
// head is whole and valid; the state says how the body comes then.
func (p *Parser) readHead(buf []byte) (bool, *Error) {
	if p.state == beforeLine {
		if begun, err := p.skipEmptyLines(buf); !begun {
			return false, err
		}
		p.state = inLine
	}
	headMax := p.limits.HeaderBytesMax
	if p.state == inLine {
		end := p.line + MethodBytesMax + p.limits.TargetBytesMax + len("  HTTP/1.1\r\n")
		lf, long := p.lineEnd(buf, min(end, headMax))
		if lf < 0 {
			if long && end > headMax {
				return false, errHeadLong
			}
			if long {
				return false, whyLineLong(buf[p.line:end])
			}
			return false, nil
		}
		if err := p.requestLine(buf, lf); err != nil {
			return false, err
		}
		p.nextLine(lf)
		p.head = span{p.line, p.line}
		p.state = inFields
	}
	for {
		lf, long := p.lineEnd(buf, headMax)
		if lf < 0 {
			if long {
				return false, errHeadLong
			}
			return false, nil
		}
		if buf[lf-1] != '\r' { // in an empty line that is the LF before it
			return false, errBareLF
		}
		if lf == p.line+1 {
			break
		}
		if err := p.fieldLine(buf, lf-1, true); err != nil {
			return false, err
		}
		p.nextLine(lf)
	}
	p.head.to = p.line
	p.nextLine(p.line + 1)
	return true, p.headDone()
}

// skipEmptyLines skips empty lines before the request line, and looks at that
// line's first byte so that what is not HTTP at all (a TLS hello) is refused
// without waiting for a line's end. It reports whether a request has begun.
func (p *Parser) skipEmptyLines(buf []byte) (bool, *Error) {
	for {
		rest := buf[p.line:]
		switch {
		case len(rest) == 0:
			return false, nil
		case tokenByte[rest[0]]:
			return true, nil
		case rest[0] == '\n':
			return false, errBareLF
		case rest[0] != '\r':
			return false, errMethod
		case len(rest) == 1:
			return false, nil
		case rest[1] != '\n':
			return false, errBareCR
		case p.empty == EmptyLinesMax:
			return false, errEmptyLines
		}
		p.empty++
		p.nextLine(p.line + 1)
	}
}

// whyLineLong says what is wrong with a request line that is longer than any
// that could be served: the first bytes tell.
func whyLineLong(line []byte) *Error {
	n := tokenLength(line)
	switch {
	case n > MethodBytesMax:
		return errMethodLong
	case n == 0 || line[n] != ' ':
		return errMethod
	}
	return errTargetLong
}

const (
	http11 = 'H' | 'T'<<8 | 'T'<<16 | 'P'<<24 | '/'<<32 | '1'<<40 | '.'<<48 | '1'<<56
	http10 = http11 &^ (1 << 56)
)

// requestLine reads the line that ends with the LF at lf: method SP target SP
// version CR LF, with exactly one space each (RFC 9112 §3: a server may be
// lenient about whitespace; one that is cannot be told from a smuggler's).
func (p *Parser) requestLine(buf []byte, lf int) *Error {
	if buf[lf-1] != '\r' {
		return errBareLF
	}
	line := buf[p.line : lf-1]
	method := tokenLength(line)
	if method == 0 || method == len(line) || line[method] != ' ' {
		return errMethod
	}
	if method > MethodBytesMax {
		return errMethodLong
	}
	p.method = span{p.line, p.line + method}
	from, to := method+1, len(line)-len(" HTTP/1.1")
	if to <= from || line[to] != ' ' {
		return errRequestLine
	}
	switch binary.LittleEndian.Uint64(line[to+1:]) {
	case http11:
		p.minor = 1
	case http10:
		p.minor = 0
	default:
		minor, err := otherVersion(line[to+1:])
		if err != nil {
			return err
		}
		p.minor = minor
	}
	if to-from > p.limits.TargetBytesMax {
		return errTargetLong
	}
	p.target = span{p.line + from, p.line + to}
	if string(line[:method]) == "CONNECT" {
		return errConnect
	}
	return p.readTarget(buf)
}

// otherVersion reads a version that is not one of the two usual ones. A higher
// minor version is served as the highest we know (RFC 9110 §2.5).
func otherVersion(v []byte) (int8, *Error) {
	if string(v[:5]) != "HTTP/" || v[6] != '.' || !isDigit(v[5]) || !isDigit(v[7]) {
		return 0, errVersion
	}
	if v[5] != '1' {
		return 0, errVersionMajor
	}
	return 1, nil
}

// fieldLine reads the field line buf[p.line:to]. A trailer is checked just as
// strictly but means nothing (RFC 9110 §6.5.1: a trailer must not change how the
// message is read).
func (p *Parser) fieldLine(buf []byte, to int, means bool) *Error {
	line := buf[p.line:to]
	n := tokenLength(line)
	if n == len(line) || line[n] != ':' || n == 0 {
		return whyNameWrong(line, n)
	}
	value := line[n+1:]
	if !isFieldValue(value) {
		return errValueByte
	}
	if p.fields == p.limits.FieldsMax {
		return errFieldsMany
	}
	p.fields++
	if !means {
		return nil
	}
	switch name := line[:n]; n {
	case len("host"):
		if equalFold(name, "host") {
			return p.fieldHost(buf, p.line+n+1, to)
		}
	case len("expect"):
		if equalFold(name, "expect") {
			p.fieldExpect(trimSpace(value))
		}
	case len("connection"):
		if equalFold(name, "connection") {
			p.fieldConnection(value)
		}
	case len("content-length"):
		if equalFold(name, "content-length") {
			return p.fieldLength(trimSpace(value))
		}
	case len("transfer-encoding"):
		if equalFold(name, "transfer-encoding") {
			return p.fieldCoding(value)
		}
	}
	return nil
}

// whyNameWrong says what is wrong with a field line whose first n bytes, and no
// more, are a token.
func whyNameWrong(line []byte, n int) *Error {
	if n == len(line) {
		return errNoColon
	}
	switch c := line[n]; {
	case n == 0 && c == ':':
		return errNameEmpty
	case n == 0 && isSpace(c):
		return errFolded // RFC 9112 §5.2, and §2.2 for the first line
	case isSpace(c):
		return errNameSpace // RFC 9112 §5.1
	}
	return errNameByte
}

// headDone checks what can only be known when all fields are there, and decides
// how the body comes. p.line is the first byte behind the head.
func (p *Parser) headDone() *Error {
	if p.minor == 1 && p.hosts == 0 {
		return errHostMissing // RFC 9112 §3.2
	}
	if p.codings != 0 {
		// RFC 9112 §6.1 and §6.3.
		switch {
		case p.hasLength:
			return errLengthAndCoded
		case p.codings&codingMisplaced != 0:
			return errCodingOrder
		case p.codings != codingChunked:
			return errCodingUnknown
		}
	}
	if p.expectElse {
		return errExpectation
	}
	p.body = span{p.line, p.line}
	if p.codings != 0 {
		p.state = inChunkLine
		return nil
	}
	if p.length > p.limits.BodyBytesMax {
		return errBodyLarge
	}
	p.state = inLength
	return nil
}
