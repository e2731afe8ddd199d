package queue

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
	"unicode/utf8"
)

func decode(body string) (*Op, Fault) {
	op := new(Op)
	return op, Decode(op, []byte(body), &Config{}, NewIDs(wallMs))
}

func TestWhatIsRefusedAtTheDoor(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		if _, fault := decode(body); fault.Code != Invalid || fault.Message != want {
			t.Errorf("%.80s:\n got %d %s\nwant %s", body, fault.Code, fault.Message, want)
		}
	}
	// The texts that Queen's clients know.
	f(``, "Empty request body")
	f(`{"foo":1}`, "items array is required")
	f(`{"items":{}}`, "items array is required")
	f(`{"items":null}`, "items array is required")
	f(`[1]`, "items array is required")
	f(`null`, "items array is required")
	f(`{}`, "items array is required")
	f(`"items"`, "items array is required")
	f(`{"items":[{"queue":"q","partition":5,"payload":1}]}`, "Partition must be a string")
	f(`{"items":[{"queue":"q","partition":null,"payload":1}]}`, "Partition must be a string")
	f(`{"items":[{"payload":1}]}`, "Queue must be a string")
	f(`{"items":[{"queue":5,"payload":1}]}`, "Queue must be a string")
	f(`{"items":[{"queue":null,"payload":1}]}`, "Queue must be a string")
	f(`{"items":[5]}`, "Queue must be a string")
	f(`{"items":[null]}`, "Queue must be a string")
	f(`{"items":[{}]}`, "Queue must be a string")
	f(`{"items":[["queue"]]}`, "Queue must be a string")
	f(`{"items":[{"queue":"q","transactionId":5,"payload":1}]}`, "TransactionId must be a string")
	f(`{"items":[{"queue":"q","transactionId":null}]}`, "TransactionId must be a string")
	f(`{"items":[{"queue":"q","traceId":5,"payload":1}]}`, "TraceId must be a string")
	f(`{"items":[{"queue":"q","traceId":null}]}`, "TraceId must be a string")
	f(`{"items":[{"queue":"q","payload":{"partial":1}},{"payload":1}]}`, "Queue must be a string")

	// Their order: in an item partition, queue, transactionId, traceId; then by item; and
	// text that is no JSON before all that.
	f(`{"items":[{"traceId":1,"transactionId":1,"queue":1,"partition":1}]}`, "Partition must be a string")
	f(`{"items":[{"traceId":1,"transactionId":1,"queue":1}]}`, "Queue must be a string")
	f(`{"items":[{"traceId":1,"transactionId":1,"queue":""}]}`, "TransactionId must be a string")
	f(`{"items":[{"queue":"q","traceId":1},{"queue":"q","partition":1}]}`, "TraceId must be a string")
	f(`{"items":[{"queue":"q","partition":1}],}`, "Invalid JSON: expected a string in double quotes as the object's next key; found '}' at line 1, column 40")
	f(`{bad json`, "Invalid JSON: expected a string in double quotes as the object's first key, or '}'; found 'b' at line 1, column 2")
	f(`{"items":[{"queue":"q"`, "Invalid JSON: expected ',' or '}' after a value in an object; found the end of the text at line 1, column 23")
	f(" \n", "Invalid JSON: expected a value; found the end of the text at line 2, column 1")
	f(`{"items":[{"queue":"q`+"\xff"+`"}]}`, "Invalid JSON: a string is not valid UTF-8; found byte 0xff at line 1, column 22")
	f(`{"items":[1]} x`, "Invalid JSON: expected nothing after the value; found 'x' at line 1, column 15")
	f(`{"items":[{"queue":"\n\n","partition":"\"\"",}]}`, "Invalid JSON: expected a string in double quotes as the object's next key; found '}' at line 1, column 46")

	// What PostgreSQL could not store, named.
	f(`{"items":[{"queue":"q","traceId":"x"}]}`, "items[0].traceId is not a UUID")
	f(`{"items":[{"queue":"q"},{"queue":"q","traceId":"01900000-0000-7000-8000-00000000000"}]}`, "items[1].traceId is not a UUID")
	f(`{"items":[{"queue":"a\u0000b"}]}`, `items[0].queue holds the character \u0000, which cannot be stored`)
	f(`{"items":[{"queue":"q","partition":"\u0000"}]}`, `items[0].partition holds the character \u0000, which cannot be stored`)
	f(`{"items":[{"queue":"q","transactionId":"\u0000"}]}`, `items[0].transactionId holds the character \u0000, which cannot be stored`)
	f(`{"items":[{"queue":"\ud800"}]}`, `items[0].queue holds half of a surrogate pair (\ud800 to \udfff alone), which is no character`)
	f(`{"items":[{"queue":"q","transactionId":"\udc00\ud800"}]}`, `items[0].transactionId holds half of a surrogate pair (\ud800 to \udfff alone), which is no character`)
	f(`{"items":[{"queue":"`+strings.Repeat("é", 256)+`"}]}`, "items[0].queue is 256 characters long, more than 255")
	f(`{"items":[{"queue":"q","partition":"`+strings.Repeat("a", 300)+`"}]}`, "items[0].partition is 300 characters long, more than 255")
	f(`{"items":[{"queue":"q"},{"queue":"q","transactionId":"`+strings.Repeat(`\u20ac`, 256)+`"}]}`, "items[1].transactionId is 256 characters long, more than 255")
	// A wrong type anywhere is said first: Queen's clients know it.
	f(`{"items":[{"queue":"q","traceId":"x"},{"queue":1}]}`, "Queue must be a string")
	f(`{"items":[{"queue":"q","traceId":"x"},{"queue":"\u0000"}]}`, "items[0].traceId is not a UUID")
}

