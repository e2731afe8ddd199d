package check

import (
	"context"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

// hang is how long a test may wait for anything: a guard, not a measure.
const hang = 5 * time.Minute

func TestMain(m *testing.M) { postgrestest.Main(m) }

// db is one database of a test.
type db struct {
	t    *testing.T
	conn *pgx.Conn
	text string // connection string
}

// database is one that was migrated; sql, if any, is what was there before.
func database(t *testing.T, sql string) *db {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	d := &db{t: t, text: postgrestest.Database(t)}
	var err error
	if d.conn, err = pgx.Connect(ctx, d.text); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.conn.Close(context.Background()) })
	if sql != "" {
		d.run(sql)
	}
	config, err := pgconn.ParseConfig(d.text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := schema.Migrate(ctx, config, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

func queens(t *testing.T) string {
	t.Helper()
	text, err := os.ReadFile("../schema/testdata/queen-0.15.sql")
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func (d *db) run(sql string) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	if _, err := d.conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		d.t.Fatalf("%.300s: %v", sql, err)
	}
}

func (d *db) check(o Options) Report {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	r, err := Run(ctx, d.conn, o)
	if err != nil {
		d.t.Fatal(err)
	}
	return r
}

// finds checks which kinds are found, sorted, each with how often.
func (d *db) finds(want ...string) Report {
	d.t.Helper()
	r := d.check(Options{})
	d.are(r, want)
	return r
}

// are checks which kinds were found.
func (d *db) are(r Report, want []string) {
	d.t.Helper()
	var got []string
	for kind, n := range r.Counts {
		got = append(got, fmt.Sprintf("%s %d", kind, n))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		d.t.Errorf("found %q, want %q:\n%s", got, want, r.String())
	}
}

// populate pushes, pops, acknowledges and buries, all by the rules.
const populate = `
	SELECT queen.push_messages_v2((SELECT jsonb_agg(jsonb_build_object('queue', 'q' || i % 3, 'partition', 'p' || i % 7, 'payload', i, 'transactionId', 't' || i)) FROM generate_series(1, 500) i));
	INSERT INTO queen.partition_consumers (partition_id, consumer_group, last_consumed_created_at, last_consumed_id, last_seq)
		SELECT partition_id, 'half', created_at, id, seq FROM queen.messages WHERE seq = 10;
	INSERT INTO queen.partition_consumers (partition_id, consumer_group, last_consumed_created_at, last_consumed_id, last_seq)
		SELECT partition_id, 'all', last_message_created_at, last_message_id, seq FROM queen.partition_lookup;
	INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT id, 'none' FROM queen.partitions;
	INSERT INTO queen.dead_letter_queue (message_id, partition_id, consumer_group, payload) SELECT id, partition_id, 'half', 'null' FROM queen.messages WHERE seq = 10;
	WITH gone AS (DELETE FROM queen.messages WHERE seq <= 5 RETURNING partition_id) UPDATE queen.partition_lookup SET tail_seq = 5 WHERE partition_id IN (SELECT * FROM gone);
	WITH gone AS (DELETE FROM queen.messages WHERE seq IN (10, 12) RETURNING partition_id, seq) INSERT INTO queen.message_holes SELECT * FROM gone;
	SELECT queen.pop_specific_batch('[{"queue_name":"q0","partition_name":"p0","consumer_group":"g","batch_size":5,"worker_id":"w"}]');
	SELECT queen.pop_specific_batch('[{"queue_name":"q1","partition_name":"p1","batch_size":3}]');`

func TestNothingIsFoundInAHealthyDatabase(t *testing.T) {
	d := database(t, "")
	if r := d.finds(); r.Partitions != 0 || !r.OK() || r.String() != "" {
		t.Errorf("an empty one: %+v", r)
	}
	d.run(populate)
	if r := d.finds(); r.Partitions != 21 || r.Messages != 500-21*7 || r.Cursors != 3*21+2 || r.Letters != 21 || !r.OK() {
		t.Errorf("looked at %+v", r)
	}
	d.run(`SELECT queen.push_messages_v2('[{"queue":"q0","partition":"p0","payload":{}},{"queue":"new","payload":{}}]')`)
	d.finds()
}

func TestADatabaseThatWasTakenOverIsHealthy(t *testing.T) {
	d := database(t, queens(t))
	if r := d.check(Options{}); !r.OK() {
		t.Errorf("%s", r.String())
	}
}

func TestEachFaultIsFound(t *testing.T) {
	// p0 is one partition, its head has number 24 or so.
	const p0 = `(SELECT p.id FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = 'q0' AND p.name = 'p0')`
	healthy := database(t, "")
	healthy.run(populate)
	f := func(name, fault string, want ...string) {
		t.Helper()
		t.Run(name, func(t *testing.T) {
			d := &db{t: t, conn: healthy.conn}
			ctx, cancel := context.WithTimeout(context.Background(), hang)
			defer cancel()
			tx, err := d.conn.Begin(ctx)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = tx.Rollback(ctx) }() // and the database is healthy again
			d.run(strings.ReplaceAll(fault, "P0", p0))
			r, err := inside(ctx, tx, Options{})
			if err != nil {
				t.Fatal(err)
			}
			d.are(r, want)
			for _, list := range [][]Finding{r.Findings, r.Notes} {
				for _, finding := range list {
					if finding.What == "" || finding.Remedy == "" || !strings.HasSuffix(finding.Remedy, ".") && !strings.HasSuffix(finding.Remedy, ").") {
						t.Errorf("%+v", finding)
					}
				}
			}
		})
	}
	f("a cursor beyond the head", `UPDATE queen.partition_consumers SET last_consumed_created_at = now() + interval '1 day' WHERE consumer_group = 'all' AND partition_id = P0`, "cursor-beyond-head 1")
	f("a cursor with a number beyond the head", `UPDATE queen.partition_consumers SET last_seq = 1000 WHERE consumer_group = 'all' AND partition_id = P0`, "cursor-beyond-head 1")
	f("a number that is less than the cursor's", `UPDATE queen.partition_consumers SET last_seq = 7 WHERE consumer_group = 'all' AND partition_id = P0`, "cursor-number 1")
	f("a number that is more than the cursor's", `UPDATE queen.partition_consumers SET last_seq = 15 WHERE consumer_group = 'half' AND partition_id = P0`, "cursor-number 1")
	f("a number of a group that has not begun", `UPDATE queen.partition_consumers SET last_seq = 8 WHERE consumer_group = 'none' AND partition_id = P0`, "cursor-number 1")
	f("a lease without an end", `UPDATE queen.partition_consumers SET lease_expires_at = NULL WHERE consumer_group = 'g'`, "lease-without-expiry 1")
	f("an end without a lease", `UPDATE queen.partition_consumers SET worker_id = NULL WHERE consumer_group = 'g'`, "expiry-without-lease 1")
	f("more acknowledged than delivered", `UPDATE queen.partition_consumers SET acked_count = 6 WHERE consumer_group = 'g'`, "lease-counts 1")
	f("a negative count", `UPDATE queen.partition_consumers SET batch_size = -1 WHERE consumer_group = 'g'`, "lease-counts 1")
	f("a lease of which no message is left", `DELETE FROM queen.messages WHERE partition_id = P0 AND seq < 13`, "counts-differ 1", "lease-without-messages 1")
	f("a lease that is consumed", `UPDATE queen.partition_consumers SET last_consumed_created_at = lease_end_created_at, last_consumed_id = lease_end_id, last_seq = lease_end_seq WHERE consumer_group = 'g'`, "lease-without-messages 1")
	f("a lease of which some are left", `DELETE FROM queen.messages WHERE partition_id = P0 AND seq < 8`, "counts-differ 1")
	f("a lease that ran out", `DELETE FROM queen.messages WHERE partition_id = P0 AND seq < 13; UPDATE queen.partition_consumers SET lease_expires_at = now() WHERE consumer_group = 'g'`, "counts-differ 1")
	f("a lease beyond the head", `UPDATE queen.partition_consumers SET lease_end_created_at = now() + interval '1 day' WHERE consumer_group = 'g'`, "lease-beyond-head 1")
	f("a lease that does not say what its last message is", `UPDATE queen.partition_consumers SET lease_end_id = NULL, lease_end_created_at = NULL WHERE consumer_group = 'g'`)
	f("one that has more messages than there are", `UPDATE queen.partition_consumers SET lease_end_id = NULL, lease_end_created_at = NULL, batch_size = 1000, acked_count = 2 WHERE consumer_group = 'g'`, "lease-without-messages 1")
	f("a dead letter that nobody can read", `UPDATE queen.dead_letter_queue SET payload = NULL WHERE partition_id = P0`, "dead-letter-without-message 1")
	f("a dead letter whose message is there", `INSERT INTO queen.dead_letter_queue (message_id, partition_id) SELECT id, partition_id FROM queen.messages WHERE seq = 11`)
	f("no unique index", `ALTER TABLE queen.messages DROP CONSTRAINT messages_transaction_key`, "no-dedupe-key 1")
	f("two messages of a transaction", `ALTER TABLE queen.messages DROP CONSTRAINT messages_transaction_key;
		UPDATE queen.messages SET transaction_id = 'same' WHERE seq IN (11, 13) AND partition_id = P0`, "duplicate 1", "no-dedupe-key 1")
	f("numbers that do not rise", `UPDATE queen.messages SET seq = 6 + 20 - seq WHERE seq BETWEEN 6 AND 20 AND seq NOT IN (13) AND partition_id = P0`, "cursor-number 1", "order-violated 1")
	f("a number twice", `UPDATE queen.messages SET seq = 13 WHERE seq = 14 AND partition_id = P0`, "number-twice 1")
	f("a number beyond the head", `UPDATE queen.messages m SET seq = m.seq + 1 FROM queen.partition_lookup l WHERE l.partition_id = m.partition_id AND m.seq = l.seq AND m.partition_id = P0`, "cursor-number 1", "number-beyond-head 1")
	f("a message beyond the head", `INSERT INTO queen.messages (transaction_id, partition_id, payload) VALUES ('hand', P0, '1')`, "messages-without-number 1")
	f("a message beyond the head for long", `INSERT INTO queen.messages (transaction_id, partition_id, payload, created_at) VALUES ('hand', P0, '1', now());
		DELETE FROM queen.partition_consumers WHERE partition_id = P0;
		UPDATE queen.messages SET created_at = created_at - interval '1 hour' WHERE partition_id = P0;
		UPDATE queen.partition_lookup SET last_message_created_at = last_message_created_at - interval '1 hour' WHERE partition_id = P0`, "head-behind-message 1", "messages-without-number 1")
	f("a head that was set back", `UPDATE queen.partition_lookup SET last_message_created_at = now() - interval '1 hour' WHERE partition_id = P0`, "head-behind-message 1")
	f("a cursor on a message that was inserted a moment ago", `INSERT INTO queen.messages (transaction_id, partition_id, payload) VALUES ('hand', P0, '1');
		UPDATE queen.partition_consumers c SET last_consumed_created_at = m.created_at, last_consumed_id = m.id FROM queen.messages m WHERE m.transaction_id = 'hand' AND c.consumer_group = 'all' AND c.partition_id = P0`, "messages-without-number 1")
	f("a message without a number", `UPDATE queen.messages SET seq = NULL WHERE seq = 13 AND partition_id = P0`, "messages-without-number 1")
	f("a partition without a head", `DELETE FROM queen.partition_lookup WHERE partition_id = P0`, "partition-without-head 1")
	f("a head of another queue", `UPDATE queen.partition_lookup SET queue_name = 'q1' WHERE partition_id = P0`, "head-of-other-queue 1")
	f("a tail beyond the head", `UPDATE queen.partition_lookup SET tail_seq = 1000 WHERE partition_id = P0`, "counts-differ 1", "hole-behind-tail 2", "tail-beyond-head 1")
	f("a hole beyond the head", `INSERT INTO queen.message_holes VALUES (P0, 1000)`, "hole-beyond-head 1")
	f("a hole behind the tail", `INSERT INTO queen.message_holes VALUES (P0, 5)`, "hole-behind-tail 1")
	f("a message that was deleted by SQL", `DELETE FROM queen.messages WHERE seq = 13 AND partition_id = P0`, "counts-differ 1")
	f("messages of a partition that is gone", `DELETE FROM queen.queues WHERE name = 'q0'`, "messages-of-no-partition 7")
	f("cursors of a partition that is gone", `SET session_replication_role = replica; DELETE FROM queen.partitions WHERE id = P0`,
		"cursor-of-no-partition 4", "head-without-partition 1", "messages-of-no-partition 1")
	f("nothing", ``)
	f("a partition of a queue that is gone", `SET session_replication_role = replica; DELETE FROM queen.queues WHERE name = 'q0'`, "partition-without-queue 7")
}

