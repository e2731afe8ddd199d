package schema

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

func fresh(t testing.TB) *db {
	t.Helper()
	d := copyOf(t, "")
	d.migrate()
	return d
}

// result is one element of an answer of push_messages_v2.
type result struct {
	Index         int     `json:"index"`
	Status        string  `json:"status"`
	MessageID     string  `json:"message_id"`
	PartitionID   string  `json:"partition_id"`
	TransactionID string  `json:"transaction_id"`
	TraceID       *string `json:"trace_id"`
}

func (d *db) push(items string) []result {
	d.t.Helper()
	var results []result
	answer := d.run("SELECT queen.push_messages_v2(" + quote(items) + "::jsonb)")
	if err := json.Unmarshal([]byte(answer), &results); err != nil {
		d.t.Fatalf("%s: %v", answer, err)
	}
	return results
}

// refused is the SQLSTATE and the text that sql fails with.
func (d *db) refused(sql string) (code, message string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	_, err := query(ctx, d.conn, sql)
	var pg *pgconn.PgError
	if !errors.As(err, &pg) {
		d.t.Fatalf("%s: not refused: %v", sql, err)
	}
	return pg.Code, pg.Message
}

func TestPushMessagesStoresAsTheHTTPPushDoes(t *testing.T) {
	for _, layout := range []string{"", small015} {
		d := copyOf(t, layout)
		d.migrate()
		r := d.push(`[
			{"queue": "a.b.c", "partition": "p", "transactionId": "t1", "payload": {"z": 1, "a": [1.50, null]}, "producerSub": "", "traceId": "01900000-0000-7000-8000-000000000001"},
			{"queue": "a.b.c", "partition": "p", "transactionId": "t1", "payload": 2},
			{"queue": "a.b.c", "transactionId": "", "producerSub": "alice", "is_encrypted": true, "traceId": ""},
			{"queue": "given", "partition": "", "transactionId": "t1", "payload": null, "namespace": "ns", "task": "tk", "messageId": "00000000-0000-7000-8000-000000000001"}]`)
		var got []string
		for i, r := range r {
			if r.Index != i {
				t.Errorf("index %d at place %d", r.Index, i)
			}
			got = append(got, r.Status)
		}
		if strings.Join(got, " ") != "queued duplicate queued queued" {
			t.Errorf("%v", got)
		}
		if r[1].MessageID != r[0].MessageID || r[1].PartitionID != "" || r[1].TransactionID != "t1" {
			t.Errorf("a duplicate does not name the winner: %+v", r[1])
		}
		if r[0].TraceID == nil || *r[0].TraceID != "01900000-0000-7000-8000-000000000001" || r[2].TraceID != nil || r[2].TransactionID == "" || r[3].MessageID != "00000000-0000-7000-8000-000000000001" {
			t.Errorf("%+v", r)
		}
		d.want(`SELECT q.name, q.namespace, q.task, p.name, m.transaction_id, m.payload::jsonb, m.producer_sub, m.is_encrypted, m.seq, m.created_at = l.last_message_created_at AND m.id = l.last_message_id AND m.seq = l.seq
			FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id JOIN queen.partition_lookup l ON l.partition_id = p.id
			WHERE m.id IN (`+quote(r[0].MessageID)+`, `+quote(r[2].MessageID)+`, `+quote(r[3].MessageID)+`) ORDER BY q.name, p.name`,
			"a.b.c|a|b|Default|"+r[2].TransactionID+"|null|alice|t|1|t\n"+
				`a.b.c|a|b|p|t1|{"a": [1.50, null], "z": 1}|NULL|f|1|t`+"\n"+
				"given|ns|tk||t1|null|NULL|f|1|t")
	}
}

