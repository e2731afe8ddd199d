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
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":{"text": "hi"},"traceNames":["n2",null,"n1","n1"],"eventType":"warn","consumerGroup":"g"}`, 200, kept)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":[1, "x"],"traceNames":"one"}`, 200, kept)
		f(`{"transactionId":"tx/1","partitionId":"{p}","data":false,"traceNames":null,"consumerGroup":null,"eventType":null}`, 200, kept)

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
			`{"consumer_group":null,"created_at":T,"data":[1,"x"],"event_type":"info","id":"U","trace_names":["one"],"worker_id":"0"},`+
			`{"consumer_group":null,"created_at":T,"data":false,"event_type":"info","id":"U","trace_names":[],"worker_id":"0"}]}`)
		w.says("GET", "/api/v1/traces/"+p+"/other", "", 200, `{"traces":[]}`)
		w.says("GET", "/api/v1/traces/xx/other", "", 400, `{"error":"invalid input syntax for type uuid: \"xx\""}`)
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
		f(`[1e400,-1e-400,1e0000400,`+strings.Repeat("9", 1000)+`]`, 200, kept)
		f(`["1e401",{"1e401":true}]`, 200, kept)
	})
}