func TestManyFindingsAreCountedAndSomeListed(t *testing.T) {
	d := database(t, "")
	d.run(populate)
	d.run(`UPDATE queen.partition_consumers SET last_seq = 1000`)
	r := d.check(Options{FindingsMax: 10})
	if len(r.Findings) != 10 || r.Counts[CursorBeyondHead] != 65 || !strings.Contains(r.String(), "cursor-beyond-head: and 55 more\n") {
		t.Errorf("%d listed, %v counted:\n%s", len(r.Findings), r.Counts, r.String())
	}
}

func TestAPartitionLongerThanASliceIsOneSequence(t *testing.T) {
	d := database(t, "")
	d.run(`SELECT queen.push_messages_v2('[{"queue":"q","payload":1}]')`)
	d.run(fmt.Sprintf(`INSERT INTO queen.messages (transaction_id, partition_id, payload, created_at, seq)
			SELECT 'more' || i, id, '1', clock_timestamp() + i * interval '1 us', i FROM queen.partitions, generate_series(2, %d) i;
		UPDATE queen.partition_lookup l SET seq = m.seq, last_message_id = m.id, last_message_created_at = m.created_at FROM queen.messages m WHERE m.seq = %[1]d`, 2*sliceMessagesMax+7))
	if r := d.finds(); r.Messages != 2*sliceMessagesMax+7 {
		t.Errorf("%d messages", r.Messages)
	}
	d.run(fmt.Sprintf(`UPDATE queen.messages SET seq = 5 WHERE seq = %d`, sliceMessagesMax+1))
	d.finds("order-violated 1")
	d.run(fmt.Sprintf(`UPDATE queen.messages SET seq = %d WHERE seq = 5 AND created_at > (SELECT created_at FROM queen.messages WHERE seq = 6)`, sliceMessagesMax))
	d.finds("number-twice 1")
}

