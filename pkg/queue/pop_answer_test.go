package queue

import (
	"encoding/binary"
	"encoding/json"
	"math/rand/v2"
	"strings"
	"testing"
	"time"
)

func TestPopsAreAnswered(t *testing.T) {
	f := func(want string, change func(*Op)) {
		t.Helper()
		op := &Op{Verb: Pop, Pop: PopRequest{Scope: OneQueue, Queue: []byte(`a"b`), Partition: []byte(""), Group: []byte("g")}}
		change(op)
		got := string(AppendPopAnswer([]byte("before"), op))
		if got != "before"+want || !json.Valid([]byte(want)) {
			t.Errorf("\n got %s\nwant %s", got, want)
		}
	}
	id := UUID{0x7d, 0x41, 0xb5, 0x49, 0x64, 0xd8, 0x47, 0xe8, 0xa5, 0x62, 0xe7, 0xc7, 0xf4, 0x31, 0xa1, 0xad}
	claim := func(op *Op) {
		op.Pop.Count, op.Pop.Claimed, op.Pop.Messages, op.Pop.LeaseID = 2, 1, []byte(`{"n":1},{"n":2}`), []byte("lease")
		op.Pop.First, op.Pop.FirstExists, op.Pop.FirstQueue, op.Pop.FirstName = id, true, []byte("q"), []byte("p\n")
	}
	f(`{"consumerGroup":"g","leaseId":"lease","messages":[{"n":1},{"n":2}],"partition":"p\n","partitionId":"7d41b549-64d8-47e8-a562-e7c7f431a1ad","partitionsClaimed":1,"queue":"q","success":true}`, claim)
	f(`{"error":"no_available_partition","messages":[],"success":false}`, func(*Op) {})
	f(`{"error":"partition_not_found","messages":[],"success":false}`, func(op *Op) { op.Pop.Scope, op.Pop.Missing = OnePartition, true })
	f(`{"error":"lease_held","messages":[],"success":false}`, func(op *Op) { op.Pop.Scope, op.Pop.Held, op.Pop.FirstExists = OnePartition, true, true })
	f(`{"consumerGroup":"g","leaseId":"","messages":[],"partition":"p","partitionId":"7d41b549-64d8-47e8-a562-e7c7f431a1ad","partitionsClaimed":0,"queue":"q","success":true}`, func(op *Op) {
		op.Pop.Scope, op.Pop.First, op.Pop.FirstExists, op.Pop.FirstQueue, op.Pop.FirstName = OnePartition, id, true, []byte("q"), []byte("p")
	})
	f(`{"consumerGroup":"g","leaseId":"","messages":[],"partition":"","partitionId":null,"queue":"a\"b","success":true,"windowBufferActive":true}`, func(op *Op) { op.Pop.Scope, op.Pop.Window = OnePartition, true })
	f(`{"consumerGroup":"g","leaseId":null,"messages":[],"partition":"","partitionId":null,"queue":"a\"b","success":true}`, func(op *Op) { op.Pop.Expired = true })
	f(`{"messages":[],"paused":true}`, func(op *Op) { op.Pop.Paused, op.Pop.Expired = true, true })
	f(`{"error":"away \"now\"","messages":[],"success":false}`, func(op *Op) { claim(op); op.Fault = Fault{Unavailable, `away "now"`} })
}

