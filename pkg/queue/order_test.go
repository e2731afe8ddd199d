package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/schema"
)

// A consumer's cursor is the (created_at, id) of the last message that it has read, and
// it reads what is greater. So what becomes visible below a cursor is lost. Two pushes
// into one partition may commit in another order than they were stamped, unless the
// stamp is taken under a lock that is held until the commit, by a statement that sees
// what the lock's last holder has committed.

// change returns the statements with one of them changed, as no build of queend can.
func change(statements func(string) string, name, from, to string) func(string) string {
	text := schema.Statement(name)
	if statements != nil {
		text = statements(name)
	}
	changed := strings.Replace(text, from, to, 1)
	if changed == text {
		panic("there is no " + from + " in " + name)
	}
	return func(other string) string {
		switch {
		case other == name:
			return changed
		case statements != nil:
			return statements(other)
		}
		return schema.Statement(other)
	}
}

// withoutLock are the statements without the lock that comes with moving the heads: those are
// only read.
func withoutLock() func(string) string {
	text := schema.Statement("push_insert")
	from, to := strings.Index(text, "UPDATE queen.partition_lookup"), strings.Index(text, "\nINSERT")
	return change(nil, "push_insert", text[from:to],
		`SELECT h.partition_id, h.seq, g.n, g.last, greatest(clock_timestamp(), h.last_message_created_at + interval '1 microsecond') AS ts
		   FROM queen.partition_lookup h
		   JOIN (SELECT unnest($1::uuid[]) AS part, unnest($2::int4[]) AS n, unnest($3::uuid[]) AS last) g ON h.partition_id = g.part),
		moved AS MATERIALIZED (SELECT count(*) = cardinality($1) AS whole, array_agg(seq ORDER BY partition_id) AS seq, array_agg(ts ORDER BY partition_id) AS ts FROM l)`)
}

const pauseKey = 7

// pausing are the statements with a pause after the stamp is taken, for as long as
// somebody holds an advisory lock.
func pausing(statements func(string) string) func(string) string {
	return change(statements, "push_insert", " AS ts", fmt.Sprintf(" AS ts, pg_advisory_xact_lock_shared(%d) AS pause", pauseKey))
}

// follower reads a partition as a consumer does.
type follower struct {
	t             testing.TB
	conn          *pgconn.PgConn
	partition     string
	createdAt, id string
	seen          map[string]bool
}

func newFollower(t testing.TB, connString, partition string) *follower {
	t.Helper()
	conn, err := pgconn.Connect(context.Background(), connString)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(context.Background()) })
	return &follower{t: t, conn: conn, partition: partition, createdAt: "-infinity", id: UUID{}.String(), seen: map[string]bool{}}
}

// read moves the cursor over what is there now.
func (f *follower) read() {
	for {
		r := f.conn.ExecParams(context.Background(), `SELECT created_at, id FROM queen.messages WHERE partition_id = $1 AND (created_at, id) > ($2::timestamptz, $3::uuid)
			ORDER BY created_at, id LIMIT 20`, [][]byte{[]byte(f.partition), []byte(f.createdAt), []byte(f.id)}, nil, nil, nil).Read()
		if r.Err != nil {
			f.t.Error(r.Err)
			return
		}
		if len(r.Rows) == 0 {
			return
		}
		for _, row := range r.Rows {
			f.createdAt, f.id = string(row[0]), string(row[1])
			f.seen[f.id] = true
		}
	}
}

// missed are the messages that the follower will never see.
func (f *follower) missed(connString string) (missed []string) {
	f.read()
	for _, id := range query(f.t, connString, `SELECT id FROM queen.messages WHERE partition_id = $1::uuid`, f.partition) {
		if !f.seen[id] {
			missed = append(missed, id)
		}
	}
	return missed
}

// eventually waits until sql returns what is wanted.
func eventually(t testing.TB, connString, sql, want string) {
	t.Helper()
	for end := time.Now().Add(hang); ; {
		got := strings.Join(query(t, connString, sql), ",")
		if got == want {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: %q, want %q", sql, got, want)
		}
		time.Sleep(time.Millisecond)
	}
}

