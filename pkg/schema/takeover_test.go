package schema

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

const (
	queen015 = "queen-0.15.sql"
	small015 = "small queen-0.15.sql"
)

// untouched are hashes of what Queen wrote, by table: the rows' own columns and
// nothing that a take-over may change.
func (d *db) untouched() string {
	return d.run(`
		SELECT 'queues', count(*), md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY id)) FROM queen.queues t
		UNION ALL SELECT 'partitions', count(*), md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY id)) FROM queen.partitions t
		UNION ALL SELECT 'messages', count(*), md5(string_agg((to_jsonb(t) - 'seq')::text, ' ' ORDER BY id)) FROM queen.messages t
		UNION ALL SELECT 'partition_consumers', count(*), md5(string_agg((to_jsonb(t) - '{last_seq,lease_end_created_at,lease_end_id,lease_end_seq}'::text[])::text, ' ' ORDER BY id)) FROM queen.partition_consumers t
		UNION ALL SELECT 'dead_letter_queue', count(*), md5(string_agg((to_jsonb(t) - '{transaction_id,trace_id,payload,is_encrypted,producer_sub}'::text[])::text, ' ' ORDER BY id)) FROM queen.dead_letter_queue t
		UNION ALL SELECT 'traces', count(*), md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY id)) FROM queen.message_traces t
		UNION ALL SELECT 'metadata', count(*), md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY id)) FROM queen.consumer_groups_metadata t
		UNION ALL SELECT 'watermarks', count(*), md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY queue_name)) FROM queen.consumer_watermarks t
		UNION ALL SELECT 'consumed', count(*), md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY id)) FROM queen.messages_consumed t
		UNION ALL SELECT 'state', count(*), md5(string_agg(to_jsonb(t)::text, ' ' ORDER BY key)) FROM queen.system_state t`)
}

// settled fails the test unless every head, number and cursor is true.
func (d *db) settled() {
	d.t.Helper()
	d.want(`SELECT p.name FROM queen.partitions p LEFT JOIN queen.partition_lookup l ON l.partition_id = p.id
		GROUP BY p.id, p.name HAVING count(l.partition_id) <> 1`, "")
	d.want(`SELECT p.name FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id JOIN queen.partition_lookup l ON l.partition_id = p.id WHERE l.queue_name <> q.name`, "")
	d.want(`SELECT partition_id, n, seq FROM (SELECT m.partition_id, m.seq, l.tail_seq + row_number() OVER (PARTITION BY m.partition_id ORDER BY m.created_at, m.id) AS n
		FROM queen.messages m JOIN queen.partition_lookup l USING (partition_id)) x WHERE seq IS DISTINCT FROM n LIMIT 5`, "")
	d.want(`SELECT l.* FROM queen.partition_lookup l
		WHERE l.seq IS DISTINCT FROM l.tail_seq + (SELECT count(*) FROM queen.messages m WHERE m.partition_id = l.partition_id) LIMIT 5`, "")
	d.want(`SELECT l.* FROM queen.partition_lookup l
		LEFT JOIN LATERAL (SELECT created_at, id FROM (
			SELECT m.created_at, m.id FROM queen.messages m WHERE m.partition_id = l.partition_id
			UNION ALL SELECT c.last_consumed_created_at, c.last_consumed_id FROM queen.partition_consumers c WHERE c.partition_id = l.partition_id AND c.last_consumed_created_at IS NOT NULL) x
			ORDER BY created_at DESC, id DESC LIMIT 1) h ON true
		WHERE (l.last_message_created_at, l.last_message_id) IS DISTINCT FROM (coalesce(h.created_at, '-infinity'), coalesce(h.id, '00000000-0000-0000-0000-000000000000')) LIMIT 5`, "")
	d.want(`SELECT c.partition_id, c.consumer_group FROM queen.partition_consumers c JOIN queen.partition_lookup l USING (partition_id)
		WHERE greatest(c.last_seq, l.tail_seq) IS DISTINCT FROM l.tail_seq + (SELECT count(*) FROM queen.messages m WHERE m.partition_id = c.partition_id
			AND (m.created_at, m.id) <= (c.last_consumed_created_at, c.last_consumed_id)) LIMIT 5`, "")
	d.want(`SELECT * FROM queen.unnumbered`, "")
}