func TestWhatIsReadFromAPush(t *testing.T) {
	f := func(body string, want ...string) {
		t.Helper()
		op, fault := decode(body)
		var got []string
		for i := range op.Items {
			it := &op.Items[i]
			line := fmt.Sprintf("%s|%s|%s|%s", it.Queue, it.Partition, it.TransactionID, it.Payload)
			if !it.GivenTransaction {
				if len(it.TransactionID) != 36 || it.TransactionID[14] != '7' {
					t.Errorf("a transaction id of ours: %q", it.TransactionID)
				}
				line = fmt.Sprintf("%s|%s||%s", it.Queue, it.Partition, it.Payload)
			}
			if it.HasTrace {
				line += "|" + it.TraceID.String()
			}
			got = append(got, line)
		}
		if fault.Code != OK || strings.Join(got, "\n") != strings.Join(want, "\n") {
			t.Errorf("%s: %v\n got %q\nwant %q", body, fault, got, want)
		}
	}
	f(`{"items":[]}`)
	f(`{"items":[{"queue":"q"}]}`, `q|Default||null`)
	f(`{"items":[{"queue":"","partition":"","transactionId":"","traceId":"","payload":""}]}`, `|||""`)
	f(`{"bufferMs":5,"items":[{"payload": {"a" : [1, 2]} ,"queue":"q","partition":"p","transactionId":"t","traceId":"01900000-0000-7000-8000-00000000ABCD"}],"x":[{"items":1}]}`,
		`q|p|t|{"a" : [1, 2]}|01900000-0000-7000-8000-00000000abcd`)
	f(`{"items":[{"queue":"a"},{"queue":"b","namespace":"n","task":5,"messageId":null,"is_encrypted":true,"producerSub":7}]}`, `a|Default||null`, `b|Default||null`)
	f("\n{ \"items\" :\t[ { \"queue\" : \"q\" , \"payload\" :\r\n-0.0 } ] } ", `q|Default||-0.0`)
	// Keys and names may be written with escapes.
	f(`{"\u0069tems":[{"que\u0075e":"a\tb\u00e9\ud83d\ude00\/","transac\u0074ionId":"\"","payload":"\u0041"}]}`, "a\tbé😀/|Default|\"|"+`"\u0041"`)
	// Given twice: the last one counts, whatever it is.
	f(`{"items":[{"queue":1}],"items":[{"queue":"a","queue":"b","payload":1,"payload":2,"partition":null,"partition":"p"}]}`, `b|p||2`)
	f(`{"items":1,"items":[{"queue":"q","transactionId":"t","transactionId":""}]}`, `q|Default||null`)
	f(`{"items":[{"queue":"\u0000","queue":"q","traceId":"x","traceId":""}],"items":[{"queue":"q"},{"queue":"r"}]}`, `q|Default||null`, `r|Default||null`)
	// 255 characters, not bytes.
	long := strings.Repeat("😀", NameCharsMax)
	f(`{"items":[{"queue":"`+long+`","partition":"`+long+`","transactionId":"`+long+`"}]}`, long+"|"+long+"|"+long+"|null")
	// What json columns hold, though jsonb would not.
	f(`{"items":[{"queue":"q","payload":["\u0000","\ud800",1e999]}]}`, `q|Default||["\u0000","\ud800",1e999]`)

	if _, fault := decode(`{"items":[1],"items":2}`); fault.Message != refuseItems {
		t.Errorf("items given twice: %v", fault)
	}
	if _, fault := decode(`{"items":[{"queue":"q","queue":1}]}`); fault.Message != refuseQueue {
		t.Errorf("queue given twice: %v", fault)
	}
}

