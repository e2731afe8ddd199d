package queue

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode/utf8"
)

func TestAnAckThatMakesNoSenseIsRefused(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		op := new(Op)
		if got := DecodeAck(op, []byte(body), &Config{}); got.Code != Invalid || !strings.HasPrefix(got.Message, want) {
			t.Errorf("%s: %+v, want %s", body, got, want)
		}
	}
	const p = `"partitionId":"00000000-0000-0000-0000-000000000001"`
	f(``, "Empty request body")
	f(`{`, "Invalid JSON: expected a string in double quotes as the object's first key, or '}'")
	f(`{"transactionId":"a",`+p+`} x`, "Invalid JSON: expected nothing after the value")
	f(`{"transactionId":"a",`+p+`,"status":"\x"}`, "Invalid JSON: ")
	f(`[]`, "transactionId is required")
	f(`null`, "transactionId is required")
	f(`{}`, "transactionId is required")
	f(`{"transactionId":1}`, "transactionId is required")
	f(`{"transactionId":null,`+p+`}`, "transactionId is required")
	f(`{"transactionId":"a"}`, "partitionId is required to ensure message uniqueness")
	f(`{"transactionId":"a","partitionId":null}`, "partitionId is required to ensure message uniqueness")
	f(`{"transactionId":"a","partitionId":"xyz"}`, "partitionId is not a UUID")
	f(`{"transactionId":"a",`+p+`,"consumerGroup":"a\u0000"}`, `consumerGroup holds the character \u0000`)
	f(`{"transactionId":"a",`+p+`,"consumerGroup":"\ud800"}`, `consumerGroup holds half of a surrogate pair`)
	f(`{"transactionId":"a",`+p+`,"consumerGroup":"`+strings.Repeat("é", 256)+`"}`, `consumerGroup is 256 characters long, more than 255`)

	many := func(body, want string) {
		t.Helper()
		op := new(Op)
		if got := DecodeAcks(op, []byte(body), &Config{OpBytesMax: 4096}); got.Code == OK || !strings.HasPrefix(got.Message, want) {
			t.Errorf("%s: %+v, want %s", body, got, want)
		}
	}
	many(``, "Empty request body")
	many(`{"acknowledgments":[`, "Invalid JSON: ")
	many(`{"acknowledgments":[{}`, "Invalid JSON: ")
	many(`{"acknowledgments":[{} {}]}`, "Invalid JSON: expected ',' or ']'")
	many(`{}`, "acknowledgments array is required")
	many(`[]`, "acknowledgments array is required")
	many(`{"acknowledgments":{}}`, "acknowledgments array is required")
	many(`{"acknowledgments":[],"acknowledgments":null}`, "acknowledgments array is required")
	many(`{"acknowledgments":[{`+p+`}]}`, "Each acknowledgment must have a valid transactionId string")
	many(`{"acknowledgments":[1]}`, "Each acknowledgment must have a valid transactionId string")
	many(`{"acknowledgments":[{"transactionId":"a"},{}]}`, "Each acknowledgment must have a valid partitionId string to ensure message uniqueness")
	many(`{"acknowledgments":[{"transactionId":"a",`+p+`},{"transactionId":"a","partitionId":7}]}`, "Each acknowledgment must have a valid partitionId string")
	many(`{"consumerGroup":"a\u0000","acknowledgments":[{"transactionId":"a",`+p+`}]}`, `consumerGroup holds`)
	many(`{"acknowledgments":[`+strings.Repeat(`{},`, 100)+`{}]}`, "Each acknowledgment must have")
	element := `{"transactionId":"a",` + p + `}`
	many(`{"acknowledgments":[`+strings.Repeat(element+",", 50)+element+`]}`, "the request's elements need more memory than one request may use (4096 bytes)")
}