func TestQueensTablesAreTakenOver(t *testing.T) {
	d := copyOf(t, queen015)
	before := d.untouched()
	report := d.migrate()
	if report.Fresh || report.Layout.Payload != "jsonb" || !report.Layout.MessagesReferPartitions || fmt.Sprint(report.Layout.DedupeKeys) != "[m_by_transaction]" || len(report.Edited) > 0 {
		t.Errorf("%+v", report)
	}
	if after := d.untouched(); after != before {
		t.Errorf("Queen's rows are not as they were:\n%s\n%s", before, after)
	}
	d.settled()

	// Numbers are what a user asks for: how many messages a group has not read.
	lag := `SELECT l.seq - greatest(c.last_seq, l.tail_seq) FROM queen.partition_lookup l JOIN queen.partitions p ON p.id = l.partition_id
		JOIN queen.partition_consumers c USING (partition_id) WHERE p.name = '%s' AND c.consumer_group = '%s'`
	d.want(fmt.Sprintf(lag, "long", "billing"), "1299")
	d.want(fmt.Sprintf(lag, "no head", "__QUEUE_MODE__"), "30")
	d.want(fmt.Sprintf(lag, "read to the end", "audit"), "0")
	d.want(fmt.Sprintf(lag, "read beyond the end", "__QUEUE_MODE__"), "0")
	d.want(fmt.Sprintf(lag, "never read", "audit"), "40")
	d.want(fmt.Sprintf(lag, "emptied", "__QUEUE_MODE__"), "0")

	// Dead letters have their copy and outlive their message.
	d.want(`SELECT count(*) FROM queen.dead_letter_queue d JOIN queen.messages m ON m.id = d.message_id
		WHERE (d.transaction_id, d.payload::jsonb, d.is_encrypted) IS DISTINCT FROM (m.transaction_id, m.payload, m.is_encrypted)
			OR d.trace_id IS DISTINCT FROM m.trace_id OR d.producer_sub IS DISTINCT FROM m.producer_sub`, "0")
	d.want(`DELETE FROM queen.messages WHERE transaction_id = 'tx-2'; SELECT count(*) FROM queen.dead_letter_queue WHERE transaction_id = 'tx-2'`, "8")
	d.want(`SELECT count(*) FROM pg_constraint WHERE conrelid = 'queen.dead_letter_queue'::regclass AND contype = 'f' AND convalidated AND confrelid = 'queen.partitions'::regclass`, "1")

	// What Queen needs is where it was.
	d.want(`SELECT string_agg(tgname, ' ' ORDER BY tgname) FROM pg_trigger WHERE tgrelid = 'queen.partitions'::regclass AND NOT tgisinternal`, "count_gone count_new")
	d.want(`SELECT count(*) FROM pg_constraint WHERE conrelid = 'queen.messages'::regclass AND contype IN ('p', 'f')`, "2")
	d.want(`SELECT count(*) FROM pg_class WHERE relnamespace = 'queen'::regnamespace AND relname IN ('m_by_transaction', 'm_by_time', 'pc_by_worker', 'pl_by_partition', 'q_name')`, "5")

	if again := d.migrate(); again.Steps != 0 || len(again.Replaced) > 0 {
		t.Errorf("the second call did something: %+v", again)
	}
}