func TestAJSONBColumnHasMoreToRefuse(t *testing.T) {
	f := func(payload, want string) {
		t.Helper()
		fault := Decode(new(Op), []byte(`{"n":1e999,"items":[{"queue":"q","x":"\u0000","payload":`+payload+`,"y":1e999}]}`), &Config{PayloadJSONB: true}, NewIDs(wallMs))
		if want != "" {
			want = "items[0].payload holds " + want
		}
		if fault.Message != want {
			t.Errorf("%.80s: %q, want %q", payload, fault.Message, want)
		}
	}
	number := "a number of more than 1000 digits or with an exponent beyond ±400, which a jsonb column would write out in full"
	f(`{"a":[1e400,-1E-400,"\ud83d\ude00"]}`, "")
	f(`1e401`, number)
	f(`[{"a":1e-401}]`, number)
	f(strings.Repeat("1", 1001), number)
	f(strings.Repeat("1", 1000), "")
	f(`"a\u0000"`, `the character \u0000, which a jsonb column cannot store`)
	f(`{"\u0000":1}`, `the character \u0000, which a jsonb column cannot store`)
	f(`"\ud83d"`, `half of a surrogate pair (\ud800 to \udfff alone), which a jsonb column cannot store`)
}

func TestOneRequestMayUseSoMuchMemory(t *testing.T) {
	c := &Config{OpBytesMax: 100 * itemBytes}
	body := func(n int) []byte {
		return []byte(`{"items":[` + strings.TrimSuffix(strings.Repeat(`{"queue":"q"},`, n), ",") + `]}`)
	}
	n := 1
	for ; ; n++ {
		op := new(Op)
		f := Decode(op, body(n), c, NewIDs(wallMs))
		if f.Code == TooLarge {
			break
		}
		if f.Code != OK || len(op.Items) != n {
			t.Fatalf("%d items: %v", n, f)
		}
	}
	if n < 90 || n > 100 {
		t.Errorf("refused at %d items", n)
	}
	// A large request costs nothing once it is gone.
	op := new(Op)
	if f := Decode(op, body(opItemsKeptMax+1), &Config{}, NewIDs(wallMs)); f.Code != OK || op.Cost < opItemsKeptMax*itemBytes {
		t.Errorf("%v, cost %d", f, op.Cost)
	}
	if op.Reset(); cap(op.Items) != 0 || len(op.Items) != 0 {
		t.Error("a large request's items are kept")
	}
}

