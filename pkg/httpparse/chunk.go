package httpparse

// readChunks reads a chunked body (RFC 9112 §7.1) and moves its data together in
// buf, so that the body is one slice at the end. Every byte is moved at most
// once, those of the first chunk not at all. It reports whether the request is
// whole.
func (p *Parser) readChunks(buf []byte) (bool, *Error) {
	for {
		switch p.state {
		case inChunkLine:
			end := p.line + ChunkLineBytesMax
			lf, long := p.lineEnd(buf, end)
			if lf < 0 {
				if long {
					return false, errChunkLong
				}
				return false, nil
			}
			if err := p.chunkLine(buf, lf); err != nil {
				return false, err
			}
		case inChunk:
			n := min(len(buf)-p.read, p.remaining)
			if p.body.to != p.read {
				copy(buf[p.body.to:], buf[p.read:p.read+n])
			}
			p.body.to += n
			p.read += n
			p.scanned = p.read
			p.remaining -= n
			if p.remaining > 0 {
				return false, nil
			}
			p.state = afterChunk
		case afterChunk:
			rest := buf[p.read:]
			switch {
			case len(rest) == 0:
				return false, nil
			case rest[0] != '\r':
				return false, errChunkEnd
			case len(rest) == 1:
				return false, nil
			case rest[1] != '\n':
				return false, errChunkEnd
			}
			p.nextLine(p.read + 1)
			p.state = inChunkLine
		case inTrailers:
			return p.readTrailers(buf)
		default:
			panic("BUG: chunks are read in state that has none")
		}
	}
}

// chunkLine reads a chunk's size and skips its extensions, up to the LF at lf.
func (p *Parser) chunkLine(buf []byte, lf int) *Error {
	if buf[lf-1] != '\r' {
		return errBareLF
	}
	size, err := chunkSize(buf[p.line : lf-1])
	if err != nil {
		return err
	}
	data := int64(p.body.to - p.body.from)
	p.framing += lf + 1 - p.line + len("\r\n")
	switch {
	case size == 0:
		p.nextLine(lf)
		p.trailers = p.line
		p.state = inTrailers
		return nil
	case size > uint64(p.limits.BodyBytesMax-data):
		return errBodyLarge
	case int64(p.framing) > ChunkFramingBytesMax+data+int64(size):
		return errChunkFraming
	}
	p.nextLine(lf)
	if data == 0 {
		p.body = span{p.line, p.line} // the first chunk can stay where it is
	}
	p.read, p.remaining = p.line, int(size)
	p.state = inChunk
	return nil
}

// chunkSize reads "size" or "size;extensions". Sixteen digits are enough for
// any number that fits, so that none overflows (RFC 9112 §7.1).
func chunkSize(line []byte) (uint64, *Error) {
	n, size := 0, uint64(0)
	for ; n < len(line) && isHex(line[n]); n++ {
		size = size<<4 | uint64(hexValue[line[n]])
	}
	if n == 0 || n > 16 {
		return 0, errChunkSize
	}
	if n < len(line) && !areExtensions(line[n:]) {
		return 0, errChunkExt
	}
	return size, nil
}

// areExtensions says whether v is *(";" name ["=" value]), with space allowed
// around the signs but not at the end (RFC 9112 §7.1.1). They mean nothing here,
// but what is malformed, such as a quote that is not closed, might to somebody else.
func areExtensions(v []byte) bool {
	for len(v) > 0 {
		v = trimLeft(v)
		if len(v) == 0 || v[0] != ';' {
			return false
		}
		v = trimLeft(v[1:])
		n := tokenLength(v)
		if n == 0 {
			return false
		}
		if after := trimLeft(v[n:]); len(after) > 0 && after[0] == '=' {
			v = trimLeft(after[1:])
			n = tokenLength(v)
			if n == 0 {
				n = quotedLength(v)
			}
			if n == 0 {
				return false
			}
		}
		v = v[n:]
	}
	return true
}

// quotedLength is the length of the quoted string at the beginning of v (RFC 9110
// §5.6.4), or 0 if there is none.
func quotedLength(v []byte) int {
	if len(v) == 0 || v[0] != '"' {
		return 0
	}
	for i := 1; i < len(v); i++ {
		switch v[i] {
		case '"':
			if !isFieldValue(v[:i]) {
				return 0
			}
			return i + 1
		case '\\':
			i++
		}
	}
	return 0
}

// readTrailers reads the field lines behind the last chunk, and forgets them.
// They use up what the head left of its limits.
func (p *Parser) readTrailers(buf []byte) (bool, *Error) {
	headBytes := p.head.to + len("\r\n")
	end := p.trailers + p.limits.HeaderBytesMax - headBytes + len("\r\n")
	for {
		lf, long := p.lineEnd(buf, end)
		if lf < 0 {
			if long {
				return false, errHeadLong
			}
			return false, nil
		}
		if buf[lf-1] != '\r' {
			return false, errBareLF
		}
		if lf == p.line+1 {
			p.nextLine(lf)
			return true, nil
		}
		if err := p.fieldLine(buf, lf-1, false); err != nil {
			return false, err
		}
		p.nextLine(lf)
	}
}