func TestPushMessagesV3SaysWhichHeadsMoved(t *testing.T) {
	d := fresh(t)
	var answer struct {
		Items   []result `json:"items"`
		Updates []struct {
			Queue     string `json:"queue_name"`
			Partition string `json:"partition_id"`
			Message   string `json:"last_message_id"`
			At        string `json:"last_message_created_at"`
		} `json:"partition_updates"`
	}
	text := d.run(`SELECT queen.push_messages_v3('[{"queue": "q", "transactionId": "1"}, {"queue": "q", "transactionId": "2"}, {"queue": "r", "transactionId": "1"}]', true)`)
	if err := json.Unmarshal([]byte(text), &answer); err != nil {
		t.Fatal(err)
	}
	if len(answer.Items) != 3 || len(answer.Updates) != 2 || answer.Updates[0].At == "" {
		t.Errorf("%s", text)
	}
	for _, u := range answer.Updates {
		if u.Message != answer.Items[1].MessageID && u.Message != answer.Items[2].MessageID {
			t.Errorf("%s", text)
		}
	}
	d.want(`SELECT queen.push_messages_v3('[{"queue": "q", "transactionId": "1"}]') -> 'partition_updates'`, "[]")
	d.want(`SELECT queen.push_messages_v3('[]')`, `{"items": [], "partition_updates": []}`)
	d.want(`SELECT queen.push_messages_v2('[]', false, false)`, `[]`)
}

func TestPushMessagesRefusesWhatCannotBeStored(t *testing.T) {
	d := fresh(t)
	f := func(items, code string) {
		t.Helper()
		if got, text := d.refused("SELECT queen.push_messages_v2(" + quote(items) + ")"); got != code {
			t.Errorf("%s: %s %s, want %s", items, got, text, code)
		}
	}
	f(`[{"partition": "p"}]`, "22023")
	f(`[{"queue": "q"}, {"queue": null}]`, "22023")
	f(`{"queue": "q"}`, "22023")
	f(`[{"queue": "q", "traceId": "no uuid"}]`, "22P02")
	f(`[{"queue": "`+strings.Repeat("q", 256)+`"}]`, "22001")
	f(`[{"queue": "q", "transactionId": "`+strings.Repeat("t", 256)+`"}]`, "22001")
	d.want("SELECT count(*) FROM queen.queues", "0")
}