func TestAnOpIsUsedAgain(t *testing.T) {
	op, ids, c := new(Op), NewIDs(wallMs), &Config{}
	if f := Decode(op, []byte(`{"items":[{"queue":"a","traceId":"01900000-0000-7000-8000-000000000001"},{"queue":1}]}`), c, ids); f.Code != Invalid {
		t.Fatal(f)
	}
	op.Items[0].Status, op.Items[0].Error, op.tries = Failed, "x", 3
	op.Reset()
	if f := Decode(op, []byte(`{"items":[{"queue":"b"}]}`), c, ids); f.Code != OK || len(op.Items) != 1 {
		t.Fatal(f)
	}
	it := op.Items[0]
	if string(it.Queue) != "b" || it.HasTrace || it.Status != Pending || it.Error != "" || op.tries != 0 || op.Fault.Code != OK {
		t.Errorf("%+v", it)
	}
	op.SetProducer([]byte("ada"))
	if string(op.Items[0].ProducerSub) != "ada" {
		t.Error("no producer")
	}
}

// Whatever an op was, after Reset it is as a new one; nothing of a pop, an ack or a question
// is left in a push.
func TestAnOpThatWasAnotherVerbIsAsNew(t *testing.T) {
	for _, v := range []Verb{Pop, Ack, Extend, Transaction, Release, Watch} {
		op := &Op{Verb: v, Acks: make([]AckItem, 1), Steps: make([]TransactionStep, 1), Freed: make([]Freed, 1), Cost: 1, tries: 1}
		op.Pop.Batch, op.Pop.Tries, op.Pop.Messages = 1, make([]Try, 1), []byte("m")
		op.Lease.ID, op.Watch.Kind, op.Watch.Since = []byte("l"), WatchTell, "s"
		op.Reset()
		if f := Decode(op, []byte(`{"items":[{"queue":"b"}]}`), &Config{}, NewIDs(wallMs)); f.Code != OK || op.Verb != Push {
			t.Fatal(v, f, op.Verb)
		}
		fresh := new(Op)
		if len(op.Acks)+len(op.Steps)+len(op.Freed)+len(op.Pop.Tries)+len(op.Pop.Messages) > 0 || op.Pop.Batch != 0 || op.tries != 0 ||
			!reflect.DeepEqual(op.Lease, fresh.Lease) || !reflect.DeepEqual(op.Watch, fresh.Watch) {
			t.Errorf("verb %d leaves %+v", v, op)
		}
	}
}

func TestTheCallersBodyIsNotTouchedNorKept(t *testing.T) {
	body := []byte(`{"items":[{"queue":"\u0041\u0042","partition":"p\n","transactionId":"\"t","payload":{"a":"\u0041"}}]}`)
	before := string(body)
	op := new(Op)
	if f := Decode(op, body, &Config{}, NewIDs(wallMs)); f.Code != OK {
		t.Fatal(f)
	}
	if string(body) != before {
		t.Error("the body was changed")
	}
	for i := range body {
		body[i] = 'x'
	}
	it := op.Items[0]
	if string(it.Queue) != "AB" || string(it.Partition) != "p\n" || string(it.TransactionID) != `"t` || string(it.Payload) != `{"a":"\u0041"}` {
		t.Errorf("%q %q %q %q", it.Queue, it.Partition, it.TransactionID, it.Payload)
	}
	// The slices end where they end.
	if _ = append(it.Queue, "zzzzzzzz"...); string(it.Partition) != "p\n" || string(it.Payload) != `{"a":"\u0041"}` {
		t.Error("a name can be written beyond its end")
	}
}

