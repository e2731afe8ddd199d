package queue

import (
	"encoding/json"
	"strings"
	"testing"
)

func TestTheAnswerToAPush(t *testing.T) {
	op, fault := decode(`{"items":[
		{"queue":"orders","transactionId":"tx-1","traceId":"01900000-0000-7000-8000-000000000001"},
		{"queue":"orders","transactionId":"tx-1"},
		{"queue":"a\"\\\n\u0001é😀\u007f\u2028","transactionId":"\t\b\f\r/"},
		{"queue":"orders","transactionId":"tx-3"}]}`)
	if fault.Code != OK {
		t.Fatal(fault)
	}
	ids := []string{"01a20849-b9c4-7000-b0e0-cfd7ec493f17", "bc500ec5-0d50-4c90-ad0c-800fa9e40b56"}
	message, _ := parseUUID([]byte(ids[0]))
	partition, _ := parseUUID([]byte(ids[1]))
	for i, s := range []Status{Queued, Duplicate, Failed, Queued} {
		it := &op.Items[i]
		it.Status, it.WinnerID, it.PartitionID = s, message, partition
	}
	op.Items[2].Error = "value \"x\" is\xff too long"
	got := string(AppendPushAnswer([]byte("before:"), op))
	want := `before:[` +
		`{"index":0,"message_id":"` + ids[0] + `","partition_id":"` + ids[1] + `","queueName":"orders","status":"queued","trace_id":"01900000-0000-7000-8000-000000000001","transactionId":"tx-1","transaction_id":"tx-1"},` +
		`{"index":1,"message_id":"` + ids[0] + `","queueName":"orders","status":"duplicate","transactionId":"tx-1","transaction_id":"tx-1"},` +
		`{"error":"value \"x\" is` + "\ufffd" + ` too long","index":2,"queueName":"a\"\\\n\u0001é😀` + "\x7f\u2028" + `","status":"failed","transactionId":"\t\b\f\r/","transaction_id":"\t\b\f\r/"},` +
		`{"index":3,"message_id":"` + ids[0] + `","partition_id":"` + ids[1] + `","queueName":"orders","status":"queued","trace_id":null,"transactionId":"tx-3","transaction_id":"tx-3"}]`
	if got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	var back []map[string]any
	if err := json.Unmarshal([]byte(strings.TrimPrefix(got, "before:")), &back); err != nil || back[2]["queueName"] != string(op.Items[2].Queue) {
		t.Errorf("%v %q", err, back)
	}
}

func TestNothingToAnswer(t *testing.T) {
	op, _ := decode(`{"items":[]}`)
	if got := string(AppendPushAnswer(nil, op)); got != "[]" {
		t.Errorf("%s", got)
	}
}

func FuzzJSONString(f *testing.F) {
	for _, s := range []string{"", "a", "é\x00\"\\", "\xff\xf0\x9f", "\xed\xa0\x80", "\u2028</script>"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		var back string
		text := appendJSONString(nil, s)
		if err := json.Unmarshal(text, &back); err != nil {
			t.Fatalf("%q: %s: %v", s, text, err)
		}
		if want := strings.ToValidUTF8(s, "\ufffd"); back != want && strings.Count(back, "\ufffd") < strings.Count(want, "\ufffd") {
			t.Fatalf("%q: %q", s, back)
		}
		if bad := scan(text); bad != "" {
			t.Fatalf("%q: %s", s, bad)
		}
	})
}

func BenchmarkAnswer(b *testing.B) {
	op, _ := decode(pushOf370)
	op.Items[0].Status = Queued
	var dst []byte
	b.ReportAllocs()
	for b.Loop() {
		dst = AppendPushAnswer(dst[:0], op)
	}
}

// Nothing of what is announced is too little, whatever has to be escaped.
func TestAPushIsAnsweredInNoMoreBytesThanItAnnounces(t *testing.T) {
	odd := strings.Repeat("\x01", 255)
	for _, name := range []string{"q", odd, strings.Repeat("😀", 255), strings.Repeat(`"`, 255)} {
		for _, status := range []Status{Queued, Duplicate, Buffered} {
			op := &Op{Items: make([]Item, 3)}
			for i := range op.Items {
				op.Items[i] = Item{Queue: []byte(name), Partition: []byte(name), TransactionID: []byte(name), GivenTransaction: true, HasTrace: true, Status: status}
			}
			if got, most := len(AppendPushAnswer(nil, op)), PushAnswerBytes(op); got > most || most > 20*got {
				t.Errorf("%.3q, status %d: %d bytes, %d announced", name, status, got, most)
			}
		}
	}
}
