package queue

import (
	"bytes"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"
)

// recorded is what a record must keep of a message.
type recorded struct {
	queue, partition, transaction, payload, producer string
	hasProducer, hasTrace, given                     bool
	id, trace                                        UUID
}

func recordedOf(it *Item) recorded {
	return recorded{
		queue: string(it.Queue), partition: string(it.Partition), transaction: string(it.TransactionID),
		payload: string(it.Payload), producer: string(it.ProducerSub), hasProducer: it.ProducerSub != nil,
		hasTrace: it.HasTrace, given: it.GivenTransaction, id: it.ID, trace: it.TraceID,
	}
}

// anItem draws a message. Names are few, so that many are those of the message before.
func anItem(t *rapid.T) Item {
	bytesOf := func(s string) []byte { return append([]byte{}, s...) }
	it := Item{
		Queue:            bytesOf(rapid.SampledFrom([]string{"", "q", "orders"}).Draw(t, "queue")),
		Partition:        bytesOf(rapid.SampledFrom([]string{"", "p", "größer", strings.Repeat("x", 200)}).Draw(t, "partition")),
		TransactionID:    bytesOf(rapid.StringN(0, 40, -1).Draw(t, "transaction")),
		Payload:          bytesOf(rapid.SampledFrom([]string{"null", `{"a": 1}`, `"` + strings.Repeat("y", 300) + `"`, `[]`}).Draw(t, "payload")),
		GivenTransaction: rapid.Bool().Draw(t, "given"),
		HasTrace:         rapid.Bool().Draw(t, "traced"),
		Status:           rapid.SampledFrom([]Status{Pending, Pending, Pending, Queued, Duplicate, Failed}).Draw(t, "status"),
	}
	copy(it.ID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	if it.HasTrace {
		copy(it.TraceID[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "trace"))
	}
	if rapid.Bool().Draw(t, "produced") {
		it.ProducerSub = bytesOf(rapid.SampledFrom([]string{"", "alice"}).Draw(t, "producer"))
	}
	return it
}

// Whatever messages a push has, those that are not decided come back from its record as
// they were, in their order, with those of other records before them untouched.
func TestARecordGivesBackWhatWasNotDecided(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var s *Sealer
		if rapid.Bool().Draw(t, "sealed") {
			s, _ = NewSealer(testKey)
		}
		var op Op
		var want []recorded
		cost := 0
		for range rapid.IntRange(1, 4).Draw(t, "records") {
			push := Op{Items: rapid.SliceOfN(rapid.Custom(anItem), 0, 6).Draw(t, "items")}
			before := slices.Clone(push.Items)
			for i := range push.Items {
				if push.Items[i].Status == Pending {
					want = append(want, recordedOf(&push.Items[i]))
				}
			}
			prefix := rapid.SampledFrom([]string{"", "what is there"}).Draw(t, "prefix")
			record, err := AppendRecord([]byte(prefix), &push, s)
			if err != nil || !bytes.HasPrefix(record, []byte(prefix)) {
				t.Fatalf("%.20q: %v", record, err)
			}
			for i := range before {
				if fmt.Sprintf("%+v", before[i]) != fmt.Sprintf("%+v", push.Items[i]) {
					t.Fatal("the push was changed")
				}
			}
			record = record[len(prefix):]
			if s != nil && bytes.Contains(record, []byte("yyyyy")) {
				t.Fatal("a payload can be read on disk")
			}
			if err := DecodeRecord(&op, record, s); err != nil {
				t.Fatal(err)
			}
			if cost += len(record); op.Cost < cost {
				t.Fatalf("%d bytes of records cost %d", cost, op.Cost)
			}
		}
		var got []recorded
		for i := range op.Items {
			it := &op.Items[i]
			if it.Status != Pending || it.Error != "" || it.WinnerID != (UUID{}) {
				t.Fatal("a message comes back decided")
			}
			if _, sealed := it.Waiting(); sealed != (s != nil) {
				t.Fatal("it forgot whether it was encrypted")
			}
			got = append(got, recordedOf(it))
		}
		if !slices.Equal(got, want) {
			t.Fatalf("\n got %+v\nwant %+v", got, want)
		}
	})
}

