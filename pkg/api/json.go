package api

import (
	"bytes"
	"encoding/json"
	"strconv"
)

// appendJSON appends text as a JSON string. For errors, health and administrative
// routes; the data path's answers are written by queue.
func appendJSON(dst []byte, text string) []byte {
	var b bytes.Buffer
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	if err := e.Encode(text); err != nil {
		panic("BUG: a string has no JSON: " + err.Error())
	}
	return append(dst, bytes.TrimSuffix(b.Bytes(), []byte("\n"))...)
}

// object writes a JSON object, member by member. Whoever writes one gives the keys in
// the order of their bytes: Queen's answers are sorted.
type object struct{ b []byte }

func (o *object) key(name string) {
	if len(o.b) == 0 {
		o.b = append(o.b, '{')
	} else {
		o.b = append(o.b, ',')
	}
	o.b = append(append(append(o.b, '"'), name...), `":`...)
}

// text appends a string.
func (o *object) text(name, value string) {
	o.key(name)
	o.b = appendJSON(o.b, value)
}

// column appends a column's text as a string, or null.
func (o *object) column(name string, value []byte) {
	o.key(name)
	if value == nil {
		o.b = append(o.b, "null"...)
		return
	}
	o.b = appendJSON(o.b, string(value))
}

// json appends what is JSON already, or null: a number, an object, an array.
func (o *object) json(name string, value []byte) {
	o.key(name)
	if value == nil {
		value = []byte("null")
	}
	o.b = append(o.b, value...)
}

func (o *object) bool(name string, value bool) {
	o.key(name)
	o.b = strconv.AppendBool(o.b, value)
}

func (o *object) int(name string, value int) {
	o.key(name)
	o.b = strconv.AppendInt(o.b, int64(value), 10)
}

// end closes the object and returns its text.
func (o *object) end() []byte {
	if len(o.b) == 0 {
		return []byte("{}")
	}
	return append(o.b, '}')
}

// list writes a JSON array of n elements.
func list(n int, element func(i int) []byte) []byte {
	b := []byte{'['}
	for i := range n {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, element(i)...)
	}
	return append(b, ']')
}

// compact is JSON without the spaces that jsonb puts into it.
func compact(text []byte) []byte {
	var b bytes.Buffer
	if json.Compact(&b, text) != nil {
		return text
	}
	return b.Bytes()
}
