package api

import "encoding/json"

// appendJSON appends text as a JSON string. For errors and health only; the data
// path's answers are written by queue.
func appendJSON(dst []byte, text string) []byte {
	quoted, err := json.Marshal(text)
	if err != nil {
		panic("BUG: a string has no JSON: " + err.Error())
	}
	return append(dst, quoted...)
}
