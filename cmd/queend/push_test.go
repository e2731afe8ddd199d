package main

import (
	"bufio"
	"context"
	"fmt"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/pkg/postgres/postgrestest"
)

var routes = []string{"/api/v1/push", "/api/v1/push-legacy"}

func TestAPushIsARowAndKeepsItsBytes(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	payload := `{"b":1.10, "a":"é\u00e9\ud83d\ude00\/", "a":2,"big":12345678901234567890123, "z":[ ]}`
	for i, route := range routes {
		queue := fmt.Sprint("q", i)
		status, items, text := p.push(route, `{"items":[{"queue":"`+queue+`","partition":"p","transactionId":"t","payload":`+payload+`}]}`)
		if status != 201 || len(items) != 1 || items[0].Status != "queued" || items[0].TransactionID != "t" {
			t.Fatalf("%s: %d %s", route, status, text)
		}
		got := query[string](t, db, `SELECT m.payload::text FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id
			JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = $1 AND p.name = 'p' AND m.id = $2::uuid`, queue, items[0].MessageID)
		if got != payload {
			t.Errorf("%s stored %s", route, got)
		}
	}
}

func TestOneBadRequestHarmsNobodyElse(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	long := strings.Repeat("ü", 256)
	poison := []string{
		`{"items":[{"queue":"q","traceId":"no uuid"}]}`,
		`{"items":[{"queue":"` + long + `"}]}`,
		`{"items":[{"queue":"q","partition":"` + long + `"}]}`,
		`{"items":[{"queue":"q","transactionId":"` + long + `"}]}`,
		`{"items":[{"queue":"a\u0000b"}]}`,
		`{"items":[{"queue":"q","payload":"` + "\xff" + `"}]}`,
		`{"items":[{"queue":"\ud800"}]}`,
		`{"items":[{"queue":"q","payload":` + strings.Repeat("[", 600) + strings.Repeat("]", 600) + `}]}`,
	}
	for _, route := range routes {
		var all sync.WaitGroup
		for worker := range 4 {
			all.Go(func() {
				for i := range 40 {
					body := fmt.Sprintf(`{"items":[{"queue":"good","partition":"%d","transactionId":"%s-%d-%d"}]}`, i%5, route, worker, i)
					if status, items, text := p.push(route, body); status != 201 || items[0].Status != "queued" {
						t.Errorf("a good push beside bad ones: %d %s", status, text)
					}
				}
			})
		}
		for i, body := range poison {
			all.Go(func() {
				if status, _, text := p.push(route, body); status != 400 || !strings.HasPrefix(text, `{"error":"`) {
					t.Errorf("poison %d: %d %s", i, status, text)
				}
			})
		}
		all.Wait()
	}
	if n := query[int](t, db, "SELECT count(*) FROM queen.messages"); n != 2*4*40 {
		t.Errorf("%d messages are stored, want %d", n, 2*4*40)
	}
}

func TestEightPushersOfOneTransactionHearOneWinner(t *testing.T) {
	db := postgrestest.Database(t)
	one, two := start(t, "DATABASE_URL="+db), start(t, "DATABASE_URL="+db)
	for round := range 10 {
		body := fmt.Sprintf(`{"items":[{"queue":"race","transactionId":"t%d"}]}`, round)
		answers := make([]item, 8)
		var all sync.WaitGroup
		for i := range answers {
			p, route := one, routes[i%4/2]
			if i%2 == 1 {
				p = two
			}
			all.Go(func() {
				status, items, text := p.push(route, body)
				if status != 201 || len(items) != 1 {
					t.Errorf("%d %s", status, text)
					return
				}
				answers[i] = items[0]
			})
		}
		all.Wait()
		winners, queued := map[string]bool{}, 0
		for _, a := range answers {
			winners[a.MessageID] = true
			if a.Status == "queued" {
				queued++
			}
		}
		if queued != 1 || len(winners) != 1 {
			t.Fatalf("round %d: %d queued, ids %v", round, queued, winners)
		}
	}
	if n := query[int](t, db, "SELECT count(*) FROM queen.messages"); n != 10 {
		t.Errorf("%d messages", n)
	}
}

