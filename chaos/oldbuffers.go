package main

import (
	"context"
	"embed"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"
	"time"

	"github.com/queend/queend/chaos/world"
)

// Buffers that earlier versions have written are kept in testdata/buffers, one directory for
// each version of their format, with what was accepted for them: a later version has to
// deliver it (row 26). `go run ./chaos -write-buffer chaos/testdata/buffers/NAME` makes one.
//
//go:embed testdata/buffers
var oldBuffers embed.FS

const oldBuffersDir = "testdata/buffers"

// acceptedName is the file beside a buffer that lists what was accepted.
const acceptedName = "accepted.jsonl"

// accepted is a line of it.
type accepted struct {
	Queue         string          `json:"queue"`
	Partition     string          `json:"partition"`
	TransactionID string          `json:"transactionId"`
	TraceID       string          `json:"traceId,omitempty"`
	Payload       json.RawMessage `json:"payload"`
}

// oldMessages are what a kept buffer holds: names and payloads of every kind.
func oldMessages() (all []accepted) {
	payloads := []string{`{"n":1}`, `"text"`, `null`, `12345678901234567890.5`, `["ä","𝄞","\u0007"]`, `{"a":{"b":[1,2,3]},"a":1}`, `""`}
	for i := range 60 {
		m := accepted{Queue: "orders", Partition: fmt.Sprint(i % 3), Payload: json.RawMessage(payloads[i%len(payloads)])}
		if i%4 == 0 {
			m.Queue, m.Partition = "Zürich/π", "Default"
		}
		if i%2 == 0 {
			m.TransactionID = fmt.Sprintf("key-%d", i)
		}
		if i%5 == 0 {
			m.TraceID = fmt.Sprintf("01234567-89ab-7def-8123-%012d", i)
		}
		all = append(all, m)
	}
	return all
}

// writeBuffer lets a queend without PostgreSQL write a buffer, and keeps it in dir.
func writeBuffer(ctx context.Context, w *world.World, dir string) error {
	logs, err := os.MkdirTemp(w.Dir, "logs-")
	if err != nil {
		return err
	}
	// Nobody listens on port 1.
	q, err := w.Queend("queend-1", logs, "DATABASE_URL=postgres://nobody@127.0.0.1:1/none?sslmode=disable", smallSegments)
	if err != nil {
		return err
	}
	if err := q.Launch(); err != nil {
		return err
	}
	defer q.Kill()
	var lines strings.Builder
	for _, m := range oldMessages() {
		item, err := json.Marshal(m)
		if err != nil {
			return err
		}
		if m.TransactionID == "" {
			item = []byte(strings.Replace(string(item), `"transactionId":"",`, "", 1))
		}
		status, text := request(q, "POST", "/api/v1/push", `{"items":[`+string(item)+`]}`)
		var answer []struct{ Status, TransactionID string }
		if err := json.Unmarshal([]byte(text), &answer); status != 201 || err != nil || len(answer) != 1 || answer[0].Status != "buffered" {
			return fmt.Errorf("a push was answered %d %s", status, text)
		}
		m.TransactionID = answer[0].TransactionID
		line, err := json.Marshal(m)
		if err != nil {
			return err
		}
		lines.Write(append(line, '\n'))
	}
	if end, err := q.Terminate(); err != nil || end.Status != 0 {
		return fmt.Errorf("it did not stop well: %v %d %s", err, end.Status, end.Text)
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	if err := os.CopyFS(dir, os.DirFS(q.Buffer)); err != nil {
		return err
	}
	_ = os.Remove(filepath.Join(dir, "lock"))
	return os.WriteFile(filepath.Join(dir, acceptedName), []byte(lines.String()), 0o644)
}

// readOldBuffers lets a queend deliver each of them to a database of its own.
func (t *Trial) readOldBuffers(ctx context.Context) error {
	versions, err := oldBuffers.ReadDir(oldBuffersDir)
	if err != nil {
		return err
	}
	for _, version := range versions {
		if err := t.readOldBuffer(ctx, version.Name()); err != nil {
			return fmt.Errorf("the buffer %s: %w", version.Name(), err)
		}
	}
	return nil
}

func (t *Trial) readOldBuffer(ctx context.Context, version string) (err error) {
	database, err := t.world.Database(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, t.world.Drop(ctx, database)) }()
	q, err := t.world.Queend("queend-"+version, t.Dir, "DATABASE_URL="+t.world.Postgres.ConnString(database))
	if err != nil {
		return err
	}
	defer os.RemoveAll(q.Buffer)
	kept, err := fs.Sub(oldBuffers, path.Join(oldBuffersDir, version))
	if err != nil {
		return err
	}
	if err := os.Remove(q.Buffer); err != nil {
		return err
	}
	if err := os.CopyFS(q.Buffer, kept); err != nil {
		return err
	}
	want, err := fs.ReadFile(kept, acceptedName)
	if err != nil {
		return err
	}
	if err := q.Launch(); err != nil {
		t.broken("I1", "the buffer of version %s is not read: %v", version, err)
		return nil
	}
	defer q.Kill()
	if err := t.healthy(ctx, q); err != nil {
		return err
	}
	if err := t.until(ctx, "the buffer of version "+version+" is delivered", func() (bool, error) {
		n, err := pending(q)
		return err == nil && n == 0, nil
	}); err != nil {
		t.broken("I8", "%v", err)
	}
	return t.compareOld(ctx, database, version, string(want))
}

const selectOld = `
SELECT q.name, p.name, m.transaction_id, coalesce(m.trace_id::text, ''), m.payload::text
FROM queen.messages m JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id
ORDER BY q.name, p.name, m.created_at, m.id`

// compareOld looks whether each message is there, once, and in its order.
func (t *Trial) compareOld(ctx context.Context, database, version, want string) error {
	conn, err := t.world.Connect(ctx, database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, selectOld)
	if err != nil {
		return err
	}
	defer rows.Close()
	got := map[string]string{}
	for rows.Next() {
		var m accepted
		var payload string
		if err := rows.Scan(&m.Queue, &m.Partition, &m.TransactionID, &m.TraceID, &payload); err != nil {
			return err
		}
		got[m.Queue+"/"+m.Partition] += m.TransactionID + " " + m.TraceID + " " + payload + "\n"
	}
	wanted := map[string]string{}
	for line := range strings.Lines(want) {
		var m accepted
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			return err
		}
		wanted[m.Queue+"/"+m.Partition] += m.TransactionID + " " + m.TraceID + " " + string(m.Payload) + "\n"
	}
	for partition, texts := range wanted {
		if got[partition] != texts {
			t.broken("I1", "of the buffer of version %s, partition %s has\n%sand not\n%s", version, partition, got[partition], texts)
		}
	}
	if len(got) != len(wanted) {
		t.broken("I3", "the buffer of version %s makes %d partitions and not %d", version, len(got), len(wanted))
	}
	return rows.Err()
}

// writeBufferMax bounds the making of one.
const writeBufferMax = 5 * time.Minute