func TestAPushThatIsDecidedHasAnEmptyRecord(t *testing.T) {
	op := &Op{Items: []Item{{Status: Queued}, {Status: Failed}}}
	record, err := AppendRecord(nil, op, nil)
	if err != nil {
		t.Fatal(err)
	}
	var back Op
	if err := DecodeRecord(&back, record, nil); err != nil || len(back.Items) != 0 {
		t.Errorf("%v, %d messages", err, len(back.Items))
	}
}

// A payload that was encrypted on disk is one envelope: an encrypted queue gets that very
// one, another gets what is in it. Who only looks gets the envelope.
func TestWhatIsEncryptedOnDiskIsEncryptedOnce(t *testing.T) {
	s := testSealer(t)
	push, fault := decode(`{"items":[{"queue":"q","transactionId":"a","payload":{"secret": 1}},{"queue":"q","payload":"two"}]}`)
	if fault.Code != OK {
		t.Fatal(fault)
	}
	record, err := AppendRecord(nil, push, s)
	if err != nil {
		t.Fatal(err)
	}
	if bytes.Contains(record, []byte("secret")) {
		t.Error("a payload can be read on disk")
	}
	with, looked := &Op{}, &Op{}
	if err := errors.Join(DecodeRecord(with, record, s), PeekRecord(looked, record)); err != nil {
		t.Fatal(err)
	}
	if with.Cost != looked.Cost {
		t.Errorf("looked at it costs %d, opened %d", looked.Cost, with.Cost)
	}
	for i, want := range []string{`{"secret": 1}`, `"two"`} {
		it := &with.Items[i]
		envelope, sealed := it.Waiting()
		if string(it.Payload) != want || !sealed || !bytes.Equal(envelope, it.sealed) {
			t.Errorf("%q, %v", it.Payload, sealed)
		}
		if got := unseal(t, envelope); got != want {
			t.Errorf("the envelope holds %q", got)
		}
		if !bytes.Contains(record, envelope) {
			t.Error("another envelope than the one on disk")
		}
	}
	for i := range looked.Items {
		it := &looked.Items[i]
		if envelope, sealed := it.Waiting(); !sealed || !bytes.Equal(it.Payload, envelope) {
			t.Errorf("looked at: %q", it.Payload)
		}
	}
	// What is written again is the same envelope, whoever has which key.
	for _, s := range []*Sealer{nil, otherSealer(t), s} {
		for _, op := range []*Op{with, looked} {
			again, err := AppendRecord(nil, op, s)
			if err != nil || !bytes.Equal(again, record) {
				t.Errorf("written again it is another record: %v", err)
			}
		}
	}
}