func TestQueensWritersGoOnWorkingOnATakenOverDatabase(t *testing.T) {
	d := copyOf(t, small015)
	d.migrate()
	// Statements of the shapes that Queen sends: they name none of our columns.
	d.run(`INSERT INTO queen.queues (name, namespace, task) VALUES ('back', 'back', '');
		INSERT INTO queen.partitions (queue_id, name) SELECT id, 'p' FROM queen.queues WHERE name = 'back';
		INSERT INTO queen.messages (id, transaction_id, partition_id, payload, is_encrypted, producer_sub)
			SELECT gen_random_uuid(), 'back', id, '{}', false, NULL FROM queen.partitions WHERE name = 'p';
		INSERT INTO queen.partition_lookup (queue_name, partition_id, last_message_id, last_message_created_at, updated_at)
			SELECT 'back', m.partition_id, m.id, m.created_at, now() FROM queen.messages m WHERE transaction_id = 'back'
			ON CONFLICT (queue_name, partition_id) DO UPDATE SET last_message_id = excluded.last_message_id, last_message_created_at = excluded.last_message_created_at, updated_at = now();
		INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT partition_id, 'g' FROM queen.messages WHERE transaction_id = 'back'
			ON CONFLICT (partition_id, consumer_group) DO NOTHING;
		UPDATE queen.partition_consumers c SET last_consumed_id = m.id, last_consumed_created_at = m.created_at FROM queen.messages m WHERE m.partition_id = c.partition_id AND m.transaction_id = 'back';
		INSERT INTO queen.dead_letter_queue (message_id, partition_id, consumer_group, error_message) SELECT id, partition_id, 'g', 'no' FROM queen.messages WHERE transaction_id = 'back'`)
	d.want(`SELECT count(*) FROM queen.queue_lag_metrics WHERE queue_name = 'back'`, "1")
	d.want(`DELETE FROM queen.queues WHERE name = 'back'; SELECT (SELECT count(*) FROM queen.messages WHERE transaction_id = 'back'), (SELECT count(*) FROM queen.dead_letter_queue WHERE error_message = 'no')`, "0|0")
}

// exec runs a statement of the data path, with parameters as text.
func exec(t testing.TB, conn *pgconn.PgConn, name string, params ...string) [][][]byte {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	values := make([][]byte, len(params))
	for i, p := range params {
		values[i] = []byte(p)
	}
	r := conn.ExecParams(ctx, Statement(name), values, nil, nil, nil).Read()
	if r.Err != nil {
		t.Fatalf("%s: %v", name, r.Err)
	}
	return r.Rows
}

// pushOne stores one message by the statements of the HTTP push.
func pushOne(t testing.TB, conn *pgconn.PgConn, insert, queue, partition, id, transaction string) {
	t.Helper()
	exec(t, conn, "push_queues", "{\""+queue+"\"}")
	exec(t, conn, "push_partitions", "{\""+queue+"\"}", "{\""+partition+"\"}")
	exec(t, conn, "push_heads", "{\""+queue+"\"}", "{\""+partition+"\"}")
	at := string(exec(t, conn, "push_ids", "{\""+queue+"\"}", "{\""+partition+"\"}")[0][1])
	for _, control := range []string{"BEGIN", "", "COMMIT"} {
		if control != "" {
			if _, err := query(t.Context(), conn, control); err != nil {
				t.Fatal(err)
			}
			continue
		}
		exec(t, conn, "push_lock", "{"+at+"}")
		exec(t, conn, insert, "{"+at+"}", "{1}", "{"+id+"}",
			"{1}", "{1}", "{"+id+"}", "{"+transaction+"}", "{NULL}", `{"{\"new\":1}"}`, "{f}", "{NULL}")
	}
}

