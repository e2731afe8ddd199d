package schema

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgproto3"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// until polls until sql answers so.
func (d *db) until(sql, answer string) {
	d.t.Helper()
	conn := d.connect()
	defer conn.Close(context.Background())
	for end := time.Now().Add(hang); ; time.Sleep(5 * time.Millisecond) {
		got, err := query(context.Background(), conn, sql)
		if err != nil {
			d.t.Fatal(err)
		}
		if got == answer {
			return
		}
		if time.Now().After(end) {
			d.t.Fatalf("%s\n still %s", sql, got)
		}
	}
}

// fails is the error of Migrate.
func (d *db) fails() string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	_, err := Migrate(ctx, d.config, nil)
	if err == nil {
		d.t.Fatal("Migrate did not fail")
	}
	return err.Error()
}

// as is the same database for another user, who may do what rights say.
func (d *db) as(user, rights string) *db {
	d.t.Helper()
	d.run(fmt.Sprintf("DROP ROLE IF EXISTS %[1]s; CREATE ROLE %[1]s LOGIN PASSWORD 'secret'; %[2]s", user, rights))
	d.t.Cleanup(func() { d.run(fmt.Sprintf("DROP OWNED BY %[1]s CASCADE; DROP ROLE %[1]s", user)) })
	config := d.config.Copy()
	config.User, config.Password = user, "secret"
	return &db{t: d.t, config: config}
}

func TestAFreshDatabaseIsReadyAfterOneCall(t *testing.T) {
	d := copyOf(t, "")
	report := d.migrate()
	if !report.Fresh || report.Layout.JSONB() || report.Layout.MessagesReferPartitions || fmt.Sprint(report.Layout.DedupeKeys) != "[messages_transaction_key]" {
		t.Errorf("%+v", report)
	}
	if report := d.migrate(); report.Fresh || report.Steps != 0 || len(report.Replaced) != 0 || report.Layout.Payload != "json" {
		t.Errorf("the second call: %+v", report)
	}
}

// What a take-over would do was never needed where the tables were made fresh; so
// the two layouts are one. (What came later is needed in both.)
func TestNoStepIsNeededOnAFreshDatabase(t *testing.T) {
	d := fresh(t)
	for _, file := range migrations {
		for _, s := range file.steps {
			if file.number > 1 && file.number < 5 && s.mode != batched {
				d.want(needed(s), "f")
			}
		}
	}
	d.settled()
}

func TestNoIndexHoldsWhatAPushChangesInAHead(t *testing.T) {
	for _, layout := range []string{"", small015} {
		d := copyOf(t, layout)
		d.migrate()
		d.want(`SELECT i.indexrelid::regclass, a.attname FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
			WHERE i.indrelid = 'queen.partition_lookup'::regclass AND a.attname IN ('seq', 'tail_seq', 'last_message_id', 'last_message_created_at', 'updated_at')`, "")
		d.want(`SELECT reloptions FROM pg_class WHERE oid = 'queen.partition_lookup'::regclass`, "{fillfactor=50}")
		d.want(`SELECT reloptions FROM pg_class WHERE oid = 'queen.partition_consumers'::regclass`, "{fillfactor=50}")
	}
}

func TestSeveralInstancesStartAtOnce(t *testing.T) {
	for _, layout := range []string{"", small015} {
		whole := copyOf(t, layout)
		if _, ended := whole.migrateUntil(never); !ended {
			t.Fatal("not ended")
		}
		d := copyOf(t, layout)
		var group sync.WaitGroup
		for range 4 {
			group.Go(func() {
				if _, ended := d.migrateUntil(never); !ended {
					t.Error("did not end")
				}
			})
		}
		group.Wait()
		if got := d.dump(true); got != whole.dump(true) {
			t.Errorf("%q: another state than by one instance:\n%s", layout, differ(whole.dump(false), d.dump(false)))
		}
	}
}

