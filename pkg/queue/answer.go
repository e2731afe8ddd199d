package queue

// AppendPushAnswer appends the JSON answer to a push that is done and has no
// Fault: an array with one object per item, in request order.
func AppendPushAnswer(dst []byte, op *Op) []byte { panic("TODO") }
