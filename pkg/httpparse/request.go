package httpparse

import "bytes"

// Request is one HTTP request. Its slices point into the buffer that was given to
// Parser.Next (Path may be a constant) and must not be written to; they have no
// spare capacity, so appending to one copies it.
type Request struct {
	Method []byte // a token, as sent: methods are case-sensitive (RFC 9110 §9.1)
	Target []byte // the request target as sent

	// Path is the target's path as sent, percent-encoded: it begins with "/", or is
	// "*" (OPTIONS only). Split it into segments first, then decode them: CutSegment,
	// DecodeSegment. It is not normalised.
	Path  []byte
	Query []byte // what follows the first "?", as sent; see QueryValue

	// Host is the authority the request is for: the Host field, or the target's
	// authority when the target is a whole URI (RFC 9112 §3.3). Empty when the client
	// said so, or said nothing (HTTP/1.0).
	Host []byte

	Minor          int   // HTTP/1.Minor: 0 or 1 (higher minor versions are read as 1, RFC 9110 §2.5)
	KeepAlive      bool  // the client wants the connection to stay open after the answer
	ExpectContinue bool  // the client waits for "100 Continue" before it sends the body
	IsHead         bool  // the answer must have no body
	ContentLength  int64 // bytes of body announced; -1: chunked, known at the end

	Body []byte // whole after Complete, chunks already put together

	head []byte // the field lines, each with its CR LF
}

// Field returns the value of the first field of that name, without the space
// around it, or nil if there is none. Names are compared without regard to case.
// It looks through the head anew at each call (RFC 9110 §5.1).
func (r *Request) Field(name string) []byte {
	for rest := r.head; len(rest) > 0; {
		colon := bytes.IndexByte(rest, ':')
		lf := bytes.IndexByte(rest, '\n')
		if colon == len(name) && equalFold(rest[:colon], name) {
			value := trimSpace(rest[colon+1 : lf-1])
			return value[:len(value):len(value)]
		}
		rest = rest[lf+1:]
	}
	return nil
}