func TestOldMessagesAreReadBeforeNewOnesAfterATakeOver(t *testing.T) {
	d := copyOf(t, small015)
	report := d.migrate()
	if !report.Layout.JSONB() {
		t.Fatalf("%+v", report.Layout)
	}
	conn := d.connect()
	for _, partition := range []string{"late head", "no head", "read beyond the end", "without a head", "born now"} {
		// Pushes by both ways, with ids that sort before all others.
		pushOne(t, conn, "push_insert_jsonb", "orders.new", partition, "00000000-0000-7000-8000-000000000001", "first "+partition[:2])
		d.push(fmt.Sprintf(`[{"queue": "orders.new", "partition": "%s", "transactionId": "second", "messageId": "00000000-0000-7000-8000-0000000000%02x"}]`, partition, len(partition)))
		// Ids are unique on a taken-over database.
		d.run("UPDATE queen.messages SET id = gen_random_uuid() WHERE id = '00000000-0000-7000-8000-000000000001'")
	}
	d.want(`SELECT p.name FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id CROSS JOIN LATERAL (
			SELECT string_agg(transaction_id, ',' ORDER BY created_at DESC, id DESC) AS newest FROM (SELECT * FROM queen.messages m WHERE m.partition_id = p.id ORDER BY created_at DESC, id DESC LIMIT 2) x) y
		WHERE q.name = 'orders.new' AND p.name IN ('late head', 'no head', 'born now') AND y.newest <> 'second,first ' || left(p.name, 2)`, "")
	// A group that had read to the end, or beyond what is there, has just the new
	// ones before it; one in the middle has the old ones first.
	ahead := func(queue, partition, group, want string) {
		t.Helper()
		d.want(fmt.Sprintf(`SELECT count(*), count(*) = l.seq - c.last_seq, min(m.seq) = c.last_seq + 1,
				(array_agg(m.transaction_id ORDER BY m.created_at, m.id))[count(*)] = 'second'
			FROM queen.partition_consumers c JOIN queen.partitions p ON p.id = c.partition_id JOIN queen.queues q ON q.id = p.queue_id
			JOIN queen.partition_lookup l ON l.partition_id = p.id JOIN queen.messages m ON m.partition_id = p.id AND (m.created_at, m.id) > (c.last_consumed_created_at, c.last_consumed_id)
			WHERE q.name = '%s' AND p.name = '%s' AND c.consumer_group = '%s' GROUP BY l.seq, c.last_seq`, queue, partition, group), want)
	}
	ahead("orders.new", "late head", "__QUEUE_MODE__", "32|t|t|t")
	ahead("orders.new", "late head", "audit", "2|t|t|t")
	pushOne(t, conn, "push_insert_jsonb", "mail", "read beyond the end", "00000000-0000-7000-8000-000000000002", "first")
	d.push(`[{"queue": "mail", "partition": "read beyond the end", "transactionId": "second"}]`)
	ahead("mail", "read beyond the end", "__QUEUE_MODE__", "2|t|t|t")
}

// Counts are true when queend begins to serve, numbers follow. What is pushed,
// and what retention takes from the old end, in between leaves both right.
func TestServingNeedNotWaitForTheNumbers(t *testing.T) {
	d := copyOf(t, small015)
	report, err := Prepare(t.Context(), d.config, nil)
	if err != nil || report.Left == 0 {
		t.Fatalf("%+v %v", report, err)
	}
	d.want(`SELECT count(*) FROM queen.partition_lookup WHERE seq IS NULL`, "0")
	d.want(`SELECT count(*) > 0 FROM queen.messages WHERE seq IS NULL`, "t")
	if report, err := Prepare(t.Context(), d.config, nil); err != nil || report.Steps != 0 || report.Left == 0 {
		t.Errorf("%+v %v", report, err)
	}
	lag := `SELECT l.seq - greatest(c.last_seq, l.tail_seq) FROM queen.partition_lookup l JOIN queen.partitions p ON p.id = l.partition_id
		JOIN queen.partition_consumers c USING (partition_id) WHERE p.name = 'long' AND c.consumer_group = 'billing'`
	d.want(lag, "129")
	r := d.push(`[{"queue": "orders.new", "partition": "long", "transactionId": "in between"}]`)
	d.want(lag, "130")
	d.want("SELECT seq FROM queen.messages WHERE id = "+quote(r[0].MessageID), "251")
	d.run(`DELETE FROM queen.messages WHERE partition_id = md5('partition long')::uuid AND created_at < '2026-02-01 00:00:10Z'`)
	d.migrate()
	d.settled()
	d.want(lag, "130")
	d.want("SELECT seq FROM queen.messages WHERE id = "+quote(r[0].MessageID), "251")
	d.want(`SELECT tail_seq FROM queen.partition_lookup WHERE partition_id = md5('partition long')::uuid`, "49")
}