// overtaking lets a push stop between its stamp and its commit, and another one into
// the same partition begin: until that one waits for the first, or, if it may not have to
// wait, until it has ended. It returns the messages that a consumer misses.
func overtaking(t *testing.T, statements func(string) string, mayWait bool) []string {
	db := database(t)
	first := newStore(t, db).push(`{"items":[{"queue":"q","transactionId":"first"}]}`)
	reader := newFollower(t, db, first[0].Items[0].PartitionID.String())
	query(t, db, fmt.Sprintf(`SELECT pg_advisory_lock(%d)`, pauseKey))

	slow, quick := newStore(t, db), newStore(t, db)
	slow.sql, quick.sql = pausing(statements), statements
	var done sync.WaitGroup
	drive := func(s *store, op *Op) <-chan struct{} {
		ended := make(chan struct{})
		done.Go(func() {
			defer close(ended)
			b := NewBatch(s.config, s.hints)
			b.Add(op)
			if err := s.drive(b); err != nil {
				t.Error(err)
			}
		})
		return ended
	}
	drive(slow, slow.op(`{"items":[{"queue":"q","transactionId":"slow"}]}`))
	eventually(t, db, fmt.Sprintf(`SELECT wait_event FROM pg_stat_activity WHERE pid = %d`, slow.conn.PID()), "advisory")
	ended := drive(quick, quick.op(`{"items":[{"queue":"q","transactionId":"quick"}]}`))
	for over, guard := false, time.Now().Add(hang); !over; {
		select {
		case <-ended:
			over = true
		default:
			over = mayWait && query(t, db, fmt.Sprintf(`SELECT count(*) FROM pg_stat_activity WHERE pid = %d AND wait_event_type = 'Lock'`, quick.conn.PID()))[0] == "1"
			if time.Now().After(guard) {
				t.Fatal("the second push neither waits nor ends")
			}
			time.Sleep(time.Millisecond)
		}
	}
	reader.read()
	query(t, db, fmt.Sprintf(`SELECT pg_advisory_unlock(%d)`, pauseKey))
	done.Wait()
	expect(t, db, `SELECT count(*) FROM queen.messages`, "3")
	return reader.missed(db)
}

func TestAPushWaitsForTheOneThatWasStampedBefore(t *testing.T) {
	if missed := overtaking(t, nil, true); len(missed) > 0 {
		t.Errorf("a consumer misses %q", missed)
	}
}

// The same without the lock: if this finds nothing, the test above proves nothing.
func TestWithoutTheLockAMessageIsLostBehindTheCursor(t *testing.T) {
	if missed := overtaking(t, withoutLock(), false); len(missed) != 1 {
		t.Errorf("a consumer misses %q, and should miss the message that was overtaken", missed)
	}
}

// Two batches that lock the same heads in different orders wait for each other. What is
// locked while one head in the middle is waited for says the order, however few heads there
// are, in whatever order they lie on disk, and whenever the plan was made.
func TestHeadsAreLockedInOneOrderWhateverThePlan(t *testing.T) {
	db := database(t)
	for _, n := range []int{2, 3, 5, 8, 20, 60, 200} {
		for _, analyzed := range []bool{false, true} {
			query(t, db, `DELETE FROM queen.queues`)
			s := newStore(t, db)
			var items []string
			for p := range n {
				items = append(items, fmt.Sprintf(`{"queue":"q","partition":"%d"}`, p))
			}
			body := `{"items":[` + strings.Join(items, ",") + `]}`
			s.push(body)
			query(t, db, `DO $$ DECLARE head uuid; BEGIN
				FOR head IN SELECT partition_id FROM queen.partition_lookup ORDER BY 1 DESC LOOP
					UPDATE queen.partition_lookup SET tail_seq = tail_seq WHERE partition_id = head;
				END LOOP; END $$`)
			if analyzed {
				query(t, db, `ANALYZE queen.partition_lookup`)
			}
			for range 6 { // PostgreSQL settles on a generic plan
				s.push(body)
			}

			heads := query(t, db, `SELECT partition_id FROM queen.partition_lookup ORDER BY 1`)
			holder := newStore(t, db).conn
			must := func(sql string) {
				t.Helper()
				if _, err := holder.Exec(t.Context(), sql).ReadAll(); err != nil {
					t.Fatal(err)
				}
			}
			must(`BEGIN; SELECT FROM queen.partition_lookup WHERE partition_id = '` + heads[n/2] + `' FOR NO KEY UPDATE`)
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				s.push(body)
			}()
			eventually(t, db, fmt.Sprintf(`SELECT wait_event_type FROM pg_stat_activity WHERE pid = %d`, s.conn.PID()), "Lock")
			free := query(t, db, `SELECT partition_id FROM (SELECT * FROM queen.partition_lookup FOR UPDATE SKIP LOCKED) f ORDER BY 1`)
			must(`ROLLBACK`)
			<-ended
			if want := heads[n/2+1:]; !slices.Equal(free, want) {
				t.Errorf("of %d heads (analyzed %v) that at %d is waited for, and %d behind it are free, want %d", n, analyzed, n/2, len(free), len(want))
			}
		}
	}
	consistent(t, db)
}