// The rule by which consumers read: what is beyond the cursor, in order. Eight
// writers push by SQL and one statement of theirs in four holds several
// partitions; a reader that never looks back must see every message.
func TestNoMessageCommitsBehindACursor(t *testing.T) {
	d := fresh(t)
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	const writers, calls = 8, 40
	d.push(`[{"queue": "q", "partition": "0"}, {"queue": "q", "partition": "1"}, {"queue": "q", "partition": "2"}]`)

	stop := make(chan struct{})
	var reading, writing sync.WaitGroup
	seen := make([]int, 3)
	for p := range seen {
		conn := d.connect()
		reading.Go(func() {
			at, id := "-infinity", "00000000-0000-0000-0000-000000000000"
			for last := false; ; {
				rows, err := query(ctx, conn, fmt.Sprintf(`SELECT m.created_at, m.id FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id
					WHERE p.name = '%d' AND (m.created_at, m.id) > (%s, %s) ORDER BY m.created_at, m.id`, p, quote(at)+"::timestamptz", quote(id)+"::uuid"))
				if err != nil {
					t.Error(err)
					return
				}
				for line := range strings.SplitSeq(rows, "\n") {
					if line != "" {
						at, id, _ = strings.Cut(line, "|")
						seen[p]++
					}
				}
				if last {
					return
				}
				select {
				case <-stop:
					last = true
				default:
				}
			}
		})
	}
	for w := range writers {
		conn := d.connect()
		writing.Go(func() {
			for c := range calls {
				items := fmt.Sprintf(`{"queue": "q", "partition": "%d", "transactionId": "%d-%d"}`, (w+c)%3, w, c)
				if c%4 == 0 {
					items = fmt.Sprintf(`{"queue": "q", "partition": "2", "transactionId": "%d-%d"}, {"queue": "q", "partition": "0", "transactionId": "%d-%d"}, {"queue": "q", "partition": "1", "transactionId": "same-%d"}`, w, c, w, c, c)
				}
				if _, err := query(ctx, conn, "SELECT queen.push_messages_v2("+quote("["+items+"]")+")"); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	writing.Wait()
	close(stop)
	reading.Wait()
	d.want("SELECT string_agg(n::text, ' ' ORDER BY name) FROM (SELECT p.name, count(*) AS n FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id GROUP BY 1) x",
		strings.Trim(fmt.Sprint(seen), "[]"))
	d.settled()
}

func TestOneOfManyPushersOfATransactionWins(t *testing.T) {
	d := fresh(t)
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	const pushers = 8
	answers := make([]string, pushers)
	var group sync.WaitGroup
	for i := range answers {
		conn := d.connect()
		group.Go(func() {
			var err error
			// Nothing is there: queue, partition and head are made in the race.
			answers[i], err = query(ctx, conn, `SELECT queen.push_messages_v2('[{"queue": "race", "transactionId": "t"}]')`)
			if err != nil {
				t.Error(err)
			}
		})
	}
	group.Wait()
	ids, queued := map[string]bool{}, 0
	for _, text := range answers {
		var r []result
		if err := json.Unmarshal([]byte(text), &r); err != nil {
			t.Fatal(err)
		}
		ids[r[0].MessageID] = true
		if r[0].Status == "queued" {
			queued++
		}
	}
	if len(ids) != 1 || queued != 1 {
		t.Errorf("%d winners, %d ids", queued, len(ids))
	}
}

func TestIDsMadeInSQLAreOfVersion7AndRise(t *testing.T) {
	d := fresh(t)
	d.want(`SELECT bool_and(substr(id, 15, 1) = '7' AND substr(id, 20, 1) IN ('8', '9', 'a', 'b')), count(DISTINCT id) FROM (SELECT queen.uuid_v7()::text AS id FROM generate_series(1, 1000)) x`, "t|1000")
	d.want(`SELECT bool_and(id > before) FROM (SELECT id, lag(id) OVER (ORDER BY n) AS before FROM
		(SELECT n, queen.uuid_v7('2026-01-01 00:00:00.999Z'::timestamptz + n * interval '1 microsecond') AS id FROM generate_series(1, 3000) n) x) y`, "t")
	// The time in it is the time asked for, to the millisecond.
	d.want(`SELECT to_timestamp(('x' || substr(replace(queen.uuid_v7('2026-03-04 05:06:07.891Z')::text, '-', ''), 1, 12))::bit(48)::bigint / 1000.0) AT TIME ZONE 'UTC'`, "2026-03-04 05:06:07.891")
}

func TestAFunctionOfQueensWithOtherArgumentsIsReplaced(t *testing.T) {
	d := copyOf(t, small015)
	d.run(`CREATE FUNCTION queen.push_messages_v2(old jsonb) RETURNS text LANGUAGE sql AS $$ SELECT 'old' $$`)
	report := d.migrate()
	if len(report.Replaced) != len(functions) {
		t.Errorf("%v", report.Replaced)
	}
	// Not ambiguous, and ours.
	d.push(`[{"queue": "q"}]`)
	d.want(`SELECT count(*) FROM pg_proc WHERE proname = 'push_messages_v2'`, "1")
	d.want(`SELECT pg_get_function_result('queen.push_messages_v3(jsonb, boolean, boolean)'::regprocedure)`, "jsonb")
}

// A partition has messages and no head, or a head that is not counted: a push
// comes before the take-over does. What it stores is counted and numbered later.
func TestAPushIntoAPartitionThatIsNotCountedYetIsCountedLater(t *testing.T) {
	d := copyOf(t, small015)
	columns := func(_ int, sql string) bool { return strings.Contains(sql, "004_rows") }
	if _, ended := d.migrateUntil(columns); ended {
		t.Fatal("the rows are settled already")
	}
	r := d.push(`[{"queue": "orders.new", "partition": "no head", "transactionId": "new 1"}, {"queue": "orders.new", "partition": "long", "transactionId": "new 1"},
		{"queue": "orders.new", "partition": "long", "transactionId": "tx-4"}, {"queue": "orders.new", "partition": "born now", "transactionId": "new 1"}]`)
	if r[0].Status != "queued" || r[1].Status != "queued" || r[2].Status != "duplicate" || r[3].Status != "queued" {
		t.Errorf("%+v", r)
	}
	d.want(`SELECT string_agg(coalesce(m.seq::text, 'NULL'), ' ' ORDER BY p.name) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE transaction_id = 'new 1'`, "1 NULL NULL")
	d.migrate()
	d.settled()
	d.want(`SELECT string_agg(m.seq::text, ' ' ORDER BY p.name) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE transaction_id = 'new 1'`, "1 251 41")
}

func TestPopSpecificBatchTakesALease(t *testing.T) {
	for _, layout := range []string{"", small015} {
		d := copyOf(t, layout)
		d.migrate()
		pop := func(request string) string {
			t.Helper()
			return d.run(`SELECT e ->> 'idx', e #>> '{result,success}', coalesce(e #>> '{result,error}', ''), coalesce(e #>> '{result,leaseId}', ''),
				(SELECT string_agg(concat_ws(' ', m ->> 'transactionId', m ->> 'data', m ->> 'producerSub', (m ->> 'createdAt') ~ '^\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z$'), ',') FROM jsonb_array_elements(e #> '{result,messages}') m)
				FROM jsonb_array_elements(queen.pop_specific_batch(` + quote(request) + `)) e`)
		}
		f := func(request, want string) {
			t.Helper()
			if got := pop(request); got != want {
				t.Errorf("%s\n got %s\nwant %s", request, got, want)
			}
		}
		d.push(`[{"queue": "pop", "partition": "p", "transactionId": "1", "payload": {"n": 1}, "producerSub": "alice"}, {"queue": "pop", "partition": "p", "transactionId": "2", "payload": null},
			{"queue": "pop", "partition": "p", "transactionId": "3", "payload": "x"}]`)
		f(`[{"idx": 4, "queue_name": "pop", "partition_name": "none", "consumer_group": "g"}, {"idx": 7, "queue_name": "pop", "partition_name": "p", "consumer_group": "__QUEUE_MODE__", "lease_seconds": 60, "worker_id": "w", "batch_size": 2, "sub_mode": "", "sub_from": ""}]`,
			"4|false|partition_not_found||NULL\n7|true||w|1 {\"n\": 1} alice t,2 t")
		f(`[{"queue_name": "pop", "partition_name": "p", "consumer_group": "", "worker_id": "v", "batch_size": 2}]`, "0|false|lease_held||NULL")
		d.want(`SELECT worker_id, batch_size, acked_count, lease_expires_at > now() + interval '50 seconds', m.transaction_id, m.seq = lease_end_seq
			FROM queen.partition_consumers c JOIN queen.messages m ON (m.partition_id, m.created_at, m.id) = (c.partition_id, c.lease_end_created_at, c.lease_end_id) WHERE worker_id = 'w'`, "w|2|0|t|2|t")
		// Unacknowledged and expired: the same again. Acknowledged: what follows.
		d.run(`UPDATE queen.partition_consumers SET lease_expires_at = now() WHERE worker_id = 'w'`)
		f(`[{"queue_name": "pop", "partition_name": "p", "worker_id": "v", "batch_size": 1}]`, "0|true||v|1 {\"n\": 1} alice t")
		d.run(`UPDATE queen.partition_consumers c SET lease_expires_at = NULL, last_consumed_created_at = m.created_at, last_consumed_id = m.id, last_seq = m.seq FROM queen.messages m
			WHERE m.partition_id = c.partition_id AND m.transaction_id = '2' AND c.worker_id = 'v'`)
		f(`[{"queue_name": "pop", "partition_name": "p", "worker_id": "u", "batch_size": 10}]`, "0|true||u|3 x t")
		// A group that begins now sees what comes later, and has passed the rest.
		f(`[{"queue_name": "pop", "partition_name": "p", "consumer_group": "late", "sub_mode": "new", "batch_size": 10}]`, "0|true|||NULL")
		d.want(`SELECT last_seq FROM queen.partition_consumers WHERE consumer_group = 'late'`, "3")
		d.push(`[{"queue": "pop", "partition": "p", "transactionId": "4"}]`)
		f(`[{"queue_name": "pop", "partition_name": "p", "consumer_group": "late", "worker_id": "l", "batch_size": 10}]`, "0|true||l|4 t")
		f(`[{"queue_name": "pop", "partition_name": "p", "consumer_group": "all", "worker_id": "a", "batch_size": 2, "sub_from": "no time"}]`, "0|true||a|1 {\"n\": 1} alice t,2 t")
		f(`[{"queue_name": "pop", "partition_name": "p", "consumer_group": "old", "worker_id": "o", "batch_size": 1, "sub_from": "2020-01-01T00:00:00Z"}]`, "0|true||o|1 {\"n\": 1} alice t")
		// What is no time says nothing, also beside a mode.
		f(`[{"queue_name": "pop", "partition_name": "p", "consumer_group": "odd", "sub_mode": "new", "sub_from": "no time"}]`, "0|true|||NULL")
		f(`[{"queue_name": "pop", "partition_name": "p", "consumer_group": "ever", "worker_id": "e", "sub_from": "infinity"}]`, "0|true||e|1 {\"n\": 1} alice t")
		d.want(`SELECT consumer_group, subscription_mode FROM queen.consumer_groups_metadata WHERE queue_name = 'pop' ORDER BY 1`, "late|new\nodd|new\nold|timestamp")
		// Where a group begins that was told so of all queues of a namespace, or of all there are.
		d.run(`UPDATE queen.queues SET namespace = 'n', task = 't' WHERE name = 'pop';
			INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, partition_name, namespace, task, subscription_mode, subscription_timestamp)
			SELECT u.*, 'new', (SELECT created_at FROM queen.messages WHERE transaction_id = '4') FROM (VALUES
				('of its namespace', '', '', 'n', ''), ('of its task', '', '', '', 't'), ('of all', '', '*', '*', '*'), ('of others', '', '', 'n', 'other'), ('of one without a name', '', '', '', '')) u`)
		for group, first := range map[string]string{"of its namespace": "4 t", "of its task": "4 t", "of all": "4 t", "of others": `1 {"n": 1} alice t`, "of one without a name": `1 {"n": 1} alice t`} {
			f(`[{"queue_name": "pop", "partition_name": "p", "consumer_group": "`+group+`", "worker_id": "s"}]`, "0|true||s|"+first)
		}
		d.run(`UPDATE queen.queues SET window_buffer = 1000 WHERE name = 'pop'`)
		d.want(`SELECT queen.pop_specific_batch('[{"queue_name": "pop", "partition_name": "p", "consumer_group": "w"}]') #>> '{0,result,windowBufferActive}'`, "true")
		if layout == "" {
			d.run(`UPDATE queen.queues SET window_buffer = 0; UPDATE queen.messages SET payload = '{"nul": "\u0000"}' WHERE transaction_id = '1'`)
			d.want(`SELECT queen.pop_specific_batch('[{"queue_name": "pop", "partition_name": "p", "consumer_group": "nul"}]') #>> '{0,result,messages,0,data}'`, `{"nul": "\u0000"}`)
			for _, payload := range []string{`{"n":1e999999}`, `{"s":"\ud800"}`} {
				d.run(`UPDATE queen.messages SET payload = '` + payload + `' WHERE transaction_id = '1'; DELETE FROM queen.partition_consumers`)
				d.want(`SELECT queen.pop_specific_batch('[{"queue_name": "pop", "partition_name": "p", "consumer_group": "nul"}]') #>> '{0,result,messages,0,data}'`, payload)
			}
			d.run(`UPDATE queen.messages SET payload = '{"s":"\\u0000"}' WHERE transaction_id = '1'; DELETE FROM queen.partition_consumers`)
			d.want(`SELECT queen.pop_specific_batch('[{"queue_name": "pop", "partition_name": "p", "consumer_group": "nul"}]') #>> '{0,result,messages,0,data,s}'`, `\u0000`)
		}
	}
}