func TestAnAckIsReadAsItWasSent(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		op := new(Op)
		decode := DecodeAck
		if strings.Contains(body, "acknowledgments") {
			decode = DecodeAcks
		}
		if got := decode(op, []byte(body), &Config{}); got.Code != OK {
			t.Errorf("%s: %+v", body, got)
			return
		}
		var list []string
		for i := range op.Acks {
			a := &op.Acks[i]
			list = append(list, fmt.Sprintf("%s %v %s %s %q %q %v", a.TransactionID, a.IsPartition, a.Group, a.Status, a.LeaseID, a.Error, a.HasError))
		}
		if got := strings.Join(list, "; "); got != want || op.Verb != Ack || op.Rows() != max(1, len(op.Acks)) {
			t.Errorf("%s:\n got %s\nwant %s", body, got, want)
		}
	}
	const p = `"partitionId":"00000000-0000-0000-0000-000000000001"`
	f(`{"transactionId":"a",`+p+`}`, `a true __QUEUE_MODE__ completed "" "" false`)
	f(`{"transactionId":"a",`+p+`,"status":1,"leaseId":null,"consumerGroup":null,"error":null,"more":[{}]}`, `a true __QUEUE_MODE__ completed "" "" false`)
	f(`{"error":"why","consumerGroup":"g","leaseId":"L","status":"failed",`+p+`,"transactionId":"\u0061\"b"}`, `a"b true g failed "L" "why" true`)
	f(`{"transactionId":"b",`+p+`,"transactionId":"a","status":"","consumerGroup":""}`, `a true __QUEUE_MODE__  "" "" false`)
	f(`{"acknowledgments":[]}`, ``)
	f(`{"acknowledgments":[{"transactionId":"a","partitionId":"x","consumerGroup":"ignored"},{"transactionId":"b",`+p+`,"status":"dlq"}],"consumerGroup":"g"}`,
		`a false g completed "" "" false; b true g dlq "" "" false`)
	f(`{"acknowledgments":[1],"acknowledgments":[{"transactionId":"b",`+p+`}],"consumerGroup":null}`, `b true __QUEUE_MODE__ completed "" "" false`)
}

func TestDecodingAnAckMakesNoGarbage(t *testing.T) {
	one := []byte(`{"transactionId":"a","partitionId":"00000000-0000-0000-0000-000000000001","leaseId":"L","status":"completed","consumerGroup":"g","error":null}`)
	many := []byte(`{"consumerGroup":"g","acknowledgments":[` + strings.Repeat(`{"transactionId":"a","partitionId":"00000000-0000-0000-0000-000000000001","status":"failed","error":"e\n"},`, 99) + string(one) + `]}`)
	op, c := new(Op), new(Config)
	if n := testing.AllocsPerRun(100, func() { DecodeAck(op, one, c) }); n > 0 {
		t.Errorf("one: %v allocations", n)
	}
	if n := testing.AllocsPerRun(100, func() { DecodeAcks(op, many, c) }); n > 0 {
		t.Errorf("many: %v allocations", n)
	}
	if len(op.Acks) != 100 {
		t.Errorf("%d acks", len(op.Acks))
	}
}

