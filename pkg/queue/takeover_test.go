package queue

import (
	"context"
	"fmt"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"

	"github.com/jackc/pgx/v5/pgconn"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// takenOver is a database that Queen 0.15 laid out and filled, and queend took over.
func takenOver(t testing.TB) string {
	t.Helper()
	db := postgrestest.Database(t)
	fixture, err := os.ReadFile("../schema/testdata/queen-0.15.sql")
	if err != nil {
		t.Fatal(err)
	}
	conn, err := pgconn.Connect(context.Background(), db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(context.Background())
	if _, err := conn.Exec(context.Background(), string(fixture)).ReadAll(); err != nil {
		t.Fatal(err)
	}
	migrate(t, db)
	return db
}

func TestQueensPartitionsGoOn(t *testing.T) {
	db := takenOver(t)
	query(t, db, `CREATE TABLE before AS SELECT partition_id, max((created_at, id)::text) FILTER (WHERE false) AS x, max(created_at) AS last, count(*) AS n FROM queen.messages GROUP BY 1`)
	s := newStore(t, db)
	s.config = &Config{PayloadJSONB: true}
	partitions := query(t, db, `SELECT q.name, p.name FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id ORDER BY 1, 2`)
	var items []string
	for _, p := range partitions {
		queue, name, _ := strings.Cut(p, "|")
		for i := range 3 {
			items = append(items, fmt.Sprintf(`{"queue":%q,"partition":%q,"payload":%d,"transactionId":"ours %d"}`, queue, name, i, i))
		}
	}
	ops := s.push(`{"items":[` + strings.Join(items, ",") + `]}`)
	expectStatuses(t, ops, strings.Repeat("q", len(items)))
	expect(t, db, `SELECT count(*) FROM queen.messages m JOIN before b USING (partition_id) WHERE m.transaction_id LIKE 'ours%' AND m.created_at <= b.last`, "0")
	expect(t, db, `SELECT count(*) FROM queen.messages WHERE transaction_id LIKE 'ours%'`, fmt.Sprint(len(items)))
	// Queen's messages are what ours are duplicates of.
	dups := s.push(`{"items":[{"queue":"orders.new","partition":"long","transactionId":"tx-17"}]}`)
	expectStatuses(t, dups, "d")
	expect(t, db, fmt.Sprintf(`SELECT transaction_id FROM queen.messages WHERE id = '%s'`, dups[0].Items[0].WinnerID), "tx-17")
	// New queues and partitions as in any database.
	expectStatuses(t, s.push(`{"items":[{"queue":"new one","partition":"p"},{"queue":"mail","partition":"new"}]}`), "qq")
	expect(t, db, `SELECT h.partition_id FROM queen.partition_lookup h
		JOIN LATERAL (SELECT id, created_at FROM queen.messages WHERE partition_id = h.partition_id ORDER BY created_at DESC, id DESC LIMIT 1) m ON true
		WHERE (h.last_message_id, h.last_message_created_at, h.updated_at) IS DISTINCT FROM (m.id, m.created_at, m.created_at)`)
}

// Anybody may delete queues by hand at any time, also where Queen's foreign keys are
// left and take other locks than ours, in another order.
func TestQueuesAreDeletedWhileManyPush(t *testing.T) {
	for name, db := range map[string]string{"fresh": database(t), "taken over": takenOver(t)} {
		t.Run(name, func(t *testing.T) {
			config := &Config{PayloadJSONB: name != "fresh"}
			query(t, db, `DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET deadlock_timeout = 20', current_database()); END $$`)
			var pushers, deleter sync.WaitGroup
			stop := make(chan struct{})
			conn, err := pgconn.Connect(context.Background(), db)
			if err != nil {
				t.Fatal(err)
			}
			defer conn.Close(context.Background())
			deleter.Go(func() {
				for {
					select {
					case <-stop:
						return
					default:
					}
					// It may be the one that a deadlock ends; then it did nothing.
					if _, err := conn.Exec(context.Background(), `DELETE FROM queen.queues WHERE name LIKE 'victim%'`).ReadAll(); err != nil && !strings.Contains(err.Error(), "40P01") {
						t.Error(err)
						return
					}
				}
			})
			var stored sync.Map
			for i := range 4 {
				s, r := newStore(t, db), rand.New(rand.NewPCG(3, uint64(i)))
				s.config = config
				pushers.Go(func() {
					for range 20 {
						b := NewBatch(s.config, s.hints)
						for range 1 + r.IntN(4) {
							var items []string
							for range 1 + r.IntN(4) {
								items = append(items, fmt.Sprintf(`{"queue":"%s","partition":"%d"}`, []string{"victim.a", "victim.b", "safe"}[r.IntN(3)], r.IntN(4)))
							}
							b.Add(s.op(`{"items":[` + strings.Join(items, ",") + `]}`))
						}
						if err := s.drive(b); err != nil {
							t.Error(err)
							return
						}
						for _, op := range b.Ops() {
							if op.Fault.Code == OK && strings.Trim(statuses(op), "q") != "" || op.Fault.Code != OK && op.Fault.Code != Unavailable {
								t.Error(statuses(op))
							}
							for i := range op.Items {
								if it := &op.Items[i]; it.Status == Queued && string(it.Queue) == "safe" {
									stored.Store(it.ID.String(), true)
								}
							}
						}
					}
				})
			}
			pushers.Wait()
			close(stop)
			deleter.Wait()
			for _, id := range query(t, db, `SELECT m.id FROM queen.messages m JOIN queen.partition_lookup h USING (partition_id) WHERE h.queue_name = 'safe'`) {
				stored.Delete(id)
			}
			stored.Range(func(id, _ any) bool {
				t.Errorf("%s was queued and is not there", id)
				return true
			})
		})
	}
}
