package api

import (
	"bytes"
	"encoding/json"
	"strconv"
	"strings"

	"github.com/queend/queend/pkg/queue"
)

// trace keeps what a consumer says about a message that it works on.
func (r *Router) trace(x Exchange) {
	body, err := readBody(x, true)
	if err != nil {
		r.adminFault(x, err)
		return
	}
	transaction, ok := body.text("transactionId")
	partition, also := body.text("partitionId")
	if !ok || !also {
		r.fail(x, 400, nil, "transactionId and partitionId are required")
		return
	}
	if !body.has("data") {
		r.fail(x, 400, nil, "data is required")
		return
	}
	if hasLargeNumber(body["data"]) {
		// A few bytes that the column, which is jsonb, would write out as 128 KiB.
		r.fail(x, 400, nil, "data holds a number of more than "+strconv.Itoa(queue.NumberDigitsMax)+" digits or with an exponent beyond ±"+
			strconv.Itoa(queue.NumberExponentMax))
		return
	}
	names, err := traceNames(body)
	if err != nil {
		r.adminFault(x, err)
		return
	}
	reader, _ := body.text("consumerGroup")
	reader = group([]byte(reader))
	kind, _ := body.text("eventType")
	if kind == "" {
		kind = "info"
	}
	arguments := []any{partition, transaction, []byte(body["data"]), reader, kind, strconv.Itoa(r.WorkerID), names}
	r.administer(x, func(s Session) (outcome, error) {
		rows, err := s.Rows("admin_trace", arguments...)
		if err != nil {
			return outcome{}, err
		}
		var answer object
		if len(rows) == 0 {
			answer.text("error", "Message not found")
			answer.bool("success", false)
			return outcome{status: 404, body: answer.end()}, nil
		}
		answer.bool("success", true)
		answer.column("traceId", rows[0][0])
		return outcome{status: 201, body: answer.end()}, nil
	})
}

// hasLargeNumber says whether valid JSON has a number that jsonb would blow up, by the
// bounds that payloads have in such a column.
func hasLargeNumber(text []byte) bool {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	for {
		token, err := d.Token()
		if err != nil {
			return false
		}
		number, ok := token.(json.Number)
		if !ok {
			continue
		}
		digits, exponent, _ := strings.Cut(strings.ToLower(strings.TrimPrefix(string(number), "-")), "e")
		if len(strings.Replace(digits, ".", "", 1)) > queue.NumberDigitsMax {
			return true
		}
		if exponent != "" {
			if n, err := strconv.Atoi(exponent); err != nil || max(n, -n) > queue.NumberExponentMax {
				return true
			}
		}
	}
}

// traceNames are given as a list, as one name, or not at all.
func traceNames(body fields) ([]string, error) {
	if !body.has("traceNames") {
		return nil, nil
	}
	if one, ok := body.text("traceNames"); ok {
		return []string{one}, nil
	}
	var given []*string
	if json.Unmarshal(body["traceNames"], &given) != nil {
		return nil, &refusal{400, "traceNames must be a string or an array of strings"}
	}
	var names []string
	for _, name := range given {
		if name != nil { // null is no name
			names = append(names, *name)
		}
	}
	return names, nil
}

// shownTrace is what all lists show of a trace, whose statements begin with the same columns.
func shownTrace(row [][]byte) (t object) {
	t.column("consumer_group", row[0])
	t.column("created_at", row[1])
	t.json("data", compact(row[2]))
	t.column("event_type", row[3])
	t.column("id", row[4])
	return t
}

// listTraces shows what was said about a message, oldest first.
func (r *Router) listTraces(x Exchange, p Params) {
	partition, transaction := string(p.Get(0)), string(p.Get(1))
	r.look(x, func(s Session) (outcome, error) {
		rows, err := s.Rows("admin_traces", partition, transaction)
		if err != nil {
			return outcome{}, err
		}
		var answer object
		answer.json("traces", list(len(rows), func(i int) []byte {
			row := rows[i]
			t := shownTrace(row)
			t.json("trace_names", row[5])
			t.column("worker_id", row[6])
			return t.end()
		}))
		return outcome{body: answer.end()}, nil
	})
}

// listNamedTraces shows the traces that have a name, oldest first, each with its message.
func (r *Router) listNamedTraces(x Exchange, p Params) {
	r.listPage(x, 100, "traces", "admin_traces_named", []any{string(p.Get(0))}, func(row [][]byte) []byte {
		t := shownTrace(row)
		t.json("message_payload", r.opened(row[5]))
		t.column("partition_id", row[6])
		t.column("partition_name", row[7])
		t.column("queue_name", row[8])
		t.json("trace_names", row[9])
		t.column("transaction_id", row[10])
		t.column("worker_id", row[11])
		return t.end()
	})
}

// listTraceNames shows the names that traces have.
func (r *Router) listTraceNames(x Exchange) {
	r.listPage(x, 50, "trace_names", "admin_trace_names", nil, func(row [][]byte) []byte {
		var n object
		n.column("last_seen", row[0])
		n.json("message_count", row[1])
		n.json("trace_count", row[2])
		n.column("trace_name", row[3])
		return n.end()
	})
}