func TestATransactionThatMakesNoSenseIsRefused(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		op := new(Op)
		if got := DecodeTransaction(op, []byte(body), &Config{OpBytesMax: 8192}, NewIDs(wallMs)); got.Code == OK || !strings.HasPrefix(got.Message, want) {
			t.Errorf("%s: %+v, want %s", body, got, want)
		}
	}
	operations := func(list, want string) {
		t.Helper()
		f(`{"operations":[`+list+`]}`, want)
	}
	f(``, "Empty request body")
	f(`nope`, "Invalid JSON: ")
	f(`{}`, "operations array required")
	f(`[]`, "operations array required")
	f(`{"operations":{}}`, "operations array required")
	f(`{"operations":[]}`, "operations array cannot be empty")
	f(`{"operations":[{"type":"push","items":[{"queue":"q","payload":nope}]}]}`, "Invalid JSON: ")
	operations(`{"type":"x"},7`, "operations[1] must be an object")
	operations(`null`, "operations[0] must be an object")
	operations(`{"type":"push"}`, "operations[0].items must be an array")
	operations(`{"type":"push","items":{}}`, "operations[0].items must be an array")
	operations(`{"type":"push","items":[{"queue":"q"}]},{"items":[{"queue":"q"},{"queue":1}],"type":"push"}`, "operations[1].items[1]: Queue must be a string")
	operations(`{"type":"push","items":[{}]}`, "operations[0].items[0]: Queue must be a string")
	operations(`{"type":"push","items":[{"queue":"q","partition":null}]}`, "operations[0].items[0]: Partition must be a string")
	operations(`{"type":"push","items":[{"queue":"q"}]},{"type":"push","items":[{"queue":"a\u0000"}]}`, `operations[1].items[0].queue holds the character \u0000`)
	operations(`{"type":"push","items":[{"queue":"q","traceId":"x"}]}`, `operations[0].items[0].traceId is not a UUID`)
	operations(`{"type":"push","items":[{"queue":"`+strings.Repeat("q", 256)+`"}]}`, `operations[0].items[0].queue is 256 characters long, more than 255`)
	operations(`{"type":"ack","partitionId":"x"}`, `operations[0].transactionId must be a string`)
	operations(`{"type":"ack","transactionId":"x"}`, `operations[0].partitionId must be a string`)
	operations(`{"type":"ack","transactionId":"x\u0000","partitionId":"x"}`, `operations[0].transactionId holds`)
	operations(`{"type":"ack","transactionId":"x","partitionId":"x","consumerGroup":"`+strings.Repeat("q", 256)+`"}`, `operations[0].consumerGroup is 256`)
	operations(strings.Repeat(`{},`, 1000)+`{}`, "the request's elements need more memory")
	operations(`{"type":"push","items":[`+strings.Repeat(`{"queue":"q"},`, 200)+`{"queue":"q"}]}`, "the request's elements need more memory")
}

func TestATransactionIsReadAsItWasSent(t *testing.T) {
	op := new(Op)
	body := `{"requiredLeases":["L"],"operations":[
		{"items":[{"queue":"q","payload":null},{"queue":"\u0071","partition":"p","transactionId":"t","payload": {"a" :1} }],"type":"push"},
		{"type":"ack","transactionId":"a","partitionId":"x","status":"failed","consumerGroup":"g","leaseId":"L","error":"e"},
		{"type":"frob"},{},
		{"type":"push","items":[{"queue":"r"}],"items":[{"queue":"s"}]},
		{"type":"ack","transactionId":"b","partitionId":"00000000-0000-0000-0000-000000000001","consumerGroup":null}]}`
	if f := DecodeTransaction(op, []byte(body), &Config{}, NewIDs(wallMs)); f.Code != OK {
		t.Fatal(f.Message)
	}
	var list []string
	for i := range op.Steps {
		switch st := &op.Steps[i]; {
		case st.Unknown:
			list = append(list, fmt.Sprintf("unknown %q", st.Type))
		case st.IsAck:
			a := &op.Acks[st.Index]
			list = append(list, fmt.Sprintf("ack %s %v %s %s %q %q", a.TransactionID, a.IsPartition, a.Group, a.Status, a.LeaseID, a.Error))
		default:
			it := &op.Items[st.Index]
			transaction := "made"
			if it.GivenTransaction {
				transaction = string(it.TransactionID)
			} else if len(it.TransactionID) != 36 {
				t.Errorf("%d: %q", i, it.TransactionID)
			}
			list = append(list, fmt.Sprintf("push %s %s %s %s", it.Queue, it.Partition, transaction, it.Payload))
		}
	}
	want := []string{
		`push q Default made null`, `push q p t {"a" :1}`, `ack a false g failed "L" "e"`, `unknown "frob"`, `unknown ""`,
		`push s Default made {}`, `ack b true __QUEUE_MODE__ completed "" ""`,
	}
	if strings.Join(list, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(list, "\n"), strings.Join(want, "\n"))
	}
	if op.Verb != Transaction || op.Rows() != 5 || op.Cost < len(body) {
		t.Errorf("verb %d, %d rows, cost %d", op.Verb, op.Rows(), op.Cost)
	}
}

