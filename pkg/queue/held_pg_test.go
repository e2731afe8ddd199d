package queue

import (
	"context"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"
)

// hold has a session of its own do something in a transaction, which stays until it is to let go.
func hold(t testing.TB, db, sql string) (letGo func()) {
	t.Helper()
	ctx := context.Background()
	conn, err := pgconn.Connect(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	run := func(sql string) {
		t.Helper()
		if _, err := conn.Exec(ctx, sql).ReadAll(); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { _ = conn.Close(ctx) })
	run("BEGIN")
	run(sql)
	return func() { run("ROLLBACK") }
}

func TestAPartitionThatASessionLocksHoldsUpNoOther(t *testing.T) {
	db := database(t)
	s := newStore(t, db)
	s.push(`{"items":[{"queue":"q","partition":"a"},{"queue":"q","partition":"b"}]}`)
	if _, err := s.conn.Exec(context.Background(), "SET lock_timeout = 50").ReadAll(); err != nil {
		t.Fatal(err)
	}
	a, b := `{"items":[{"queue":"q","partition":"a"}]}`, `{"items":[{"queue":"q","partition":"b"}]}`
	const ofA = ` WHERE partition_id = (SELECT id FROM queen.partitions WHERE name = 'a')`
	first := pushing
	for _, sql := range []string{
		"SELECT FROM queen.partition_lookup" + ofA + " FOR UPDATE",
		"UPDATE queen.partition_lookup SET updated_at = now()" + ofA,
		"DELETE FROM queen.partition_lookup" + ofA,
	} {
		letGo := hold(t, db, sql)
		s.steps = nil
		ops := s.push(a, b)
		expectStatuses(t, ops, "fault 3: "+heldSentence, "q")
		s.expectSteps(first, asksWho, asksWho, lockFirst)
		first = lockFirst
		expectStatuses(t, s.push(b, a), "q", "fault 3: "+heldSentence)
		s.expectSteps(lockFirst)
		letGo()
		for _, h := range s.hints.young {
			h.heldTill = 0 // a second later
		}
		expectStatuses(t, s.push(a, b), "q", "q")
		s.expectSteps(asksWho, lockFirst)
	}
	consistent(t, db)
}
