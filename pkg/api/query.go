package api

import (
	"bytes"
	"strconv"
	"unicode/utf8"

	"github.com/queend/queend/pkg/httpparse"
)

// queryFault says what is wrong with a request's query, or "": an escape that is none,
// the byte NUL, or text that is not UTF-8. Serve asks before any handler runs, so
// that what handlers read from a query is text that can be stored.
func (r *Router) queryFault(query []byte) string {
	plain := true
	for _, c := range query {
		if c == '%' || c >= utf8.RuneSelf {
			plain = false
			break
		}
	}
	if plain {
		return ""
	}
	decoded, err := httpparse.DecodeSegment(r.paramBytes[:0], query)
	if err != nil {
		return err.Reason
	}
	r.paramBytes = decoded
	if !utf8.Valid(decoded) {
		return "the query is not UTF-8"
	}
	return ""
}

// queryText returns the value of a query's key, decoded, and whether the key is there
// at all. The name is compared as a whole, and the first of several wins. The value
// is valid until the handler returns; it costs an allocation only if something in the
// query is escaped.
func queryText(x Exchange, name string) (value []byte, found bool) {
	query := x.Request().Query
	if bytes.IndexByte(query, '%') >= 0 || bytes.IndexByte(query, '+') >= 0 {
		value, found, _ = httpparse.QueryValue(nil, query, name)
		return value, found
	}
	for len(query) > 0 {
		var pair []byte
		pair, query, _ = bytes.Cut(query, []byte("&"))
		if key, value, _ := bytes.Cut(pair, []byte("=")); len(pair) > 0 && string(key) == name {
			return value[:len(value):len(value)], true
		}
	}
	return nil, false
}

// queryInt returns the number that a key's value begins with: 10abc is 10, as Queen
// reads it. What is no number, or none of 32 bits, is the default, as is a key that is
// not there.
func queryInt(x Exchange, name string, otherwise int) int {
	value, _ := queryText(x, name)
	end := 0
	for end < len(value) && (value[end]-'0' < 10 || end == 0 && (value[0] == '-' || value[0] == '+')) {
		end++
	}
	n, err := strconv.ParseInt(string(value[:end]), 10, 32)
	if err != nil {
		return otherwise
	}
	return int(n)
}

// queryBool says whether a key's value is true or 1; TRUE and yes are not.
func queryBool(x Exchange, name string) bool {
	value, _ := queryText(x, name)
	return string(value) == "true" || string(value) == "1"
}
