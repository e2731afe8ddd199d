package main

import (
	"context"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/bench/load"
)

// stranger is a server of somebody else. It stores what it is pushed if it is given a
// database, in one partition, and all but one message if it loses.
func stranger(t *testing.T, db *pgx.Conn, loses bool) (url string) {
	t.Helper()
	var pushes atomic.Int64
	stored := make(chan struct{}, 1) // guards db
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(r.Body)
		if r.URL.Path != "/base/api/v1/push" {
			http.NotFound(w, r)
			return
		}
		n := pushes.Add(1)
		id := fmt.Sprintf("00000000-0000-7000-8000-%012x", n)
		if db != nil && (n > 1 || !loses) {
			_, after, _ := strings.Cut(string(body), `"queue":"`)
			queue, _, _ := strings.Cut(after, `"`)
			stored <- struct{}{}
			_, err := db.Exec(r.Context(), `WITH q AS (INSERT INTO queen.queues (name) VALUES ($1) ON CONFLICT (name) DO UPDATE SET name = excluded.name RETURNING id),
				p AS (INSERT INTO queen.partitions (queue_id) SELECT id FROM q ON CONFLICT (queue_id, name) DO UPDATE SET name = excluded.name RETURNING id)
				INSERT INTO queen.messages (id, transaction_id, partition_id, payload) SELECT $2::text::uuid, $2::text, id, '{}' FROM p`, queue, id)
			<-stored
			if err != nil {
				t.Error(err)
			}
		}
		w.WriteHeader(201)
		fmt.Fprintf(w, `[{"message_id":%q,"status":"queued"}]`, id)
	}))
	t.Cleanup(s.Close)
	return s.URL + "/base"
}

func strangerCell(t *testing.T, e external) Cell {
	t.Helper()
	w := &world{}
	a, err := w.external(context.Background(), e)
	if err != nil {
		t.Fatal(err)
	}
	for _, s := range w.foreign {
		if s.db != nil {
			defer s.db.Close(context.Background())
		}
	}
	c, err := w.trial(context.Background(), a, trial{syscalls: 20 * time.Millisecond, load: load.Settings{
		Shape: load.Shape{Queue: "bench", Partitions: 1, Items: 1, PayloadBytes: 20}, Connections: 2, Warm: 10 * time.Millisecond, Window: 50 * time.Millisecond}})
	if err != nil {
		t.Fatal(err)
	}
	return c
}

func TestAServerOfWhichNothingIsKnownIsMeasuredFromOutside(t *testing.T) {
	c := strangerCell(t, external{url: stranger(t, nil, false)})
	if c.Messages < 2 || c.Rate <= 0 || c.P99 < c.P50 || c.Refused != 0 || !c.honest() || len(c.Curves.Latency) == 0 {
		t.Fatalf("%+v", c)
	}
	for _, figure := range slices.Concat(lackProcess, []string{lackAllocations, lackPostgres, lackWAL, "missing", "untold"}) {
		if (*c.NotMeasured)[figure] == "" {
			t.Errorf("nothing says why there is no %s", figure)
		}
	}
}

func TestAStrangersAnswersAreComparedWithItsRows(t *testing.T) {
	db := freshDatabase(t)
	database := db.Config().ConnString()
	c := strangerCell(t, external{url: stranger(t, db, false), pid: os.Getpid(), database: database})
	if c.Missing != 0 || c.Untold != 0 || c.ServerCPU <= 0 || c.RSS <= 0 || c.PostgresCPU <= 0 || c.WALBytes <= 0 || !c.honest() {
		t.Fatalf("%+v, not measured: %v", c, c.NotMeasured)
	}
	if c.SyscallsBy == "" && (*c.NotMeasured)["syscalls_per_message"] == "" || c.SyscallsBy != "" && c.Syscalls < 2 {
		t.Fatalf("%v system calls by %q, not measured: %v", c.Syscalls, c.SyscallsBy, c.NotMeasured)
	}
	if (*c.NotMeasured)[lackAllocations] == "" {
		t.Fatal("this server does not tell its allocations")
	}
	if c = strangerCell(t, external{url: stranger(t, freshDatabase(t), true), database: database}); c.Missing == 0 || c.honest() {
		t.Fatal("rows in another database, and it is honest")
	}
}

func TestAMessageThatIsNoRowIsMissing(t *testing.T) {
	db := freshDatabase(t)
	c := strangerCell(t, external{url: stranger(t, db, true), database: db.Config().ConnString()})
	if c.Missing != 1 || c.Untold != 0 || c.honest() {
		t.Fatalf("%d missing, %d untold", c.Missing, c.Untold)
	}
}

func TestAnExternalServerHasToBeOne(t *testing.T) {
	for _, e := range []external{{url: "ftp://x"}, {url: "http://127.0.0.1:1", pid: 1 << 30}, {url: "http://127.0.0.1:1", database: "postgres://127.0.0.1:1/x"}} {
		if _, err := (&world{}).external(context.Background(), e); err == nil {
			t.Errorf("%+v", e)
		}
	}
}

func TestArmsAreSplitOutsideOfParentheses(t *testing.T) {
	if got := splitArms("push,floor(unnest, 100, 4),hello"); !slices.Equal(got, []string{"push", "floor(unnest, 100, 4)", "hello"}) {
		t.Fatalf("%q", got)
	}
}