func TestNothingIsWritten(t *testing.T) {
	d := database(t, "")
	d.run(populate)
	d.run(`UPDATE queen.partition_consumers SET last_seq = 1000; SET default_transaction_read_only = on`)
	d.check(Options{})
}

func TestADatabaseWithoutTablesCannotBeChecked(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	_, err := Database(ctx, postgrestest.Database(t), Options{})
	if err == nil || !strings.Contains(err.Error(), "queend migrate apply") {
		t.Errorf("%v", err)
	}
	if _, err := Database(ctx, "host=127.0.0.1 port=1 connect_timeout=5", Options{}); err == nil || !strings.Contains(err.Error(), "cannot connect") {
		t.Errorf("%v", err)
	}
}

func TestOneSnapshotIsReadWhilePushesGoOn(t *testing.T) {
	d := database(t, "")
	d.run(populate)
	ctx, cancel := context.WithCancel(context.Background())
	other, err := pgx.Connect(ctx, d.text)
	if err != nil {
		t.Fatal(err)
	}
	defer other.Close(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			_, _ = other.Exec(ctx, `SELECT queen.push_messages_v2((SELECT jsonb_agg(jsonb_build_object('queue', 'q' || i % 3, 'partition', 'p' || i % 7, 'payload', i)) FROM generate_series(1, 50) i))`)
		}
	}()
	for range 10 {
		d.finds()
	}
	cancel()
	<-done
}
