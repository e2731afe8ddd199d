package queue

import "strconv"

// AppendAckAnswer appends the JSON answer to acknowledgments, one or many, that are done
// and have no Fault: an array with one object per acknowledgment, in request order. Keys
// are sorted by their bytes; index counts within the request.
func AppendAckAnswer(dst []byte, op *Op) []byte {
	dst = append(dst, '[')
	for i := range op.Acks {
		a := &op.Acks[i]
		if i > 0 {
			dst = append(dst, ',')
		}
		dst = append(dst, `{"dlq":`...)
		dst = strconv.AppendBool(dst, a.Dead)
		dst = append(dst, `,"error":`...)
		dst = appendNullable(dst, a.Why)
		dst = append(dst, `,"index":`...)
		dst = strconv.AppendInt(dst, int64(i), 10)
		dst = append(dst, `,"leaseReleased":`...)
		dst = append(dst, triText[a.Released]...)
		dst = append(dst, `,"partitionName":`...)
		if a.Known {
			dst = appendJSONString(dst, a.PartitionName)
			dst = append(dst, `,"queueName":`...)
			dst = appendJSONString(dst, a.Queue)
		} else {
			dst = append(dst, `null,"queueName":null`...)
		}
		dst = append(dst, `,"success":`...)
		dst = strconv.AppendBool(dst, a.Success)
		dst = append(dst, `,"transactionId":`...)
		dst = appendJSONString(dst, a.TransactionID)
		dst = append(dst, '}')
	}
	return append(dst, ']')
}

var triText = [...]string{Unset: "null", No: "false", Yes: "true"}