// A push that waits for a head reads it as its holder leaves it.
func TestAPushGoesOnFromWhatTheLocksLastHolderHasCommitted(t *testing.T) {
	db := database(t)
	query(t, db, `ALTER TABLE queen.messages ALTER created_at DROP NOT NULL`) // as Queen laid it out: then the id alone fails the whole
	s, other := newStore(t, db), newStore(t, db)
	body := `{"items":[{"queue":"q","partition":"a"},{"queue":"q","partition":"b"},{"queue":"q","partition":"a"},{"queue":"gone"}]}`
	s.push(body)
	if _, err := other.conn.Exec(t.Context(), `BEGIN; UPDATE queen.partition_lookup SET seq = seq + 40, last_message_created_at = now() + interval '1 hour';
		DELETE FROM queen.queues WHERE name = 'gone'`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	done := make(chan []*Op, 1)
	s.steps = nil
	go func() { done <- s.push(body) }()
	eventually(t, db, fmt.Sprintf(`SELECT wait_event_type FROM pg_stat_activity WHERE pid = %d`, s.conn.PID()), "Lock")
	if _, err := other.conn.Exec(t.Context(), `COMMIT`).ReadAll(); err != nil {
		t.Fatal(err)
	}
	expectStatuses(t, <-done, "qqqq")
	s.expectSteps(pushing, resolving, pushing) // the queue that was deleted under it is made again
	expect(t, db, `SELECT l.queue_name, p.name, l.seq, l.last_message_created_at > now() + interval '59 minutes', (l.last_message_id, l.last_message_created_at, l.updated_at, l.seq)
		= (SELECT m.id, m.created_at, m.created_at, m.seq FROM queen.messages m WHERE m.partition_id = l.partition_id ORDER BY m.created_at DESC, m.id DESC LIMIT 1)
		FROM queen.partition_lookup l JOIN queen.partitions p ON p.id = l.partition_id ORDER BY 1, 2`,
		"gone|Default|1|f|t", "q|a|44|t|t", "q|b|42|t|t")
}

// Many stores as they are in real life, and consumers that follow.
func TestConsumersMissNothingWhileManyPush(t *testing.T) {
	db := database(t)
	const stores, partitions, batches = 6, 3, 50
	var heads []string
	setup := newStore(t, db)
	for p := range partitions {
		ops := setup.push(fmt.Sprintf(`{"items":[{"queue":"q","partition":"%d"}]}`, p))
		heads = append(heads, ops[0].Items[0].PartitionID.String())
	}
	var pushers, readers sync.WaitGroup
	stop := make(chan struct{})
	var followers []*follower
	for _, p := range heads {
		f := newFollower(t, db, p)
		followers = append(followers, f)
		readers.Go(func() {
			for {
				f.read()
				select {
				case <-stop:
					return
				default:
				}
			}
		})
	}
	for i := range stores {
		s, r := newStore(t, db), rand.New(rand.NewPCG(2, uint64(i)))
		pushers.Go(func() {
			for range batches {
				b := NewBatch(s.config, s.hints)
				for range 1 + r.IntN(4) {
					var items []string
					for range 1 + r.IntN(3) {
						items = append(items, fmt.Sprintf(`{"queue":"q","partition":"%d","transactionId":"%d"}`, r.IntN(partitions), r.IntN(1000)))
					}
					b.Add(s.op(`{"items":[` + strings.Join(items, ",") + `]}`))
				}
				if err := s.drive(b); err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	pushers.Wait()
	close(stop)
	readers.Wait()
	for _, f := range followers {
		if missed := f.missed(db); len(missed) > 0 {
			t.Errorf("partition %s: %d of %d missed", f.partition, len(missed), len(f.seen))
		}
	}
	consistent(t, db)
}