// A reader goes on from its cursor, as consumers do. A message that is committed
// behind the cursor would never be seen.
func TestNoMessageIsEverCommittedBehindTheCursor(t *testing.T) {
	f := func(name string, processes int) {
		t.Run(name, func(t *testing.T) {
			db := postgrestest.Database(t)
			var servers []*process
			for range processes {
				servers = append(servers, start(t, "DATABASE_URL="+db))
			}
			if status, _, text := servers[0].push(routes[0], `{"items":[{"queue":"order","partition":"a"},{"queue":"order","partition":"b"}]}`); status != 201 {
				t.Fatal(text)
			}
			pushing, stop := context.WithCancel(context.Background())
			var readers, pushers sync.WaitGroup
			seen := make([]int, 2)
			for i, partition := range []string{"a", "b"} {
				readers.Go(func() { seen[i] = follow(t, pushing, db, partition) })
			}
			for worker := range 8 {
				pushers.Go(func() {
					for i := range 150 {
						body := fmt.Sprintf(`{"items":[{"queue":"order","partition":"%c"},{"queue":"order","partition":"%c"}]}`, 'a'+(i+worker)%2, 'b'-(i+worker)%2)
						route := routes[0]
						if worker == 0 {
							route = routes[1]
						}
						if status, _, text := servers[worker%processes].push(route, body); status != 201 {
							t.Errorf("%d %s", status, text)
							return
						}
					}
				})
			}
			pushers.Wait()
			stop()
			readers.Wait()
			for i, partition := range []string{"a", "b"} {
				there := query[int](t, db, `SELECT count(*) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE p.name = $1`, partition)
				if seen[i] != there {
					t.Errorf("partition %s holds %d messages and its reader saw %d: %d are behind the cursor", partition, there, seen[i], there-seen[i])
				}
				if gaps := query[bool](t, db, `SELECT count(*) <> max(m.seq) OR count(DISTINCT m.seq) <> count(*) FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id WHERE p.name = $1`, partition); gaps {
					t.Errorf("partition %s: seq is not dense", partition)
				}
			}
		})
	}
	f("one process", 1)
	f("two processes", 2)
}

// follow reads a partition from its cursor on, again and again, until pushing has
// ended and nothing more comes. It returns how many messages it saw.
func follow(t *testing.T, pushing context.Context, db, partition string) (seen int) {
	ctx, cancel := context.WithTimeout(context.Background(), neverHangs)
	defer cancel()
	conn, err := pgx.Connect(ctx, db)
	if err != nil {
		t.Error(err)
		return
	}
	defer conn.Close(ctx)
	at, id := time.Time{}, "00000000-0000-0000-0000-000000000000"
	for {
		last := pushing.Err() != nil
		rows, err := conn.Query(ctx, `SELECT m.created_at, m.id::text FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id
			WHERE p.name = $1 AND (m.created_at, m.id) > ($2, $3::uuid) ORDER BY m.created_at, m.id LIMIT 100`, partition, at, id)
		if err != nil {
			t.Error(err)
			return
		}
		n := 0
		for ; rows.Next(); n++ {
			if err := rows.Scan(&at, &id); err != nil {
				t.Error(err)
			}
		}
		if err := rows.Err(); err != nil {
			t.Error(err)
			return
		}
		seen += n
		if last && n == 0 {
			return seen
		}
	}
}

func TestTenThousandOldFashionedRequestsAreTenThousandRows(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	const requests, clients = 10_000, 50
	body := `{"items":[{"queue":"ab","payload":{"data":"value"}}]}`
	request := fmt.Sprintf("POST /api/v1/push HTTP/1.0\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", len(body), body)
	var all sync.WaitGroup
	for range clients {
		all.Go(func() {
			for range requests / clients {
				conn, err := net.Dial("tcp", p.address)
				if err != nil {
					t.Error(err)
					return
				}
				_ = conn.SetDeadline(time.Now().Add(neverHangs))
				fmt.Fprint(conn, request)
				answer, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || answer.StatusCode != 201 || !answer.Close {
					t.Errorf("%+v %v", answer, err)
				}
				conn.Close()
			}
		})
	}
	all.Wait()
	if n := query[int](t, db, "SELECT count(*) FROM queen.messages"); n != requests {
		t.Errorf("%d rows", n)
	}
}