func TestAMessageIsAnsweredWithItsKeysInOrder(t *testing.T) {
	b := NewPopBatch(&Config{}, NewIDs(wallMs))
	op := of("q", "p")
	op.Pop.Group = []byte("g\\")
	b.Add(op)
	b.Step(0)
	long := func(n int64) []byte { return binary.BigEndian.AppendUint64(nil, uint64(n)) }
	part, id := make([]byte, 16), make([]byte, 16)
	part[0], id[15] = 0xab, 1
	rows := [][][]byte{
		{long(1), long(-2), long(0), nil, nil, nil, part, []byte("q"), []byte("p\""), nil, nil, nil},
		{long(1), long(-1), long(0), nil, nil, long(3), nil, nil, nil, nil, nil, nil},
		{long(1), long(0), long(1), long(60_000_000), {1}, nil, nil, nil, nil, nil, nil, nil},
		{long(1), long(1), nil, nil, nil, nil, id, []byte("tx"), nil, long(0), nil, []byte(`{"n" : 1}`)},
		{long(1), long(2), nil, nil, nil, nil, id, []byte("t\t"), []byte("sub"), long(1_000_000), part, []byte(`null`)},
	}
	for _, row := range rows {
		b.Row(b.claim, row)
	}
	b.StepDone(nil, 0)
	lease := string(op.Pop.LeaseID)
	want := `{"consumerGroup":"g\\","createdAt":"2000-01-01T00:00:00.000000Z","data":{"n" : 1},"id":"00000000-0000-0000-0000-000000000001","leaseId":"` + lease +
		`","partition":"p\"","partitionId":"ab000000-0000-0000-0000-000000000000","producerSub":null,"queue":"q","retryCount":3,"traceId":null,"transactionId":"tx"}` +
		`,{"consumerGroup":"g\\","createdAt":"2000-01-01T00:00:01.000000Z","data":null,"id":"00000000-0000-0000-0000-000000000001","leaseId":"` + lease +
		`","partition":"p\"","partitionId":"ab000000-0000-0000-0000-000000000000","producerSub":"sub","queue":"q","retryCount":3,"traceId":"ab000000-0000-0000-0000-000000000000","transactionId":"t\t"}`
	if got := string(op.Pop.Messages); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
	if try := op.Pop.Tries[0]; b.Step(0) != nil || try.In != time.Minute || !try.More || !strings.HasSuffix(lease, "ab000000") {
		t.Errorf("%+v, %s", try, lease)
	}
}

func TestAnAnswerInOnePieceIsTheOneThatWouldBeAppended(t *testing.T) {
	f := func(framed bool, pieces ...int) { // bytes that are said and bytes that come, of each claim
		t.Helper()
		op := &Op{Verb: Pop, Pop: PopRequest{Scope: OneQueue, Queue: []byte("q"), Group: []byte(`g"`), LeaseID: []byte("lease")}}
		for range 2 { // its memory is used again
			p := &op.Pop
			for i := 0; i < len(pieces); i += 2 {
				p.room(pieces[i])
				if p.Count++; p.Count > 1 {
					p.Messages = append(p.Messages, ',')
				}
				p.Messages = append(p.Messages, `"`+strings.Repeat("x", pieces[i+1]-3)+`"`...)
			}
			want := string(AppendPopAnswer(nil, op))
			if got := string(PopAnswer(op)); framed != (got != "") || framed && got != want || !json.Valid([]byte(want)) {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
			group := op.Pop.Group
			op.Reset()
			if op.Pop.Messages != nil || PopAnswer(op) != nil {
				t.Error("something is left")
			}
			op.Verb, op.Pop.Queue, op.Pop.Group, op.Pop.LeaseID = Pop, []byte("q"), group, append(op.Pop.LeaseID, "another lease"...)
		}
	}
	f(true, 10, 10)
	f(true, 100, 50, 1000, 900, 10, 10)
	f(true, 0, popTailBytes)        // the tail makes it grow
	f(false, 0, 10_000)             // the messages do
	f(false, 0, 10_000, 100, 100)   // and there are more
	f(true, 10_000, 20, 20_000, 10) // a later claim does
	f(true, opBodyKeptMax, opBodyKeptMax)
	if PopAnswer(&Op{Verb: Pop}) != nil {
		t.Error("nothing was found")
	}
}

func TestTimesAreWrittenAsUTC(t *testing.T) {
	base := time.Date(2000, 1, 1, 0, 0, 0, 0, time.UTC)
	f := func(micros int64) {
		t.Helper()
		at := time.UnixMicro(base.UnixMicro() + micros).UTC()
		if got, want := string(appendTime(nil, micros)), at.Format("2006-01-02T15:04:05.000000Z"); got != want {
			t.Errorf("%d: %s, want %s", micros, got, want)
		}
	}
	for _, micros := range []int64{0, 1, -1, 999_999, 1_000_000, -1_000_000} {
		f(micros)
	}
	for year := 1; year < 9999; year += 33 {
		for _, d := range []time.Time{time.Date(year, 2, 28, 23, 59, 59, 999_999_000, time.UTC), time.Date(year, 3, 1, 0, 0, 0, 0, time.UTC), time.Date(year, 12, 31, 12, 0, 0, 0, time.UTC)} {
			f(d.UnixMicro() - base.UnixMicro())
		}
	}
	for range 10_000 {
		f(rand.Int64N(8000*365*86_400_000_000) - 1999*365*86_400_000_000)
	}
	appendTime(nil, -1<<63) // -infinity and infinity: no matter what, but something
	appendTime(nil, 1<<63-1)
}
