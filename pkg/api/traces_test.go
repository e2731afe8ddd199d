package api

import (
	"strings"
	"testing"
)

func TestTracesOfAMessageAreKeptAndShown(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p", "tx/1", "other")
		p := w.partition("q", "p")
		f := func(body string, status int, answer string) {
			t.Helper()
			w.says("POST", "/api/v1/traces", strings.ReplaceAll(body, "{p}", p), status, answer)
		}
		const kept = `{"success":true,"traceId":"U"}`
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":{"text": "hi"},"traceNames":["n2",null,"n1","n1"],"eventType":"warn","consumerGroup":"g"}`, 201, kept)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":[1, "x"],"traceNames":"one"}`, 201, kept)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":false,"traceNames":null,"consumerGroup":null,"eventType":null}`, 201, kept)

		f(`{"transactionId":"zz","partitionId":"{p}","data":{}}`, 404, `{"error":"Message not found","success":false}`)
		f(`{"transactionId":"tx/1","partitionId":"00000000-0000-0000-0000-000000000001","data":{}}`, 404, `{"error":"Message not found","success":false}`)
		f(`{"transactionId":"tx/1","partitionId":"xx","data":{}}`, 400, `{"error":"invalid input syntax for type uuid: \"xx\""}`)
		both := `{"error":"transactionId and partitionId are required"}`
		f(`{"transactionId":"tx/1"}`, 400, both)
		f(`{"partitionId":"{p}"}`, 400, both)
		f(`{"transactionId":1,"partitionId":"{p}","data":{}}`, 400, both)
		f(`{"transactionId":"tx/1","partitionId":"{p}"}`, 400, `{"error":"data is required"}`)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":null}`, 400, `{"error":"data is required"}`)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":{},"traceNames":[1]}`, 400, `{"error":"traceNames must be a string or an array of strings"}`)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":{},"traceNames":{}}`, 400, `{"error":"traceNames must be a string or an array of strings"}`)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":{},"traceNames":"`+strings.Repeat("n", 256)+`"}`, 400, `{"error":"value too long for type character varying(255)"}`)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":"\u0000"}`, 400, `{"error":"unsupported Unicode escape sequence"}`)
		f(``, 400, `{"error":"Empty request body"}`)

		w.says("GET", "/api/v1/traces/"+p+"/tx%2F1", "", 200, `{"traces":[`+
			`{"consumer_group":"g","created_at":T,"data":{"text":"hi"},"event_type":"warn","id":"U","trace_names":["n1","n2"],"worker_id":"0"},`+
			`{"consumer_group":"__QUEUE_MODE__","created_at":T,"data":[1,"x"],"event_type":"info","id":"U","trace_names":["one"],"worker_id":"0"},`+
			`{"consumer_group":"__QUEUE_MODE__","created_at":T,"data":false,"event_type":"info","id":"U","trace_names":[],"worker_id":"0"}]}`)
		w.says("GET", "/api/v1/traces/"+p+"/other", "", 200, `{"traces":[]}`)
	})
}

func TestATraceWithANumberThatJsonbWouldBlowUpIsRefused(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p", "t")
		p := w.partition("q", "p")
		f := func(data string, status int, answer string) {
			t.Helper()
			w.says("POST", "/api/v1/traces", `{"transactionId":"t","partitionId":"`+p+`","data":`+data+`}`, status, answer)
		}
		const kept = `{"success":true,"traceId":"U"}`
		const refused = `{"error":"data holds a number of more than 1000 digits or with an exponent beyond ±400"}`
		f(`1e401`, 400, refused)
		f(`[{"a":[0,-1E+131071]}]`, 400, refused)
		f(`{"a":1e-401}`, 400, refused)
		f(`1e99999999999999999999`, 400, refused)
		f(strings.Repeat("9", 1001), 400, refused)
		f(`0.`+strings.Repeat("9", 1000), 400, refused)
		f(`[1e400,-1e-400,1e0000400,`+strings.Repeat("9", 1000)+`]`, 201, kept)
		f(`["1e401",{"1e401":true}]`, 201, kept)
	})
}

func TestTracesAreFoundByTheirNames(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"sealed","options":{"encryptionEnabled":true}}`)
		w.push("q", "p", "a", "b")
		w.push("sealed", "s", "c")
		w.sql(`DELETE FROM queen.message_traces`) // what Queen left
		p, sealed := w.partition("q", "p"), w.partition("sealed", "s")
		say := func(partition, transaction, data, names string) {
			t.Helper()
			w.says("POST", "/api/v1/traces", `{"transactionId":"`+transaction+`","partitionId":"`+partition+`","data":`+data+`,"traceNames":`+names+`}`, 201, `{"success":true,"traceId":"U"}`)
		}
		w.says("GET", "/api/v1/traces/names", "", 200, `{"pagination":{"limit":50,"offset":0},"total":0,"trace_names":[]}`)
		say(p, "a", `1`, `["n/1","other"]`)
		say(p, "a", `{"x": 2}`, `"n/1"`)
		say(p, "b", `3`, `null`)
		say(sealed, "c", `4`, `["n/1"]`)

		shown := func(data, names, queue, partition, transaction, payload string) string {
			return `{"consumer_group":"__QUEUE_MODE__","created_at":T,"data":` + data + `,"event_type":"info","id":"U","message_payload":` + payload +
				`,"partition_id":"U","partition_name":"` + partition + `","queue_name":"` + queue + `","trace_names":` + names + `,"transaction_id":"` + transaction + `","worker_id":"0"}`
		}
		one := shown(`1`, `["n/1","other"]`, "q", "p", "a", `{"t":"a"}`)
		two := shown(`{"x":2}`, `["n/1"]`, "q", "p", "a", `{"t":"a"}`)
		three := shown(`4`, `["n/1"]`, "sealed", "s", "c", `{"t":"c"}`)
		f := func(target, page, total string, traces ...string) {
			t.Helper()
			w.says("GET", "/api/v1/traces/by-name/"+target, "", 200, `{"pagination":{`+page+`},"total":`+total+`,"traces":[`+strings.Join(traces, ",")+`]}`)
		}
		f("n%2F1", `"limit":100,"offset":0`, "3", one, two, three)
		f("n%2F1?limit=1", `"limit":1,"offset":0`, "3", one)
		f("n%2F1?limit=1&offset=1", `"limit":1,"offset":1`, "3", two)
		f("n%2F1?offset=2", `"limit":100,"offset":2`, "3", three)
		f("n%2F1?offset=3", `"limit":100,"offset":3`, "3")
		f("n%2F1?limit=0", `"limit":0,"offset":0`, "3")
		f("n%2F1?limit=5000&offset=-1", `"limit":1000,"offset":0`, "3", one, two, three)
		f("other", `"limit":100,"offset":0`, "1", one)
		f("zzz", `"limit":100,"offset":0`, "0")
		f("", `"limit":100,"offset":0`, "0")

		const last, before = `{"last_seen":T,"message_count":2,"trace_count":3,"trace_name":"n/1"}`, `{"last_seen":T,"message_count":1,"trace_count":1,"trace_name":"other"}`
		w.says("GET", "/api/v1/traces/names", "", 200, `{"pagination":{"limit":50,"offset":0},"total":2,"trace_names":[`+last+`,`+before+`]}`)
		w.says("GET", "/api/v1/traces/names?limit=1&offset=1", "", 200, `{"pagination":{"limit":1,"offset":1},"total":2,"trace_names":[`+before+`]}`)
		w.says("GET", "/api/v1/traces/names?limit=5000&offset=2", "", 200, `{"pagination":{"limit":1000,"offset":2},"total":2,"trace_names":[]}`)

		// A server without the key shows the envelope.
		w.config.Sealer = nil
		if x := w.ask("GET", "/api/v1/traces/by-name/n%2F1?offset=2", ""); !strings.Contains(x.body, `"encrypted":`) {
			t.Errorf("without the key: %s", x.body)
		}

		// A trace outlives its message, but for Queen's foreign key.
		w.sql(`DELETE FROM queen.messages WHERE transaction_id = 'a'`)
		if w.config.PayloadJSONB {
			f("other", `"limit":100,"offset":0`, "0")
		} else {
			f("other", `"limit":100,"offset":0`, "1", strings.Replace(one, `{"t":"a"}`, "null", 1))
		}
	})
}
