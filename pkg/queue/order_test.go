package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
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

// withoutLock are the statements with both locks taken out, the one that is asked for and
// the one that comes with moving the heads: those are only read.
func withoutLock() func(string) string {
	text := schema.Statement("push_insert")
	from, to := strings.Index(text, "UPDATE queen.partition_lookup"), strings.Index(text, "\nINSERT")
	return change(change(nil, "push_lock", "FOR NO KEY UPDATE", ""), "push_insert", text[from:to],
		`SELECT h.partition_id, h.seq, g.n, g.last, greatest(clock_timestamp(), h.last_message_created_at + interval '1 microsecond') AS ts
		   FROM queen.partition_lookup h
		   JOIN (SELECT unnest($1::uuid[]) AS part, unnest($2::int4[]) AS n, unnest($3::uuid[]) AS last) g ON h.partition_id = g.part)`)
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