func TestARandomIDIsRandomAndSaysSo(t *testing.T) {
	ids := NewIDs(wallMs)
	a, b := ids.Random(), ids.Random()
	if a == b || a.String()[14] != '4' || !strings.ContainsRune("89ab", rune(a.String()[19])) {
		t.Errorf("%s, %s", a, b)
	}
}

// FuzzDecodingAcks holds what is read against encoding/json: the same texts are JSON, and
// what is taken says the same.
func FuzzDecodingAcks(f *testing.F) {
	for _, seed := range []string{
		`{"transactionId":"a","partitionId":"00000000-0000-0000-0000-000000000001","status":"dlq","error":"e"}`,
		`{"acknowledgments":[{"transactionId":"\u0061\n","partitionId":"x"}],"consumerGroup":"g"}`,
		`{"operations":[{"items":[{"queue":"\u0071","payload":{"a":[1,"\""]}},{"queue":"r"}],"type":"push"},{"type":"ack","transactionId":"t","partitionId":"p"}]}`,
		`{"operations":[{"type":"push","items":[{"queue":"a"}],"items":[{"queue":"\ud83d\ude00"}]},{"type":"x"}]}`,
		`{"seconds":1e3}`, `[]`, `{`, `null`,
	} {
		f.Add([]byte(seed))
	}
	ids := NewIDs(wallMs)
	f.Fuzz(func(t *testing.T, body []byte) {
		valid := json.Valid(body) && utf8.Valid(body)
		op, c := new(Op), &Config{}
		for name, fault := range map[string]Fault{
			"ack": DecodeAck(op, body, c), "acks": DecodeAcks(op, body, c), "extend": DecodeExtend(op, nil, body, c), "transaction": DecodeTransaction(op, body, c, ids),
		} {
			if len(body) == 0 {
				continue
			}
			if !valid && fault.Code == OK {
				t.Errorf("%s takes %q", name, body)
			}
			if valid && strings.HasPrefix(fault.Message, refuseJSON) && !strings.Contains(fault.Message, badDepth) {
				t.Errorf("%s refuses %q: %s", name, body, fault.Message)
			}
		}
		// The operations of a transaction that was taken, read a second time.
		if f := DecodeTransaction(op, body, c, ids); f.Code != OK {
			return
		}
		var request struct {
			Operations []map[string]json.RawMessage `json:"operations"`
		}
		if strings.Count(string(body), `"`) > 0 && json.Unmarshal(body, &request) != nil || len(request.Operations) == 0 {
			return // it was said in other letters, which encoding/json takes for the same
		}
		n := 0
		for _, o := range request.Operations {
			var kind string
			_ = json.Unmarshal(o["type"], &kind)
			if kind != "push" {
				n++
				continue
			}
			var items []json.RawMessage
			if err := json.Unmarshal(o["items"], &items); err != nil {
				return
			}
			n += len(items)
		}
		if n != len(op.Steps) && !repeatsAKey(body) {
			t.Errorf("%q: %d steps, want %d", body, len(op.Steps), n)
		}
	})
}

// repeatsAKey says whether one of the keys that matter may be there twice: encoding/json
// merges what it finds then.
func repeatsAKey(body []byte) bool {
	text := strings.ToLower(string(body))
	return strings.Count(text, `operations"`) > 1 || strings.Contains(text, `\u`) || strings.Contains(text, "\u017f") // which encoding/json takes for an s
}