// otherSealer has another key than testSealer.
func otherSealer(t testing.TB) *Sealer {
	t.Helper()
	s, err := NewSealer(strings.Repeat("ab", 32))
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// What was encrypted here and cannot be opened is not given out as a payload, in whichever
// message of a record it is.
func TestARecordThatWasEncryptedHereNeedsItsKey(t *testing.T) {
	made := func(items ...Item) []byte {
		t.Helper()
		record, err := AppendRecord(nil, &Op{Items: items}, testSealer(t))
		if err != nil {
			t.Fatal(err)
		}
		return record
	}
	f := func(record []byte, s *Sealer, sentence string) {
		t.Helper()
		err := mustFail(t, record, s)
		if !errors.Is(err, ErrKey) || errors.Is(err, ErrRecord) || !strings.Contains(err.Error(), sentence) {
			t.Error(err)
		}
	}
	item := func(payload string) Item {
		return Item{Queue: []byte("q"), Partition: []byte("p"), Payload: []byte(payload)}
	}
	f(made(item("1")), nil, "no key was given")
	f(made(item("1")), otherSealer(t), "another key")
	// The other's envelope is opened, or left; the last one is what decides.
	envelope, _ := otherSealer(t).Seal(nil, []byte(`{"n":1}`))
	taken := item(string(envelope))
	taken.TakeEnvelope()
	f(made(taken, item("1")), otherSealer(t), "another key")
	f(made(item("1"), taken), nil, "no key was given")
	// A push that was encrypted for its queue before PostgreSQL went away is no different.
	c, h := &Config{Sealer: testSealer(t)}, NewHints(0, 0)
	known(h, "secret", "Default", UUID{1}, true)
	pushed := new(Op)
	Decode(pushed, []byte(`{"items":[{"queue":"secret","payload":"pushed"}]}`), c, NewIDs(wallMs))
	b := NewBatch(c, h)
	b.Add(pushed)
	if len(b.Step(0)) == 0 || pushed.Items[0].sealed == nil {
		t.Fatal("it is not encrypted")
	}
	f(made(pushed.Items...), otherSealer(t), "another key")
	// Nobody needs a key for what is not encrypted, or to find that it is no record.
	record, err := AppendRecord(nil, &Op{Items: []Item{item("1")}}, nil)
	if err != nil {
		t.Fatal(err)
	}
	var op Op
	if err := DecodeRecord(&op, record, nil); err != nil {
		t.Error(err)
	}
	whole := made(item("1"))
	if err := mustFail(t, whole[:len(whole)-1], nil); !errors.Is(err, ErrRecord) || errors.Is(err, ErrKey) {
		t.Error(err)
	}
}

// Builds before there was the flag did not write who has encrypted a payload.
func TestARecordThatDoesNotSayWhoEncryptedItIsTakenWithoutTheKey(t *testing.T) {
	record, err := AppendRecord(nil, &Op{Items: []Item{{Payload: []byte("1")}}}, testSealer(t))
	if err != nil {
		t.Fatal(err)
	}
	if record[2] != recordSealed|recordSealedHere {
		t.Fatalf("flags %b", record[2])
	}
	record[2] = recordSealed
	for _, s := range []*Sealer{nil, otherSealer(t), testSealer(t)} {
		var op Op
		if err := DecodeRecord(&op, record, s); err != nil {
			t.Fatal(err)
		}
		it := &op.Items[0]
		envelope, sealed := it.Waiting()
		if plain, ok := testSealer(t).Open(nil, envelope); !sealed || !ok || string(plain) != "1" {
			t.Errorf("%v: %q", sealed, envelope)
		}
		if opened := string(it.Payload) == "1"; opened != opens(s, envelope) {
			t.Errorf("opened: %v", opened)
		}
		if again, err := AppendRecord(nil, &op, testSealer(t)); err != nil || !bytes.Equal(again, record) {
			t.Errorf("written again it is another record: %v", err)
		}
	}
}

func opens(s *Sealer, envelope []byte) bool {
	_, ok := s.Open(nil, envelope)
	return ok
}

// A client's own payload that looks like an envelope is none of ours.
func TestAPayloadThatLooksLikeAnEnvelopeIsKept(t *testing.T) {
	s := testSealer(t)
	inner, _ := s.Seal(nil, []byte(`{"n":1}`))
	for _, with := range []*Sealer{nil, s} {
		push, _ := decode(`{"items":[{"queue":"q","payload":` + string(inner) + `}]}`)
		record, err := AppendRecord(nil, push, with)
		if err != nil {
			t.Fatal(err)
		}
		var op Op
		if err := DecodeRecord(&op, record, with); err != nil || !bytes.Equal(op.Items[0].Payload, inner) {
			t.Errorf("%v: %q", err, op.Items[0].Payload)
		}
	}
}

// An envelope that Queen's server left is taken for what it is: not encrypted again, and
// opened where the queue wants it open.
func TestAnEnvelopeThatIsTakenIsNotEncryptedAgain(t *testing.T) {
	s := testSealer(t)
	envelope, _ := s.Seal(nil, []byte(`{"n":1}`))
	f := func(payload []byte, wantSealed bool, want string) {
		t.Helper()
		op := &Op{Items: []Item{{Queue: []byte("q"), Partition: []byte("p"), Payload: payload}}}
		op.Items[0].TakeEnvelope()
		if got, sealed := op.Items[0].Waiting(); sealed != wantSealed || !bytes.Equal(got, payload) {
			t.Errorf("%q: %v", got, sealed)
		}
		record, err := AppendRecord(nil, op, nil)
		if err != nil {
			t.Fatal(err)
		}
		var back Op
		if err := DecodeRecord(&back, record, s); err != nil || string(back.Items[0].Payload) != want {
			t.Errorf("%v: %q", err, back.Items[0].Payload)
		}
		// Who has not that key passes it on as it is: it is a payload of Queen's.
		for _, without := range []*Sealer{nil, otherSealer(t)} {
			var back Op
			if err := DecodeRecord(&back, record, without); err != nil || !bytes.Equal(back.Items[0].Payload, payload) {
				t.Errorf("without the key: %v: %q", err, back.Items[0].Payload)
			}
		}
	}
	f(envelope, true, `{"n":1}`)
	f([]byte(`{"n":1}`), false, `{"n":1}`)
	f([]byte(`{"encrypted":"x","iv":"y"}`), false, `{"encrypted":"x","iv":"y"}`)
	f([]byte(`null`), false, `null`)
}

func TestASealerThatFailsFailsTheRecord(t *testing.T) {
	s := testSealer(t)
	s.random = func([]byte) (int, error) { return 0, errors.New("no randomness") }
	push, _ := decode(`{"items":[{"queue":"q","payload":1}]}`)
	if _, err := AppendRecord(nil, push, s); err == nil || !strings.Contains(err.Error(), "no randomness") {
		t.Error(err)
	}
}

// someRecord is a record with everything in it.
func someRecord(t testing.TB) []byte {
	t.Helper()
	s := testSealer(t)
	op := &Op{Items: []Item{
		{Queue: []byte("q"), Partition: []byte("p"), TransactionID: []byte("t1"), Payload: []byte(`{"a":1}`), GivenTransaction: true},
		{Queue: []byte("q"), Partition: []byte("p"), TransactionID: []byte("t2"), Payload: []byte(`2`), HasTrace: true, TraceID: UUID{7}, ProducerSub: []byte("sub")},
		{Queue: []byte("r"), Partition: []byte("p"), TransactionID: []byte("t3"), Payload: []byte(`null`), ProducerSub: []byte{}},
	}}
	record, err := AppendRecord(nil, op, s)
	if err != nil {
		t.Fatal(err)
	}
	return record
}

// spoiled decodes bytes that are no record, and checks that the op is as it was.
func spoiled(t testing.TB, record []byte, s *Sealer) (ok bool) {
	t.Helper()
	err := tryRecord(t, record, s)
	if err != nil && !errors.Is(err, ErrRecord) && !errors.Is(err, ErrKey) {
		t.Errorf("%v is neither ErrRecord nor ErrKey", err)
	}
	return err == nil
}

// mustFail decodes bytes that are not to be taken, checks that the op is as it was, and
// returns why.
func mustFail(t testing.TB, record []byte, s *Sealer) error {
	t.Helper()
	err := tryRecord(t, record, s)
	if err == nil {
		t.Fatal("it is taken")
	}
	return err
}

// tryRecord decodes a record behind another one; if that fails the op must be as it was.
func tryRecord(t testing.TB, record []byte, s *Sealer) error {
	t.Helper()
	var op Op
	if err := DecodeRecord(&op, someRecord(t), testSealer(t)); err != nil {
		t.Fatal(err)
	}
	var before []recorded
	for i := range op.Items {
		before = append(before, recordedOf(&op.Items[i]))
	}
	cost, sealed := op.Cost, len(op.sealed)
	err := DecodeRecord(&op, record, s)
	if err == nil {
		return nil
	}
	if len(op.Items) != len(before) || op.Cost != cost || len(op.sealed) != sealed {
		t.Errorf("a bad record has left something: %d messages, cost %d", len(op.Items), op.Cost)
	}
	for i := range before {
		if recordedOf(&op.Items[i]) != before[i] {
			t.Errorf("a bad record has changed message %d", i)
		}
	}
	// Nothing is left over that a good record would show.
	if err := PeekRecord(&op, someRecord(t)); err != nil || op.Items[len(before)].Status != Pending {
		t.Error(err)
	}
	return err
}

func TestBytesThatAreNoRecordLeaveTheOpAsItWas(t *testing.T) {
	record := someRecord(t)
	f := func(name string, record []byte) {
		t.Helper()
		if spoiled(t, record, testSealer(t)) {
			t.Errorf("%s is taken", name)
		}
	}
	for n := range record {
		f(fmt.Sprintf("its first %d bytes", n), record[:n])
	}
	f("a byte more", append(slices.Clone(record), 0))
	f("another version", append([]byte{2}, record[1:]...))
	f("a flag that is not known", []byte{1, 1, 0x80, 0, 0, 0})
	f("the same names as nobody's", []byte{1, 1, recordSame, 0, 0, 0})
	f("an envelope of ours that is none", append([]byte{1, 1, recordSealedHere}, make([]byte, 20)...))
	f("more messages than bytes", []byte{1, 0xff, 0xff, 0xff, 0xff, 0x0f, 0})
	f("a number that never ends", append([]byte{1}, bytes.Repeat([]byte{0xff}, 20)...))
	f("a text of 2^64-1 bytes", append(append([]byte{1, 1, 0}, bytes.Repeat([]byte{0xff}, 9)...), 1, 0, 0))
	if !spoiled(t, record, testSealer(t)) {
		t.Error("a good record is not taken")
	}
}

// A record of many messages without a name cannot be made from few bytes.
func TestABadRecordCostsNoMoreThanItsBytes(t *testing.T) {
	record := append([]byte{1, 0xff, 0x7f}, bytes.Repeat([]byte{recordFlags}, 1<<15)...)
	if spoiled(t, record, nil) {
		t.Error("it is taken")
	}
}

func FuzzRecord(f *testing.F) {
	record := someRecord(f)
	f.Add(record)
	f.Add(record[:len(record)/2])
	f.Add([]byte{1, 0})
	f.Add([]byte{1, 1, recordSame})
	sealer := testSealer(f)
	f.Fuzz(func(t *testing.T, record []byte) {
		kept := bytes.Clone(record)
		for _, s := range []*Sealer{nil, sealer} {
			if !spoiled(t, record, s) {
				continue
			}
			var op, again Op
			if err := DecodeRecord(&op, record, s); err != nil {
				t.Fatal(err)
			}
			back, err := AppendRecord(nil, &op, nil)
			if err != nil {
				t.Fatal(err)
			}
			if err := DecodeRecord(&again, back, s); err != nil || len(op.Items) != len(again.Items) {
				t.Fatalf("%v: %d messages, %d", err, len(op.Items), len(again.Items))
			}
			for i := range op.Items {
				if recordedOf(&op.Items[i]) != recordedOf(&again.Items[i]) {
					t.Fatalf("message %d is another one", i)
				}
			}
		}
		if !bytes.Equal(record, kept) {
			t.Fatal("the record was changed")
		}
	})
}

func TestTheAnswerOfABufferedMessage(t *testing.T) {
	op, fault := decode(`{"items":[{"queue":"q\"1","partition":"p","transactionId":"t1","payload":1},{"queue":"r","transactionId":"t2"}]}`)
	if fault.Code != OK {
		t.Fatal(fault)
	}
	op.Items[0].Status = Buffered
	op.Items[1].Status, op.Items[1].WinnerID = Duplicate, UUID{15: 1}
	want := `[{"index":0,"partition":"p","queue":"q\"1","queueName":"q\"1","status":"buffered","transactionId":"t1","transaction_id":"t1"},` +
		`{"index":1,"message_id":"00000000-0000-0000-0000-000000000001","queueName":"r","status":"duplicate","transactionId":"t2","transaction_id":"t2"}]`
	if got := string(AppendPushAnswer(nil, op)); got != want {
		t.Errorf("\n got %s\nwant %s", got, want)
	}
}
