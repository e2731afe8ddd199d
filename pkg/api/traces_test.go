package api

import (
	"fmt"
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

		// By their names.
		named := func(target string, total int, page, traces string) {
			t.Helper()
			w.says("GET", "/api/v1/traces/by-name/"+target, "", 200, fmt.Sprintf(`{"pagination":{%s},"total":%d,"traces":[%s]}`, page, total, traces))
		}
		trace := func(group, data, kind, names, payload, transaction string) string {
			return `{"consumer_group":"` + group + `","created_at":T,"data":` + data + `,"event_type":"` + kind + `","id":"U","message_payload":` + payload +
				`,"partition_id":"U","partition_name":"p","queue_name":"q","trace_names":` + names + `,"transaction_id":"` + transaction + `","worker_id":"0"}`
		}
		f(`{"transactionId":"other","partitionId":"{p}","data":2,"traceNames":["n1","a/b"]}`, 201, kept)
		w.sql(`DELETE FROM queen.message_traces WHERE partition_id <> $1`, p) // a take-over has some
		const all = `"limit":100,"offset":0`
		later := trace("__QUEUE_MODE__", "2", "info", `["a/b","n1"]`, `{"t":"other"}`, "other")
		earlier := trace("g", `{"text":"hi"}`, "warn", `["n1","n2"]`, `{"t":"tx/1"}`, "tx/1")
		named("n1", 2, all, later+","+earlier)
		named("n1?limit=1", 2, `"limit":1,"offset":0`, later)
		named("n1?limit=1&offset=1", 2, `"limit":1,"offset":1`, earlier)
		named("n1?offset=2", 2, `"limit":100,"offset":2`, "")
		named("n1?limit=0", 2, `"limit":0,"offset":0`, "")
		named("a%2Fb", 1, all, later)
		named("nobody", 0, all, "")
		names := func(query string, page, list string) {
			t.Helper()
			w.says("GET", "/api/v1/traces/names"+query, "", 200, `{"pagination":{`+page+`},"total":4,"trace_names":[`+list+`]}`)
		}
		name := func(name string, messages, traces int) string {
			return fmt.Sprintf(`{"last_seen":T,"message_count":%d,"trace_count":%d,"trace_name":%q}`, messages, traces, name)
		}
		f(`{"transactionId":"other","partitionId":"{p}","data":3,"traceNames":"n1"}`, 201, kept)
		names("", `"limit":50,"offset":0`, name("n1", 2, 3)+","+name("a/b", 1, 1)+","+name("one", 1, 1)+","+name("n2", 1, 1))
		names("?limit=2&offset=1", `"limit":2,"offset":1`, name("a/b", 1, 1)+","+name("one", 1, 1))
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
		f(`[1e400,-1e-400,1e0000400,`+strings.Repeat("9", 1000)+`]`, 201, kept)
		f(`["1e401",{"1e401":true}]`, 201, kept)
	})
}
