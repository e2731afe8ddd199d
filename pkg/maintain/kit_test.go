package maintain

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/schema"
)

// hang is how long a test may wait for anything: a guard, not a measure.
const hang = 5 * time.Minute

func TestMain(m *testing.M) { postgrestest.Main(m) }

// db is one database of a test.
type db struct {
	t      *testing.T
	config *pgconn.Config
	conn   *pgx.Conn
}

// fresh is a database as queend makes it.
func fresh(t *testing.T) *db {
	t.Helper()
	return database(t, "")
}

// taken is a database that Queen made and that was taken over, with no rows.
func taken(t *testing.T) *db {
	t.Helper()
	text, err := os.ReadFile("../schema/testdata/queen-0.15.sql")
	if err != nil {
		t.Fatal(err)
	}
	d := database(t, string(text))
	d.run("DELETE FROM queen.queues; TRUNCATE queen.retention_history, queen.messages_consumed")
	return d
}

// free are databases that no test uses at the moment, by the SQL that they were made of.
// Making one costs much more than emptying it.
var free struct {
	sync.Mutex
	configs map[string][]*pgconn.Config
}

func database(t *testing.T, sql string) *db {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	d := &db{t: t}
	free.Lock()
	if list := free.configs[sql]; len(list) > 0 {
		d.config, free.configs[sql] = list[len(list)-1], list[:len(list)-1]
	}
	free.Unlock()
	old := d.config != nil
	if !old {
		connString, _ := postgrestest.DatabaseOn(t, postgrestest.Shared(t))
		var err error
		if d.config, err = pgconn.ParseConfig(connString); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() {
		free.Lock()
		defer free.Unlock()
		if free.configs == nil {
			free.configs = map[string][]*pgconn.Config{}
		}
		if !t.Failed() {
			free.configs[sql] = append(free.configs[sql], d.config)
		}
	})
	config, err := pgx.ParseConfig("host=replaced")
	if err != nil {
		t.Fatal(err)
	}
	config.Config = *d.config.Copy()
	if d.conn, err = pgx.ConnectConfig(ctx, config); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { d.conn.Close(context.Background()) })
	switch {
	case old:
		d.run(`TRUNCATE queen.queues, queen.messages, queen.retention_history, queen.messages_consumed, queen.queend_changes, queen.consumer_groups_metadata CASCADE`)
	case sql != "":
		d.run("%s", sql)
	}
	if _, err := schema.Migrate(ctx, d.config, nil); err != nil {
		t.Fatal(err)
	}
	return d
}

// run sends statements and returns the last result, a row a line, columns separated by
// "|".
func (d *db) run(sql string, args ...any) string {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	results, err := d.conn.PgConn().Exec(ctx, fmt.Sprintf(sql, args...)).ReadAll()
	if err != nil {
		d.t.Fatalf("%.300s: %v", fmt.Sprintf(sql, args...), err)
	}
	var lines []string
	for _, row := range results[len(results)-1].Rows {
		var columns []string
		for _, value := range row {
			columns = append(columns, string(value))
		}
		lines = append(lines, strings.Join(columns, "|"))
	}
	return strings.Join(lines, "\n")
}

// is checks what a query answers.
func (d *db) is(want, sql string, args ...any) {
	d.t.Helper()
	if got := d.run(sql, args...); got != want {
		d.t.Errorf("%s:\n got %s\nwant %s", fmt.Sprintf(sql, args...), got, want)
	}
}

// push pushes messages t<from> to t<to> into queue/partition.
func (d *db) push(queue, partition string, from, to int) {
	d.t.Helper()
	d.run(`SELECT queen.push_messages_v2((SELECT jsonb_agg(jsonb_build_object('queue', '%s', 'partition', '%s', 'payload', '{}'::jsonb, 'transactionId', 't' || i) ORDER BY i)
		FROM generate_series(%d, %d) i))`, queue, partition, from, to)
}

// age makes the messages of a partition with these numbers older.
func (d *db) age(partition string, upToSeq int, by string) {
	d.t.Helper()
	d.run(`UPDATE queen.messages m SET created_at = m.created_at - interval '%s' FROM queen.partitions p WHERE p.id = m.partition_id AND p.name = '%s' AND m.seq <= %d`, by, partition, upToSeq)
}

// read gives a group a cursor behind the message with this number.
func (d *db) read(partition, group string, seq int) {
	d.t.Helper()
	d.run(`INSERT INTO queen.partition_consumers (partition_id, consumer_group, last_consumed_created_at, last_consumed_id, last_seq)
		SELECT m.partition_id, '%s', m.created_at, m.id, m.seq FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE p.name = '%s' AND m.seq = %d
		ON CONFLICT (partition_id, consumer_group) DO UPDATE SET last_consumed_created_at = EXCLUDED.last_consumed_created_at, last_consumed_id = EXCLUDED.last_consumed_id, last_seq = EXCLUDED.last_seq`,
		group, partition, seq)
}

// begin makes a group that has read nothing.
func (d *db) begin(partition, group string) {
	d.t.Helper()
	d.run(`INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT id, '%s' FROM queen.partitions WHERE name = '%s'`, group, partition)
}

// maintainer is one that does not run by itself, with a connection.
func (d *db) maintainer(o Options) *Maintainer {
	d.t.Helper()
	o.Conn, o.Log = d.config, zerolog.New(zerolog.NewTestWriter(d.t))
	o.RetentionInterval, o.EvictionInterval, o.ReconcileInterval = time.Hour, time.Hour, time.Hour
	if o.PartitionIdle == 0 {
		o.PartitionIdle = PartitionIdleDefault
	}
	if o.MetricsAge == 0 {
		o.MetricsAge = MetricsAgeDefault
	}
	m, err := prepare(o)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	if err := m.session.connect(ctx); err != nil {
		d.t.Fatal(err)
	}
	d.t.Cleanup(m.session.close)
	return m
}

// cycle runs a job until it is over and returns how many turns it took.
func (d *db) cycle(m *Maintainer, id JobID) (turns int) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), hang)
	defer cancel()
	for _, j := range m.jobs {
		if j.id != id {
			continue
		}
		for {
			o, err := m.turn(ctx, j)
			if err != nil {
				d.t.Fatalf("%s: %v", id, err)
			}
			turns++
			if o != more {
				if o != idle {
					d.t.Fatalf("%s: outcome %d", id, o)
				}
				return turns
			}
		}
	}
	panic("BUG: no such job")
}

// dense checks that the numbers of every partition say how many messages it has.
func (d *db) dense() {
	d.t.Helper()
	d.is("", `SELECT p.name, l.seq, l.tail_seq, (SELECT count(*) FROM queen.messages m WHERE m.partition_id = p.id) n, (SELECT count(*) FROM queen.message_holes h WHERE h.partition_id = p.id) h
		FROM queen.partition_lookup l JOIN queen.partitions p ON p.id = l.partition_id
		WHERE l.seq - l.tail_seq - (SELECT count(*) FROM queen.message_holes h WHERE h.partition_id = p.id) <> (SELECT count(*) FROM queen.messages m WHERE m.partition_id = p.id)`)
}