func TestMessageIDsAreUUIDsOfVersion7AndRiseWithTheItems(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	var body strings.Builder
	for i := range 5000 {
		if i > 0 {
			body.WriteByte(',')
		}
		body.WriteString(`{"queue":"ids"}`)
	}
	status, items, text := p.push(routes[0], `{"items":[`+body.String()+`]}`)
	if status != 201 || len(items) != 5000 {
		t.Fatalf("%d %.200s", status, text)
	}
	for i := range items {
		if items[i].Index != i || items[i].MessageID[14] != '7' || i > 0 && items[i].MessageID <= items[i-1].MessageID {
			t.Fatalf("item %d: %+v", i, items[i])
		}
	}
}

func TestAQueueDeletedBySQLIsMadeAnew(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db)
	for range 3 {
		for _, route := range routes {
			if status, items, text := p.push(route, `{"items":[{"queue":"test-x","transactionId":"same"}]}`); status != 201 || items[0].Status != "queued" {
				t.Fatalf("%d %s", status, text)
			}
			query[int](t, db, `WITH gone AS (DELETE FROM queen.queues WHERE name LIKE 'test-%' RETURNING 1) SELECT count(*) FROM gone`)
		}
	}
}

// Both routes must mean the same by a 201, whatever the server's or the role's
// defaults are.
func TestAnAnsweredPushIsDurableAndReadCommittedOnBothRoutes(t *testing.T) {
	db := postgrestest.Database(t)
	name := query[string](t, db, "SELECT current_database()::text")
	runSQL(t, db, `ALTER DATABASE `+pgx.Identifier{name}.Sanitize()+` SET synchronous_commit = off`)
	runSQL(t, db, `ALTER DATABASE `+pgx.Identifier{name}.Sanitize()+` SET default_transaction_isolation = 'serializable'`)
	p := start(t, "DATABASE_URL="+db+" keepalives_idle=30 tcp_user_timeout=5000")
	runSQL(t, db, `CREATE TABLE heard (commit text, isolation text, zone text);
		CREATE FUNCTION hear() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
			INSERT INTO heard VALUES (current_setting('synchronous_commit'), current_setting('transaction_isolation'), current_setting('timezone'));
			RETURN NEW; END $$;
		CREATE TRIGGER hear BEFORE INSERT ON queen.messages FOR EACH ROW EXECUTE FUNCTION hear()`)
	for _, route := range routes {
		if status, _, text := p.push(route, onePush); status != 201 {
			t.Fatalf("%s: %d %s", route, status, text)
		}
	}
	if got := query[string](t, db, `SELECT string_agg(heard::text, ' ') FROM heard`); got != `(on,"read committed",UTC) (on,"read committed",UTC)` {
		t.Errorf("the messages were stored under %s", got)
	}
}

// runSQL runs SQL.
func runSQL(t *testing.T, db, sql string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), neverHangs)
	defer cancel()
	conn, err := pgx.Connect(ctx, db)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close(ctx)
	if _, err := conn.PgConn().Exec(ctx, sql).ReadAll(); err != nil {
		t.Fatalf("%s: %v", sql, err)
	}
}

// One request is one transaction, whole, whatever its size: a large one gets more
// time than the deadline of the others, and their answers do not tell of an outage.
func TestALargeRequestIsStoredWhole(t *testing.T) {
	db := postgrestest.Database(t)
	p := start(t, "DATABASE_URL="+db, "DB_FAILOVER_MS=2000")
	const items = 100_000
	for _, route := range routes {
		var body strings.Builder
		for i := range items {
			fmt.Fprintf(&body, `,{"queue":"large%s","partition":"%d","payload":%d}`, route, i%300, i)
		}
		status, answer, text := p.push(route, `{"items":[`+body.String()[1:]+`]}`)
		if status != 201 || len(answer) != items {
			t.Fatalf("%s: %d %.200s", route, status, text)
		}
	}
	if n := query[int](t, db, "SELECT count(*) FROM queen.messages"); n != len(routes)*items {
		t.Errorf("%d messages", n)
	}
}