// Somebody reads the table in a long transaction, so its columns cannot be added
// yet. Writers must not wait behind the one who waits.
func TestAStepStepsBackFromALockAndAsksAgain(t *testing.T) {
	d := copyOf(t, small015)
	reader := d.connect()
	if _, err := query(t.Context(), reader, "BEGIN; SELECT count(*) FROM queen.messages"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	m, err := open(ctx, d.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	tries := make(chan bool, 1000)
	m.sending = func(sql string) error {
		if strings.HasPrefix(sql, "ALTER TABLE queen.messages") {
			tries <- true
		}
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- m.migrate(ctx) }()
	// The second try says that the first one gave up; a writer got in between.
	for range 2 {
		select {
		case <-tries:
		case err := <-ended:
			t.Fatalf("ended: %v", err)
		}
	}
	d.run("UPDATE queen.messages SET trace_id = trace_id WHERE transaction_id = 'tx-1'")
	if _, err := query(t.Context(), reader, "COMMIT"); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; err != nil {
		t.Error(err)
	}
	d.settled()
}

// building holds up the build of queend_partition_lookup_key by an open
// transaction that has written to the table. build begins it, and building
// returns when the index is there and invalid.
func (d *db) building(build func(create string)) (release func()) {
	d.t.Helper()
	create := ""
	d.migrateUntil(func(_ int, sql string) bool {
		create = sql
		return strings.HasPrefix(sql, "CREATE UNIQUE INDEX CONCURRENTLY")
	})
	writer := d.connect()
	if _, err := query(context.Background(), writer, "BEGIN; UPDATE queen.partition_lookup SET updated_at = updated_at"); err != nil {
		d.t.Fatal(err)
	}
	build(create)
	d.until("SELECT indisvalid FROM pg_index WHERE indexrelid = to_regclass('queen.queend_partition_lookup_key')", "f")
	return func() {
		d.t.Helper()
		if _, err := query(context.Background(), writer, "COMMIT"); err != nil {
			d.t.Fatal(err)
		}
	}
}

const builders = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE UNIQUE INDEX CONCURRENTLY%' AND state = 'active'"

func TestAnIndexThatWasLeftInvalidIsBuiltAgain(t *testing.T) {
	d := copyOf(t, small015)
	ended := make(chan error, 1)
	release := d.building(func(string) {
		go func() {
			_, err := Migrate(context.Background(), d.config, nil)
			ended <- err
		}()
	})
	d.run("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND query LIKE 'CREATE UNIQUE INDEX CONCURRENTLY%'")
	if err := <-ended; err == nil {
		t.Fatal("a migration ended well although it was killed")
	}
	release()
	d.want("SELECT indisvalid FROM pg_index WHERE indexrelid = 'queen.queend_partition_lookup_key'::regclass", "f")
	d.migrate()
	d.want("SELECT indisvalid FROM pg_index WHERE indexrelid = 'queen.queend_partition_lookup_key'::regclass", "t")
	d.settled()
}

// An instance was killed, its build goes on in the server. The next instance must
// neither drop what is being built nor build a second time beside it.
func TestABuildWhoseInstanceIsGoneIsWaitedFor(t *testing.T) {
	d := copyOf(t, small015)
	release := d.building(func(create string) {
		// As a kill does: the socket ends, and no cancel request is sent.
		killed, err := d.connect().Hijack()
		if err != nil {
			t.Fatal(err)
		}
		killed.Frontend.Send(&pgproto3.Query{String: create})
		if err := killed.Frontend.Flush(); err != nil {
			t.Fatal(err)
		}
		d.until("SELECT to_regclass('queen.queend_partition_lookup_key') IS NOT NULL", "t")
		killed.Conn.Close()
	})
	d.want(builders, "1")
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	m, err := open(ctx, d.config, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer m.close()
	var looks atomic.Int32
	looked := make(chan bool)
	m.sending = func(sql string) error {
		if strings.HasPrefix(sql, "LOCK TABLE queen.partition_lookup") && looks.Add(1) == 2 {
			close(looked)
		}
		if strings.HasPrefix(sql, "CREATE UNIQUE INDEX") || strings.Contains(sql, "DROP INDEX") {
			t.Errorf("the second instance sent %.60s", sql)
		}
		return nil
	}
	ended := make(chan error, 1)
	go func() { ended <- m.migrate(ctx) }()
	<-looked // it asked for the lock, gave up, and asks again
	release()
	if err := <-ended; err != nil {
		t.Error(err)
	}
	d.until(builders, "0")
	d.want("SELECT count(*) FROM pg_index WHERE indrelid = 'queen.partition_lookup'::regclass AND NOT indisvalid", "0")
}

func TestKeysThatAnOldQueenLacksAreBuilt(t *testing.T) {
	d := copyOf(t, small015)
	d.run(`DROP INDEX queen.m_by_transaction; DROP INDEX queen.m_by_time;
		ALTER TABLE queen.partition_consumers DROP CONSTRAINT partition_consumers_partition_id_consumer_group_key;
		ALTER TABLE queen.messages DROP COLUMN producer_sub; ALTER TABLE queen.queues DROP COLUMN window_buffer;
		DROP TABLE queen.message_trace_names; DROP TABLE queen.consumer_watermarks; DROP TABLE queen.partition_lookup;
		CREATE FUNCTION queen.keep_head() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN UPDATE queen.partition_lookup SET updated_at = now() WHERE partition_id = NEW.partition_id; RETURN NULL; END $$;
		CREATE TRIGGER keep_head AFTER INSERT ON queen.messages FOR EACH ROW EXECUTE FUNCTION queen.keep_head()`)
	report := d.migrate()
	if fmt.Sprint(report.Layout.DedupeKeys) != "[queend_messages_transaction_key]" {
		t.Errorf("%+v", report)
	}
	d.settled()
	d.want("SELECT count(*) FROM pg_trigger WHERE tgrelid = 'queen.messages'::regclass AND NOT tgisinternal", "0")
	d.push(`[{"queue": "mail", "partition": "never read", "producerSub": "x"}]`)
	d.settled()
}

func TestAnIndexOfTheSameNameOnOtherColumnsIsNotTakenForOurs(t *testing.T) {
	d := copyOf(t, small015)
	d.run("CREATE INDEX queend_partition_lookup_key ON queen.partition_lookup (updated_at)")
	if text := d.fails(); !strings.Contains(text, "queend_partition_lookup_key is there, but it is not the index that is needed") {
		t.Error(text)
	}
}

// Queen was started again on the database, ran, and made room for queend once more.
func TestWhatQueenWroteAfterwardsIsSettledAgain(t *testing.T) {
	d := copyOf(t, small015)
	d.migrate()
	d.push(`[{"queue": "orders.new", "partition": "long", "transactionId": "ours"}, {"queue": "mail", "partition": "1", "transactionId": "ours"}]`)
	numbers := d.run("SELECT md5(string_agg(id || ' ' || seq, ' ' ORDER BY id)) FROM queen.messages WHERE created_at > '2026-02-01 00:00:10Z' AND seq IS NOT NULL")

	d.run(`CREATE OR REPLACE FUNCTION queen.push_messages_v2(items jsonb, check_duplicates boolean DEFAULT true, check_capacity boolean DEFAULT true) RETURNS jsonb LANGUAGE sql AS $$ SELECT '[]'::jsonb $$;
		INSERT INTO queen.messages (id, transaction_id, partition_id, payload, created_at)
			SELECT gen_random_uuid(), 'back ' || n, md5('partition long')::uuid, '{}', clock_timestamp() FROM generate_series(1, 30) n;
		DELETE FROM queen.messages WHERE partition_id = md5('partition long')::uuid AND created_at <= '2026-02-01 00:00:10Z';
		INSERT INTO queen.partitions (queue_id, name) SELECT id, 'made by Queen' FROM queen.queues WHERE name = 'mail';
		INSERT INTO queen.messages (id, transaction_id, partition_id, payload) SELECT gen_random_uuid(), 'back', id, '{}' FROM queen.partitions WHERE name = 'made by Queen';
		UPDATE queen.partition_consumers c SET last_consumed_id = m.id, last_consumed_created_at = m.created_at FROM queen.messages m
			WHERE m.transaction_id = 'back 7' AND m.partition_id = c.partition_id AND c.consumer_group = 'billing'`)
	kept := d.run("SELECT md5(string_agg(id || ' ' || seq, ' ' ORDER BY id)) FROM queen.messages WHERE created_at > '2026-02-01 00:00:10Z' AND seq IS NOT NULL")
	if kept != numbers {
		t.Fatal("the test itself changed numbers")
	}

	report := d.migrate()
	if report.Steps == 0 || fmt.Sprint(report.Replaced) != "[push_messages_v2]" {
		t.Errorf("%+v", report)
	}
	d.settled()
	d.want("SELECT md5(string_agg(id || ' ' || seq, ' ' ORDER BY id)) FROM queen.messages WHERE created_at > '2026-02-01 00:00:10Z' AND transaction_id NOT LIKE 'back%'", numbers)
	d.want("SELECT tail_seq > 0 FROM queen.partition_lookup WHERE partition_id = md5('partition long')::uuid", "t")
	if again := d.migrate(); again.Steps != 0 {
		t.Errorf("%+v", again)
	}
}

func TestADeletedQueueTakesEverythingOfItsWithIt(t *testing.T) {
	for _, layout := range []string{"", small015} {
		d := copyOf(t, layout)
		d.migrate()
		d.push(`[{"queue": "test-1", "partition": "a"}, {"queue": "test-1", "partition": "b"}, {"queue": "stays"}]`)
		d.run(`INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT partition_id, 'g' FROM queen.partition_lookup WHERE queue_name = 'test-1';
			INSERT INTO queen.message_holes SELECT partition_id, 1 FROM queen.partition_lookup WHERE queue_name = 'test-1';
			INSERT INTO queen.dead_letter_queue (message_id, partition_id, transaction_id) SELECT last_message_id, partition_id, 'dead' FROM queen.partition_lookup WHERE queue_name = 'test-1';
			INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, subscription_mode, subscription_timestamp) VALUES ('g', 'test-1', 'new', now());
			DELETE FROM queen.queues WHERE name LIKE 'test-%' OR name LIKE 'edge-%'`)
		d.want(`SELECT (SELECT count(*) FROM queen.partition_lookup WHERE queue_name = 'test-1'), (SELECT count(*) FROM queen.partition_consumers WHERE consumer_group = 'g'),
			(SELECT count(*) FROM queen.message_holes), (SELECT count(*) FROM queen.dead_letter_queue WHERE transaction_id = 'dead'),
			(SELECT count(*) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE q.name LIKE 'test-%'),
			(SELECT count(*) FROM queen.consumer_groups_metadata WHERE queue_name = 'test-1'), (SELECT count(*) FROM queen.partition_lookup WHERE queue_name = 'stays')`, "0|0|0|0|0|1|1")
		// The name is free, and its keys are forgotten.
		if r := d.push(`[{"queue": "test-1", "partition": "a", "transactionId": "dead"}]`); r[0].Status != "queued" {
			t.Errorf("%+v", r)
		}
	}
}

func TestADatabaseOfANewerQueendIsRefused(t *testing.T) {
	d := fresh(t)
	d.run("INSERT INTO queen.queend_migrations (number, step, name, title, checksum) VALUES (99, 1, '099_future', 'flying', 'x')")
	want := fmt.Sprintf("this database was migrated by a newer queend: its schema is at migration 99 (099_future), this queend knows %d; start that release or a newer one", len(migrations))
	if text := d.fails(); text != want {
		t.Error(text)
	}
	if _, err := Plan(t.Context(), d.config); err == nil || err.Error() != want {
		t.Error(err)
	}
}

func TestAMigrationThatWasEditedAfterItWasAppliedIsReported(t *testing.T) {
	d := fresh(t)
	d.run("UPDATE queen.queend_migrations SET checksum = 'other' WHERE number = 2 AND step = 3")
	warned := ""
	report, err := Migrate(t.Context(), d.config, func(p Progress) {
		if p.Warn {
			warned = p.String()
		}
	})
	if err != nil || fmt.Sprint(report.Edited) != "[002_columns]" || !strings.Contains(warned, "002_columns") {
		t.Errorf("%+v %q %v", report, warned, err)
	}
}

func TestAnOldServerIsRefused(t *testing.T) {
	f := func(version int, want string) {
		t.Helper()
		m := migrator{script: migrations, state: state{serverVersion: version}}
		err := m.refuse()
		if (err == nil) != (want == "") || (err != nil && err.Error() != want) {
			t.Errorf("%d: %v", version, err)
		}
	}
	f(120022, "queend needs PostgreSQL 13 or newer; this server is 12.22")
	f(90624, "queend needs PostgreSQL 13 or newer; this server is 9.6.24")
	f(130000, "")
	f(180001, "")
}

func TestAReadOnlyDatabaseIsRefusedOnlyWhereThereIsSomethingToDo(t *testing.T) {
	d := copyOf(t, "")
	admin := &db{t: t, config: parse(t, postgrestest.Shared(t).ConnString("postgres"))}
	readOnly := func(on string) {
		admin.run("ALTER DATABASE " + d.config.Database + " SET default_transaction_read_only = " + on)
	}
	defer readOnly("off")
	readOnly("on")
	if text := d.fails(); !strings.Contains(text, "standby or read-only; connect to the primary") {
		t.Error(text)
	}
	readOnly("off")
	d.migrate()
	readOnly("on")
	d.migrate()
}

func TestAMissingRightIsNamed(t *testing.T) {
	f := func(d *db, want ...string) {
		t.Helper()
		text := d.fails()
		for _, w := range want {
			if !strings.Contains(text, w) {
				t.Errorf("%q is not in %q", w, text)
			}
		}
	}
	d := copyOf(t, "")
	f(d.as("schema_nobody", ""), "permission denied for database", "it needs the right CREATE on the database")

	d = copyOf(t, small015)
	f(d.as("schema_reader", "GRANT USAGE ON SCHEMA queen TO schema_reader; GRANT SELECT ON ALL TABLES IN SCHEMA queen TO schema_reader"),
		"permission denied for schema queen", "or on schema queen if it is there")
	f(d.as("schema_maker", "GRANT ALL ON SCHEMA queen TO schema_maker; GRANT ALL ON ALL TABLES IN SCHEMA queen TO schema_maker"),
		"002_columns/3", "must be owner of table messages", "it needs ownership of table queen.messages")
}

// A role of its own, without DDL, is what queend should run as.
func TestARoleThatMayOnlyReadAndWriteRowsCanStart(t *testing.T) {
	d := fresh(t)
	user := d.as("schema_user", "GRANT USAGE ON SCHEMA queen TO schema_user; GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA queen TO schema_user")
	if report := user.migrate(); report.Steps != 0 || report.Layout.Payload != "json" {
		t.Errorf("%+v", report)
	}
	user.push(`[{"queue": "q"}]`)
}

func TestAPlanSaysWhatMigrateDoes(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), hang)
	defer cancel()
	steps := func(d *db) (todo, idle int) {
		t.Helper()
		plan, err := Plan(ctx, d.config)
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range plan {
			if s.State == "not needed" {
				idle++
			} else {
				todo++
			}
		}
		return todo, idle
	}
	d := copyOf(t, "")
	if todo, idle := steps(d); todo != len(migrations[0].steps)+len(functions) || idle == 0 {
		t.Errorf("empty database: %d to do, %d not needed", todo, idle)
	}
	d = copyOf(t, small015)
	todo, _ := steps(d)
	report := d.migrate()
	// A plan cannot see that dropping one key makes another step needed, nor a key
	// not yet made that is to be validated: that step comes on top.
	if did := report.Steps + len(report.Replaced); did != todo && did != todo+1 {
		t.Errorf("%d planned, %d done", todo, did)
	}
	if todo, idle := steps(d); todo+idle != 0 {
		t.Errorf("%d steps left", todo+idle)
	}
	var out strings.Builder
	if err := errors.Join(WritePlan(ctx, &out, d.config), Apply(ctx, &out, d.config)); err != nil {
		t.Fatal(err)
	}
	if text := out.String(); !strings.HasPrefix(text, "The database is ready; there is nothing to do.\nThe database is ready: there was nothing to do (") {
		t.Error(text)
	}
}

func TestDescribeReadsAnyDatabase(t *testing.T) {
	f := func(layout, want string) {
		t.Helper()
		l, err := Describe(t.Context(), copyOf(t, layout).config)
		if err != nil || l.Payload != want {
			t.Errorf("%+v %v", l, err)
		}
	}
	f("", "")
	f(small015, "jsonb")
}

func TestMigrateEndsWithItsContext(t *testing.T) {
	d := copyOf(t, small015)
	reader := d.connect()
	if _, err := query(t.Context(), reader, "BEGIN; LOCK TABLE queen.queues, queen.messages IN ACCESS SHARE MODE"); err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		_, err := Migrate(ctx, d.config, nil)
		ended <- err
	}()
	d.until("SELECT count(*) > 0 FROM pg_locks WHERE NOT granted AND relation = 'queen.messages'::regclass", "t")
	cancel()
	err := <-ended
	if !errors.Is(err, context.Canceled) && !pgconn.Timeout(err) {
		t.Error(err)
	}
}
