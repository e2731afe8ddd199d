package queue

import (
	"strconv"
	"unicode/utf8"
)

// AppendPushAnswer appends the JSON answer to a push that is done and has no Fault:
// an array with one object per item, in request order. Keys are sorted by their
// bytes; index counts within the request; both spellings of the transaction id are
// there because clients read either.
func AppendPushAnswer(dst []byte, op *Op) []byte {
	dst = append(dst, '[')
	for i := range op.Items {
		it := &op.Items[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, '{')
		if it.Status == Failed {
			dst = append(dst, `"error":`...)
			dst = appendJSONString(dst, it.Error)
			dst = append(dst, ',')
		}
		dst = append(dst, `"index":`...)
		dst = strconv.AppendInt(dst, int64(i), 10)
		if it.Status == Queued || it.Status == Duplicate {
			dst = append(dst, `,"message_id":"`...)
			dst = it.WinnerID.Append(dst)
			dst = append(dst, '"')
		}
		if it.Status == Queued {
			dst = append(dst, `,"partition_id":"`...)
			dst = it.PartitionID.Append(dst)
			dst = append(dst, '"')
		}
		if it.Status == Buffered {
			// Queen's clients read these two here. The id is left out: if the transaction is there
			// already, it is not this one's.
			dst = append(dst, `,"partition":`...)
			dst = appendJSONString(dst, it.Partition)
			dst = append(dst, `,"queue":`...)
			dst = appendJSONString(dst, it.Queue)
		}
		dst = append(dst, `,"queueName":`...)
		dst = appendJSONString(dst, it.Queue)
		switch it.Status {
		case Queued:
			dst = append(dst, `,"status":"queued","trace_id":`...)
			if it.HasTrace {
				dst = append(dst, '"')
				dst = it.TraceID.Append(dst)
				dst = append(dst, '"')
			} else {
				dst = append(dst, "null"...)
			}
		case Duplicate:
			dst = append(dst, `,"status":"duplicate"`...)
		case Failed:
			dst = append(dst, `,"status":"failed"`...)
		case Buffered:
			dst = append(dst, `,"status":"buffered"`...)
		default:
			panic("BUG: a push is answered before it is decided")
		}
		dst = append(dst, `,"transactionId":`...)
		from := len(dst)
		if it.GivenTransaction {
			dst = appendJSONString(dst, it.TransactionID)
		} else { // made by us: nothing in it must be escaped
			dst = append(append(append(dst, '"'), it.TransactionID...), '"')
		}
		to := len(dst)
		dst = append(dst, `,"transaction_id":`...)
		dst = append(dst, dst[from:to]...)
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

// PushAnswerBytes is how long the answer to a push may become: names and ids may be in it twice,
// and each of their bytes may have to be escaped.
func PushAnswerBytes(op *Op) int {
	const each, escaped = 512, 6 // the keys, two ids, a trace id
	n := 0
	for i := range op.Items {
		it := &op.Items[i]
		n += each + 2*escaped*(len(it.Queue)+len(it.Partition)+len(it.TransactionID))
	}
	return n
}

// appendJSONString appends text as a JSON string (RFC 8259 §7): only what must be
// escaped is. Bytes that are no UTF-8 become U+FFFD.
func appendJSONString[T string | []byte](dst []byte, text T) []byte {
	dst = append(dst, '"')
	from := 0
	for i := 0; i < len(text); {
		c := text[i]
		if c >= ' ' && c != '"' && c != '\\' && c < utf8.RuneSelf {
			i++
			continue
		}
		if c >= utf8.RuneSelf {
			r, n := decodeRune(text, i)
			if r != utf8.RuneError || n > 1 {
				i += n
				continue
			}
			dst = append(dst, text[from:i]...)
			dst = append(dst, "\ufffd"...)
			i++
			from = i
			continue
		}
		dst = append(dst, text[from:i]...)
		switch c {
		case '"', '\\':
			dst = append(dst, '\\', c)
		case '\b':
			dst = append(dst, `\b`...)
		case '\f':
			dst = append(dst, `\f`...)
		case '\n':
			dst = append(dst, `\n`...)
		case '\r':
			dst = append(dst, `\r`...)
		case '\t':
			dst = append(dst, `\t`...)
		default:
			const digits = "0123456789abcdef"
			dst = append(dst, '\\', 'u', '0', '0', digits[c>>4], digits[c&15])
		}
		i++
		from = i
	}
	dst = append(dst, text[from:]...)
	return append(dst, '"')
}

func decodeRune[T string | []byte](text T, i int) (rune, int) {
	var b [utf8.UTFMax]byte
	n := copy(b[:], text[i:min(i+utf8.UTFMax, len(text))])
	return utf8.DecodeRune(b[:n])
}