// FuzzDecode compares Decode with encoding/json for all that both can say, and holds
// it to its promises on the rest.
func FuzzDecode(f *testing.F) {
	for _, body := range []string{
		``, `{}`, `{"items":[]}`, pushOf370, `{"items":[{"queue":"q","partition":null}]}`, `{"items":[{"queue":"\ud83d\ude00","traceId":"{0190000000007000800000000000000a}"}]}`,
		`{"items":[{"queue":"a","queue":"b"}],"items":[{"queue":"c","payload":[1e500,"\u0000\ud800"]}]}`, `{"items":[5,null,{"queue":"q","transactionId":""}]}`, `{"items":[{"queue":"q"},]}`,
	} {
		f.Add([]byte(body), false)
		f.Add([]byte(body), true)
	}
	ids := NewIDs(wallMs)
	f.Fuzz(func(t *testing.T, body []byte, jsonb bool) {
		op := new(Op)
		fault := Decode(op, body, &Config{PayloadJSONB: jsonb}, ids)
		if bad := scan(body); len(body) > 0 && (bad != "") != strings.HasPrefix(fault.Message, refuseJSON) || bad != "" && len(body) > 0 && fault.Message != refuseJSON+bad {
			t.Fatalf("%q: %q, and the scanner says %q", body, fault.Message, bad)
		}
		if fault.Code != OK {
			if fault.Code != Invalid || fault.Message == "" {
				t.Fatalf("%q: %v", body, fault)
			}
			return
		}
		// encoding/json matches keys in any case and merges repeated ones, so it is asked
		// for maps and raw values.
		var top map[string]json.RawMessage
		var items []map[string]json.RawMessage
		if err := json.Unmarshal(body, &top); err != nil {
			t.Fatalf("%q: %v", body, err)
		}
		if err := json.Unmarshal(top["items"], &items); err != nil || len(items) != len(op.Items) {
			t.Fatalf("%q: %v, %d items", body, err, len(op.Items))
		}
		var last UUID
		for i, want := range items {
			it := &op.Items[i]
			str := func(key, absent string) string {
				raw, ok := want[key]
				if !ok {
					return absent
				}
				var s string
				if err := json.Unmarshal(raw, &s); err != nil {
					t.Fatalf("%q: %s: %v", body, key, err)
				}
				return s
			}
			if got, want := string(it.Queue), str("queue", "?"); got != want {
				t.Fatalf("%q: queue %q, want %q", body, got, want)
			}
			if got, want := string(it.Partition), str("partition", "Default"); got != want {
				t.Fatalf("%q: partition %q, want %q", body, got, want)
			}
			if want := str("transactionId", ""); it.GivenTransaction != (want != "") || want != "" && string(it.TransactionID) != want {
				t.Fatalf("%q: transaction %q, want %q", body, it.TransactionID, want)
			}
			payload := "null"
			if raw, ok := want["payload"]; ok {
				payload = string(raw)
			}
			if string(it.Payload) != payload {
				t.Fatalf("%q: payload %q, want %q", body, it.Payload, payload)
			}
			if it.HasTrace != (str("traceId", "") != "") {
				t.Fatalf("%q: trace %v", body, it.HasTrace)
			}
			for _, name := range [][]byte{it.Queue, it.Partition, it.TransactionID} {
				if !utf8.Valid(name) || utf8.RuneCount(name) > NameCharsMax || strings.ContainsRune(string(name), 0) {
					t.Fatalf("%q: the name %q", body, name)
				}
			}
			if string(it.ID[:]) <= string(last[:]) || it.Status != Pending {
				t.Fatalf("%q: id %s after %s", body, it.ID, last)
			}
			last = it.ID
			it.Status = Status(1 + i%3)
		}
		var answer []map[string]any
		if err := json.Unmarshal(AppendPushAnswer(nil, op), &answer); err != nil || len(answer) != len(op.Items) {
			t.Fatalf("%q: the answer: %v", body, err)
		}
	})
}

func BenchmarkDecode(b *testing.B) {
	many := `{"items":[` + strings.TrimSuffix(strings.Repeat(pushOf370[len(`{"items":[`):len(pushOf370)-2]+",", 100), ",") + `]}`
	for _, c := range []struct{ name, body string }{{"1", pushOf370}, {"100", many}} {
		b.Run(c.name, func(b *testing.B) {
			op, ids, config, body := new(Op), NewIDs(wallMs), &Config{}, []byte(c.body)
			b.SetBytes(int64(len(body)))
			b.ReportAllocs()
			for b.Loop() {
				op.Reset()
				if f := Decode(op, body, config, ids); f.Code != OK {
					b.Fatal(f)
				}
			}
		})
	}
}