// migrateUntil runs the migration and breaks its connection when broken says so
// of the n-th statement (n begins with 1), before it is sent. It says how many
// statements went out, and whether the end was reached.
func (d *db) migrateUntil(broken func(n int, sql string) bool) (sent int, ended bool) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	errBroken := errors.New("broken by the test")
	m, err := open(ctx, d.config, nil)
	if err != nil {
		d.t.Fatal(err)
	}
	m.batchRows = 100
	m.sending = func(sql string) error {
		if sent++; broken(sent, sql) {
			m.conn.Conn().Close()
			return errBroken
		}
		return nil
	}
	err = m.migrate(ctx)
	m.close()
	if err != nil && !errors.Is(err, errBroken) {
		d.t.Fatalf("broken before statement %d: %v", sent, err)
	}
	return sent, err == nil
}

func never(int, string) bool { return false }

// An instance dies at its first statement, the next one at its second, and so on
// until one of them has committed something; then from the beginning. So each
// statement that works on the schema has somebody die before it.
func TestATakeOverThatDiesAgainAndAgainEndsAsAWholeOne(t *testing.T) {
	whole := copyOf(t, small015)
	sent, ended := whole.migrateUntil(never)
	if !ended {
		t.Fatal("not ended")
	}
	d := copyOf(t, small015)
	conn := d.connect()
	records := func() string {
		// An error while there is no table yet: no records.
		text, _ := query(t.Context(), conn, "SELECT count(applied_at), sum(rows), string_agg(position, ' ' ORDER BY number, step) FROM queen.queend_migrations")
		return text
	}
	before, distance, deaths := records(), 1, 0
	for ended = false; !ended; deaths++ {
		// Statements that only look do not count: every instance sends them.
		worked := 0
		_, ended = d.migrateUntil(func(_ int, sql string) bool {
			if worked > 0 || strings.HasPrefix(sql, "BEGIN") {
				worked++
			}
			return worked >= distance
		})
		distance++
		if after := records(); after != before {
			before, distance = after, 1
		} else if distance > 100 {
			t.Fatal("an instance that may send 100 statements does not get on")
		}
	}
	t.Logf("%d statements, %d instances", sent, deaths)
	if got := d.dump(true); got != whole.dump(true) {
		t.Errorf("another state than without an interruption:\n%s", differ(whole.dump(false), d.dump(false)))
	}
}

// The same, each death on a database of its own and resumed by one instance that
// lives. All of them with QUEEND_TEST_LONG=1, every eleventh otherwise.
func TestATakeOverThatDiesAtAStatementIsResumed(t *testing.T) {
	whole := copyOf(t, small015)
	sent, ended := whole.migrateUntil(never)
	if !ended {
		t.Fatal("not ended")
	}
	want := whole.dump(true)
	stride := 11
	if os.Getenv("QUEEND_TEST_LONG") != "" {
		stride = 1
	}
	d := copyOf(t, small015)
	for at := stride; at <= sent; at += stride {
		d.load(small015)
		if _, ended := d.migrateUntil(func(n int, _ string) bool { return n == at }); ended {
			t.Errorf("ended although it was broken before statement %d", at)
		}
		if _, ended := d.migrateUntil(never); !ended {
			t.Errorf("did not end")
		}
		if got := d.dump(true); got != want {
			t.Errorf("broken before statement %d: another state than without an interruption:\n%s", at, differ(whole.dump(false), d.dump(false)))
		}
	}
}
