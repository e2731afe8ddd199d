package main

import (
	"bytes"
	endian "encoding/binary"
	"encoding/json"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/queend/queend/pkg/postgres/postgrestest"
	"github.com/queend/queend/pkg/queue"
)

// stream is a producer of one partition: each payload is its number.
type stream struct {
	t         *testing.T
	queue     string
	partition string
	ids       []string // the transactions of what was pushed, in order
}

func newStream(t *testing.T, partition string) *stream {
	return &stream{t: t, queue: "q", partition: partition}
}

// push pushes n messages, one request each, and wants one of these statuses for each.
func (s *stream) push(p *process, route string, n int, want ...string) {
	s.t.Helper()
	for range n {
		if status := s.try(p, route, ""); !slices.Contains(want, status) {
			s.t.Fatalf("message %d of %s: %s instead of %v", len(s.ids)-1, s.partition, status, want)
		}
	}
}

// try pushes one message, with some bytes beside its number. It is one of the stream when
// its answer is 201; status is that of the item, else of the answer.
func (s *stream) try(p *process, route, filling string) (status string) {
	s.t.Helper()
	code, got, text := p.push(route, fmt.Sprintf(`{"items":[{"queue":%q,"partition":%q,"payload":{"n":%d,"filling":%q}}]}`, s.queue, s.partition, len(s.ids), filling))
	if code != 201 {
		return fmt.Sprint(code, " ", text)
	}
	if len(got) != 1 || got[0].TransactionID == "" {
		s.t.Fatalf("201 %s", text)
	}
	s.ids = append(s.ids, got[0].TransactionID)
	return got[0].Status
}

// arrives pops everything and wants what was pushed: all of it, once, in order.
func (s *stream) arrives(p *process) {
	s.t.Helper()
	p.delivers()
	var got []message
	whole := false
	// An answer that comes too late on a busy machine has taken its messages with it: then
	// another group begins at the beginning.
	for group, limit := 0, time.Now().Add(neverHangs); !whole && time.Now().Before(limit); group++ {
		got, whole = s.popAll(p, group)
	}
	if !whole {
		s.t.Errorf("partition %s: only %d of %d arrive", s.partition, len(got), len(s.ids))
	}
	for i, m := range got {
		var payload struct{ N int }
		if err := json.Unmarshal(m.Data, &payload); err != nil || i >= len(s.ids) || payload.N != i || m.TransactionID != s.ids[i] {
			s.t.Fatalf("partition %s: in place %d of %d is %s %.40s", s.partition, i, len(s.ids), m.TransactionID, m.Data)
		}
	}
}

// popAll pops everything for a group of its own; whole: nothing went wrong, it is as many
// as were pushed at least, and no more are there.
func (s *stream) popAll(p *process, group int) (got []message, whole bool) {
	path := fmt.Sprintf("/queue/%s/partition/%s?batch=1000&autoAck=true&consumerGroup=all-%d", s.queue, s.partition, group)
	for {
		answer := p.pop(path)
		if answer.status != 200 || !answer.Success {
			return got, false
		}
		if len(answer.Messages) == 0 {
			return got, len(got) >= len(s.ids)
		}
		got = append(got, answer.Messages...)
	}
}

// delivers waits until nothing is buffered any more.
func (p *process) delivers() {
	p.t.Helper()
	waitFor(p.t, "the buffer to be empty", func() bool {
		_, _, text := p.ask("GET", "/api/v1/status/buffers", "")
		return strings.Contains(text, `"dbHealthy":true`) && strings.Contains(text, `"pending":0`)
	})
}

// answers waits until a route answers with this status and text.
func (p *process) answers(path string, status int, part string) {
	p.t.Helper()
	waitFor(p.t, path+" to answer "+strconv.Itoa(status)+" "+part, func() bool {
		got, _, text := p.ask("GET", path, "")
		return got == status && strings.Contains(text, part)
	})
}

func stored(t *testing.T, db string) int {
	t.Helper()
	return query[int](t, db, "SELECT count(*) FROM queen.messages")
}

func TestWhatIsPushedWhilePostgreSQLIsAwayIsDeliveredOnceAndInOrder(t *testing.T) {
	server := postgrestest.Own(t, nil)
	db := server.URL("postgres")
	p := start(t, "DATABASE_URL="+db, "DB_FAILOVER_MS=2000", "NUM_WORKERS=2")
	first := newStream(t, "known") // is stored before the first fault
	first.push(p, routes[0], 1, "queued", "buffered")
	first.arrives(p)
	f := func(fault string, away, back func() error) {
		t.Helper()
		streams := []*stream{newStream(t, fault+"-push"), newStream(t, fault+"-legacy")}
		for i, s := range streams {
			s.push(p, routes[i], 3, "queued", "buffered")
		}
		if err := away(); err != nil {
			t.Fatal(err)
		}
		for i, s := range streams {
			s.push(p, routes[i], 20, "buffered")
			again := p.pushes(routes[i], fmt.Sprintf(`{"queue":"q","partition":"known","payload":"again","transactionId":%q}`, first.ids[0]), "buffered")
			if again[0] != first.ids[0] {
				t.Errorf("the transaction %s is echoed as %s", first.ids[0], again[0])
			}
		}
		p.answers("/readyz", 200, "buffering")
		if err := back(); err != nil {
			t.Fatal(err)
		}
		for i, s := range streams {
			s.push(p, routes[i], 3, "queued", "buffered")
			s.arrives(p)
		}
		p.answers("/readyz", 200, `"ready"`)
	}
	restart := func() error { return server.Restart(t.Context()) }
	f("stopped", server.Stop, restart)
	f("killed", server.Kill, restart)
	f("hung", server.Pause, server.Resume)
	if n := query[int](t, db, "SELECT count(*) FROM queen.messages WHERE transaction_id = $1", first.ids[0]); n != 1 {
		t.Errorf("what was stored before is stored %d times", n)
	}
	sound(t, db)
}

// blackHole is a way to PostgreSQL on which its answers can be lost.
type blackHole struct {
	listener net.Listener
	loses    atomic.Bool
}

func newBlackHole(t *testing.T, port int) *blackHole {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	h := &blackHole{listener: listener}
	go func() {
		for {
			client, err := listener.Accept()
			if err != nil {
				return
			}
			server, err := net.Dial("tcp", fmt.Sprintf("127.0.0.1:%d", port))
			if err != nil {
				_ = client.Close()
				continue
			}
			go func() {
				_, _ = io.Copy(server, client)
				_ = server.Close()
			}()
			go h.answers(client, server)
		}
	}()
	return h
}

// answers passes on what PostgreSQL says, or loses it. A connection that has lost something
// ends when nothing is to be lost any more.
func (h *blackHole) answers(client, server net.Conn) {
	defer client.Close()
	buf, lost := make([]byte, 64<<10), false
	for {
		_ = server.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
		n, err := server.Read(buf)
		loses := h.loses.Load()
		lost = lost || loses && n > 0
		if netErr, ok := err.(net.Error); err != nil && !(ok && netErr.Timeout()) || lost && !loses {
			return
		}
		if n > 0 && !lost {
			if _, err := client.Write(buf[:n]); err != nil {
				return
			}
		}
	}
}

func (h *blackHole) port() int { return h.listener.Addr().(*net.TCPAddr).Port }

func TestACommitWhoseAnswerWasLostIsNotDoubledByTheBuffer(t *testing.T) {
	server := postgrestest.OwnTCP(t, nil)
	db := server.URL("postgres")
	hole := newBlackHole(t, server.Port())
	through := strings.Replace(server.TCPConnString("postgres"), fmt.Sprintf("port=%d", server.Port()), fmt.Sprintf("port=%d", hole.port()), 1)
	p := start(t, "DATABASE_URL="+through, "DB_FAILOVER_MS=4000", "NUM_WORKERS=1")
	s := newStream(t, "p")
	s.push(p, routes[0], 2, "queued", "buffered")
	s.arrives(p)
	hole.loses.Store(true)
	s.push(p, routes[0], 1, "buffered") // this one was sent
	waitFor(t, "the commit", func() bool { return stored(t, db) == 3 })
	s.push(p, routes[0], 5, "buffered")
	hole.loses.Store(false)
	s.push(p, routes[0], 2, "queued", "buffered")
	p.delivers()
	if n := stored(t, db); n != 10 {
		t.Errorf("%d messages are stored instead of 10", n)
	}
	s.arrives(p)
	sound(t, db)
}

func TestAStartWithoutPostgreSQLIsReadyBuffersAndDeliversWhenItComes(t *testing.T) {
	t.Parallel()
	server := postgrestest.Own(t, nil)
	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	p := launch(t, "DATABASE_URL="+server.URL("postgres"), "NOTIFY_SOCKET="+path)
	_ = socket.SetReadDeadline(time.Now().Add(neverHangs))
	buf := make([]byte, 256)
	if n, err := socket.Read(buf); err != nil || string(buf[:n]) != "READY=1" {
		t.Errorf("systemd hears %q, %v", buf[:n], err)
	}
	p.await("listening")
	if status, _, text := p.ask("GET", "/readyz", ""); status != 200 || !strings.Contains(text, "buffering") {
		t.Errorf("/readyz: %d %s", status, text)
	}
	if status, _, text := p.ask("GET", "/health", ""); status != 503 {
		t.Errorf("/health: %d %s", status, text)
	}
	s := newStream(t, "p")
	s.push(p, routes[0], 20, "buffered")
	s.push(p, routes[1], 20, "buffered")
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.push(p, routes[0], 3, "queued", "buffered")
	s.arrives(p)
	p.answers("/readyz", 200, `"ready"`)
	p.answers("/health", 200, "")
	sound(t, server.URL("postgres"))
}

func TestABacklogSurvivesKillsOfQueendBeforeAndInTheMiddleOfItsDelivery(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	if code, output := runToEnd(t, []string{"migrate", "apply"}, "DATABASE_URL="+db); code != 0 {
		t.Fatal(output)
	}
	// Windows are bounded by bytes: these are many of them, and slow ones.
	sql(t, db, `CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.05); RETURN NULL; END';
		CREATE TRIGGER slowly AFTER INSERT ON queen.messages FOR EACH STATEMENT EXECUTE FUNCTION slowly()`)
	filling := strings.Repeat("x", 100_000)
	streams := []*stream{newStream(t, "a"), newStream(t, "b")}
	for range 2 {
		p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir, "QUEEND_FILE_BUFFER_SEGMENT_BYTES=1000000")
		p.await("listening")
		for range 50 {
			for i, s := range streams {
				if status := s.try(p, routes[i], filling); status != "buffered" {
					t.Fatal(status)
				}
			}
		}
		p.kill()
	}
	env := []string{"DATABASE_URL=" + db, "FILE_BUFFER_DIR=" + dir, "QUEEND_FILE_BUFFER_SEGMENT_BYTES=1000000"}
	for range 3 {
		before := stored(t, db)
		p := launch(t, env...)
		waitFor(t, "some of it to be stored", func() bool { return stored(t, db) > before || before == 200 })
		p.kill()
	}
	p := start(t, env...)
	for _, s := range streams {
		s.push(p, routes[0], 2, "queued", "buffered")
		s.arrives(p)
	}
	if n := stored(t, db); n != 204 {
		t.Errorf("%d messages are stored instead of 204", n)
	}
	sound(t, db)
}

func TestAStopWithABacklogClosesTheFileInOrder(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir)
	p.await("listening")
	p.buffers(`{"queue":"q","payload":1}`)
	if err := p.stop(); err != nil {
		t.Errorf("the exit status: %v", err)
	}
	isWhole(t, dir, "looked at 1 record in 1 file")
	c := contents(t, dir)
	info, err := os.Stat(filepath.Join(dir, c.Segments[0].Name))
	if err != nil || info.Size() > 4096 || !c.Segments[0].Sealed {
		t.Errorf("%v, %d bytes, %+v", err, info.Size(), c)
	}
}

func TestADirectoryBelongsToOneProcess(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	first := start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir)
	code, output := runToEnd(t, nil, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir, "HOST=127.0.0.1", "PORT=0")
	last := output[strings.LastIndexByte(strings.TrimSpace(output), '\n')+1:]
	if code == 0 || !strings.HasPrefix(last, "queend: ") || !strings.Contains(last, "FILE_BUFFER_DIR") || !strings.Contains(last, strconv.Itoa(first.cmd.Process.Pid)) {
		t.Errorf("a second process: exit %d: %s", code, output)
	}
	next := start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir, "QUEEND_HAND_OVER=true")
	next.await("the file buffer's directory belongs to the queend that is being replaced")
	if status, _, text := next.ask("GET", "/health", ""); status != 200 {
		t.Errorf("until then: %d %s", status, text)
	}
	s := newStream(t, "p")
	s.push(next, routes[0], 3, "queued")
	s.push(next, routes[1], 3, "queued")
	if err := first.stop(); err != nil {
		t.Error(err)
	}
	next.await("the file buffer is ours now")
	if c := contents(t, dir); c.Holder != next.cmd.Process.Pid {
		t.Errorf("%d has it, not %d", c.Holder, next.cmd.Process.Pid)
	}
	s.push(next, routes[0], 3, "queued", "buffered")
	s.push(next, routes[1], 3, "queued", "buffered")
	s.arrives(next)
}

const maintenance = "/api/v1/system/maintenance"

func TestInMaintenanceModeAllProcessesBufferAndNothingIsStoredUntilItIsOver(t *testing.T) {
	t.Parallel()
	server := postgrestest.Own(t, nil)
	db := server.URL("postgres")
	env := [][]string{{"DATABASE_URL=" + db, "FILE_BUFFER_DIR=" + t.TempDir()}, {"DATABASE_URL=" + db, "FILE_BUFFER_DIR=" + t.TempDir()}}
	ps := []*process{start(t, env[0]...), start(t, env[1]...)}
	streams := []*stream{newStream(t, "a"), newStream(t, "b")}
	for i, s := range streams {
		s.push(ps[i], routes[0], 3, "queued", "buffered")
		ps[i].delivers()
	}
	status, _, text := ps[0].ask("POST", maintenance, `{"enabled":true}`)
	if status != 200 || text != `{"bufferHealthy":true,"bufferedMessages":0,"maintenanceMode":true,"message":"Maintenance mode ENABLED. All PUSHes routing to file buffer."}` {
		t.Errorf("switched on: %d %s", status, text)
	}
	streams[0].push(ps[0], routes[0], 1, "buffered") // at once
	waitFor(t, "the other process to buffer", func() bool { return streams[1].try(ps[1], routes[0], "") == "buffered" })
	then := stored(t, db)
	buffer := func(when string) {
		t.Helper()
		for i, s := range streams {
			s.push(ps[i], routes[0], 5, "buffered")
			s.push(ps[i], routes[1], 5, "buffered")
			if status, _, text := ps[i].ask("GET", maintenance, ""); status != 200 || !strings.Contains(text, `"maintenanceMode":true`) {
				t.Errorf("%s: %d %s", when, status, text)
			}
		}
		if n := stored(t, db); n != then {
			t.Errorf("%s: %d messages are stored instead of %d", when, n, then)
		}
	}
	buffer("switched on")
	if status, _, text := ps[1].ask("POST", "/api/v1/transaction", `{"operations":[{"type":"push","items":[{"queue":"other","payload":1}]}]}`); status != 200 || !strings.Contains(text, `"success":true`) {
		t.Errorf("a transaction: %d %s", status, text)
	}
	if then++; stored(t, db) != then {
		t.Error("a transaction is not stored")
	}

	ps[0].kill()
	if err := ps[1].stop(); err != nil {
		t.Error(err)
	}
	ps = []*process{start(t, env[0]...), start(t, env[1]...)}
	buffer("after a restart")

	if err := server.Stop(); err != nil {
		t.Fatal(err)
	}
	status, header, text := ps[0].ask("POST", maintenance, `{"enabled":false}`)
	if status != 503 || header.Get("Retry-After") == "" {
		t.Errorf("without PostgreSQL: %d %v %s", status, header, text)
	}
	if err := server.Restart(t.Context()); err != nil {
		t.Fatal(err)
	}
	for _, p := range ps {
		p.answers("/health", 200, `"healthy"`)
		p.answers("/readyz", 200, `"buffering"`)
	}
	buffer("after a change that was refused")

	status, _, text = ps[1].ask("POST", maintenance, `{"enabled":false}`)
	if status != 200 || !strings.Contains(text, `"maintenanceMode":false,"message":"Maintenance mode DISABLED. Background processor will drain buffer to DB."`) {
		t.Errorf("switched off: %d %s", status, text)
	}
	for i, s := range streams {
		s.push(ps[i], routes[0], 3, "queued", "buffered")
		s.arrives(ps[i])
	}
	sound(t, db)
}

func TestWhatIsBufferedIsUnreadableOnDiskWithAKeyAndStoredAsItsQueueSays(t *testing.T) {
	t.Parallel()
	const key = "000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f"
	dir, db := t.TempDir(), postgrestest.Database(t)
	before := start(t, "DATABASE_URL="+db, "QUEEN_ENCRYPTION_KEY="+key)
	if status, _, text := before.ask("POST", "/api/v1/configure", `{"queue":"sealed","options":{"encryptionEnabled":true}}`); status >= 300 {
		t.Fatal(text)
	}
	if err := before.stop(); err != nil {
		t.Error(err)
	}
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir, "QUEEN_ENCRYPTION_KEY="+key)
	p.await("listening")
	p.buffers(`{"queue":"sealed","payload":{"secret":"swordfish"}},{"queue":"plain","payload":{"secret":"swordfish"}}`)
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	if file := holds(t, dir, "swordfish"); file != "" {
		t.Errorf("%s holds the plaintext", file)
	}
	for _, m := range exported(t, dir, nil) {
		if !m.Encrypted || bytes.Contains(m.Payload, []byte("swordfish")) || !bytes.Contains(m.Payload, []byte(`"authTag"`)) {
			t.Errorf("exported without the key: %+v", m)
		}
	}
	for _, m := range exported(t, dir, nil, "QUEEN_ENCRYPTION_KEY="+key) {
		if m.Encrypted || string(m.Payload) != `{"secret":"swordfish"}` {
			t.Errorf("exported with the key: %+v, %s", m, m.Payload)
		}
	}
	p = start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir, "QUEEN_ENCRYPTION_KEY="+key)
	p.delivers()
	payload := func(queue string) string {
		return query[string](t, db, `SELECT m.payload::text || ' ' || m.is_encrypted FROM queen.messages m
			JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = $1`, queue)
	}
	if got := payload("plain"); got != `{"secret":"swordfish"} false` {
		t.Errorf("without encryption %s is stored", got)
	}
	envelope, encrypted, _ := strings.Cut(payload("sealed"), " ")
	sealer, err := queue.NewSealer(key)
	if err != nil {
		t.Fatal(err)
	}
	if plain, ok := sealer.Open(nil, []byte(envelope)); !ok || string(plain) != `{"secret":"swordfish"}` || encrypted != "true" {
		t.Errorf("with encryption %s %s is stored, in it %s", envelope, encrypted, plain)
	}
	for _, queue := range []string{"sealed", "plain"} {
		if got := p.pop("/queue/" + queue); len(got.Messages) != 1 || string(got.Messages[0].Data) != `{"secret":"swordfish"}` {
			t.Errorf("popped: %s", got.text)
		}
	}
}

func TestWhatIsBufferedWithAKeyWaitsForAProcessThatHasIt(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	key := "QUEEN_ENCRYPTION_KEY=" + strings.Repeat("0a", 32)
	other := "QUEEN_ENCRYPTION_KEY=" + strings.Repeat("0b", 32)
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir, key)
	p.await("listening")
	s := newStream(t, "p")
	s.push(p, routes[0], 3, "buffered")
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	for i, env := range []string{"QUEEN_ENCRYPTION_KEY=", other} {
		p = start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir, env)
		p.await("start with the QUEEN_ENCRYPTION_KEY that it was buffered with")
		p.answers("/api/v1/status/buffers", 200, `"keyMissing":true`)
		p.answers("/metrics/prometheus", 200, "\nqueend_buffer_key_missing 1\n")
		if _, _, text := p.ask("GET", "/api/v1/status/buffers", ""); !strings.Contains(text, `"failed":0,"pending":3,`) {
			t.Errorf("status/buffers: %s", text)
		}
		p.pushes(routes[0], `{"queue":"other"}`, "queued")
		if n := stored(t, db); n != i+1 {
			t.Errorf("%d messages are stored, not %d", n, i+1)
		}
		if all := strings.ToLower(p.text()); strings.Contains(all, "0a0a0a0a") || strings.Contains(all, "0b0b0b0b") {
			t.Error("a key is in the log")
		}
		if err := p.stop(); err != nil {
			t.Error(err)
		}
		if c := contents(t, dir); c.Messages != 3 || c.Encrypted != 3 || c.Poison.Messages != 0 {
			t.Errorf("on disk: %+v", c)
		}
		isWhole(t, dir, "")
		if _, out, _ := bufferDoes(t, dir, []string{"ls"}, env); !strings.Contains(out, "encrypted: 3 messages; ") {
			t.Error(out)
		}
		for n, m := range exported(t, dir, nil, env) {
			if !m.Encrypted || m.TransactionID != s.ids[n] {
				t.Errorf("exported with %s: %+v", env, m)
			}
		}
	}
	p = start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir, key)
	s.arrives(p)
	p.answers("/metrics/prometheus", 200, "\nqueend_buffer_key_missing 0\n")
	sound(t, db)
}

// holds is the name of a file in a directory that holds a text.
func holds(t *testing.T, dir, text string) (found string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		all, err := os.ReadFile(path)
		if bytes.Contains(all, []byte(text)) {
			found = path
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestAFullBufferRefusesAndKeepsWhatItHas(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	small := []string{"FILE_BUFFER_DIR=" + dir, "FILE_BUFFER_MAX_BYTES=131072", "QUEEND_FILE_BUFFER_SEGMENT_BYTES=16384"}
	p := launch(t, append(small, nowhere)...)
	p.await("listening")
	s := newStream(t, "p")
	filling := strings.Repeat("x", 4000)
	full := ""
	for full == "" {
		if status := s.try(p, routes[0], filling); status != "buffered" {
			full = status
		}
		if len(s.ids) > 100 {
			t.Fatal("it is never full")
		}
	}
	status, header, text := p.ask("POST", routes[0], fmt.Sprintf(`{"items":[{"queue":"q","partition":"p","payload":%q}]}`, filling))
	if status != 503 || header.Get("Retry-After") == "" || !strings.HasPrefix(full, "503 ") || len(s.ids) < 10 {
		t.Errorf("after %d messages: %s, %d %v %s", len(s.ids), full, status, header, text)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	p = start(t, append(small, "DATABASE_URL="+db)...)
	s.arrives(p)
	sound(t, db)
}

func TestAMessageThatPostgreSQLRefusesIsSetAsideAndHoldsUpNobody(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	if code, output := runToEnd(t, []string{"migrate", "apply"}, "DATABASE_URL="+db); code != 0 {
		t.Fatal(output)
	}
	sql(t, db, `CREATE FUNCTION says_no() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN IF NEW.payload::text LIKE ''%swordfish%'' THEN RAISE EXCEPTION ''no fish here''; END IF; RETURN NEW; END';
		CREATE TRIGGER says_no BEFORE INSERT ON queen.messages FOR EACH ROW EXECUTE FUNCTION says_no()`)
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir)
	p.await("listening")
	streams := []*stream{newStream(t, "a"), newStream(t, "b")}
	var bad []string
	for i := range 30 {
		for _, s := range streams {
			s.push(p, routes[0], 1, "buffered")
		}
		if i == 11 {
			bad = p.buffers(`{"queue":"q","partition":"a","payload":"swordfish"}`)
		}
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	p = start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir)
	for _, s := range streams {
		s.arrives(p)
	}
	if _, _, text := p.ask("GET", "/api/v1/status/buffers", ""); !strings.HasPrefix(text, `{"dbHealthy":true,"failed":1,"pending":0,"worker":0,`) || !strings.Contains(text, `"drainedTotal":60,`) {
		t.Errorf("status/buffers: %s", text)
	}
	if n := stored(t, db); n != 60 {
		t.Errorf("%d messages are stored instead of 60", n)
	}
	if c := contents(t, dir); c.Poison.Messages != 1 || !strings.Contains(c.Poison.Reason, "no fish here") {
		t.Errorf("%+v", c.Poison)
	}
	if all := exported(t, dir, []string{"--poison"}); len(all) != 1 || all[0].TransactionID != bad[0] || all[0].Queue != "q" || all[0].Partition != "a" || string(all[0].Payload) != `"swordfish"` || !strings.Contains(all[0].Reason, "no fish here") {
		t.Errorf("%+v", all)
	}
	if _, out, _ := bufferDoes(t, dir, []string{"ls"}); !strings.Contains(out, "poison.jsonl: 1 message that PostgreSQL has refused") || !strings.Contains(out, "no fish here") {
		t.Error(out)
	}
	sound(t, db)
}

func TestWhatQueenHasLeftInItsBufferIsDelivered(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	s := newStream(t, "p")
	leave := func(name string, n int, end string) {
		t.Helper()
		var file []byte
		for range n {
			id := fmt.Sprintf("queens-%d", len(s.ids))
			event := fmt.Sprintf(`{"failover":true,"partition":"p","payload":{"n":%d},"queue":"q","transactionId":%q}`, len(s.ids), id)
			file = append(endian.NativeEndian.AppendUint32(file, uint32(len(event))), event...)
			s.ids = append(s.ids, id)
		}
		path := filepath.Join(dir, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, append(file, end...), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	leave("failed/failover_0190a1b2-0000-7000-8000-000000000001.buf", 3, "")
	leave("failover_0190a1b2-0001-7000-8000-000000000001.buf", 20, "")
	leave("failover_0190a1b2-0002-7000-8000-000000000001.buf.tmp", 2, "\x40\x00\x00\x00{\"part") // it was killed
	if c := contents(t, dir); len(c.Queens) != 3 {
		t.Errorf("before: %+v", c)
	}
	p := start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir)
	s.arrives(p)
	if c := contents(t, dir); len(c.Taken) != 3 || len(c.Queens) != 0 {
		t.Errorf("after: %+v", c)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	p = start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir)
	p.delivers()
	if n := stored(t, db); n != 25 {
		t.Errorf("%d messages are stored instead of 25", n)
	}
}

func TestASegmentOfALaterVersionIsRefusedAndKept(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "00000000000000000001.queend")
	if err := os.WriteFile(path, segmentOfVersion(2), 0o600); err != nil {
		t.Fatal(err)
	}
	code, output := runToEnd(t, nil, nowhere, "FILE_BUFFER_DIR="+dir, "HOST=127.0.0.1", "PORT=0")
	if code == 0 || !strings.Contains(output, "has version 2 of the format") {
		t.Errorf("exit %d: %s", code, output)
	}
	if text, err := os.ReadFile(path); err != nil || !bytes.Equal(text, segmentOfVersion(2)) {
		t.Errorf("%v, %q", err, text)
	}
}

// queensFile is a file as Queen's server writes it.
func queensFile(t *testing.T, path string, events ...string) {
	t.Helper()
	var file []byte
	for _, e := range events {
		file = append(endian.NativeEndian.AppendUint32(file, uint32(len(e))), e...)
	}
	if err := os.WriteFile(path, file, 0o644); err != nil {
		t.Fatal(err)
	}
}

func queensEvent(n int) string {
	return fmt.Sprintf(`{"failover":true,"partition":"p","payload":{"n":%d},"queue":"q","transactionId":"queens-%d"}`, n, n)
}

// Who started queend beside Queen's server, which has the port, is told so; and Queen goes
// on with its files.
func TestAStartThatDoesNotGetThePortLeavesQueensFilesAlone(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	queen, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer queen.Close()
	names := []string{"failover_0190a1b2-0001-7000-8000-000000000001.buf", "failover_0190a1b2-0002-7000-8000-000000000001.buf.tmp"}
	for i, name := range names {
		queensFile(t, filepath.Join(dir, name), queensEvent(i))
	}
	_, port, _ := net.SplitHostPort(queen.Addr().String())
	code, output := runToEnd(t, nil, nowhere, "FILE_BUFFER_DIR="+dir, "HOST=127.0.0.1", "PORT="+port)
	if code != 1 || !strings.Contains(output, "another process listens there") {
		t.Errorf("exit %d: %s", code, output)
	}
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 2 || entries[0].Name() != names[0] || entries[1].Name() != names[1] {
		t.Errorf("then there are: %v %v", entries, err)
	}
}

func TestQueensFilesBeyondTheBoundOfTheBufferAreDelivered(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	s := newStream(t, "p")
	var events []string
	for n := range 2000 {
		events, s.ids = append(events, queensEvent(n)), append(s.ids, fmt.Sprintf("queens-%d", n))
	}
	queensFile(t, filepath.Join(dir, "failover_0190a1b2-0001-7000-8000-000000000001.buf"), events...)
	p := start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir, "FILE_BUFFER_MAX_BYTES=131072", "QUEEND_FILE_BUFFER_SEGMENT_BYTES=16384")
	if text := get(t, p.url("/metrics/prometheus")); !strings.Contains(text, "\nqueend_buffer_bytes_max 131072\n") {
		t.Error("the bound of the buffer is not among the metrics")
	}
	s.arrives(p)
	sound(t, db)
}

// What cannot be read is set aside record by record, each of them synced: that takes a while.
func TestAStopIsHeardWhileQueensFilesAreTaken(t *testing.T) {
	t.Parallel()
	dir, db := t.TempDir(), postgrestest.Database(t)
	s := newStream(t, "p")
	s.ids = []string{"queens-0"}
	queensFile(t, filepath.Join(dir, "failover_0190a1b2-0001-7000-8000-000000000001.buf"), queensEvent(0))
	long := filepath.Join(dir, "failover_0190a1b2-0002-7000-8000-000000000001.buf")
	queensFile(t, long, slices.Repeat([]string{"no message"}, 100_000)...)
	p := launch(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir)
	p.await("it is set aside")
	began := time.Now()
	if err := p.stop(); err != nil {
		t.Errorf("it ends with %v", err)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("it ends after %s", took)
	}
	p.await("it goes on at the next start")
	if _, err := os.Stat(long); err != nil {
		t.Error(err)
	}
	if err := os.Remove(long); err != nil {
		t.Fatal(err)
	}
	s.arrives(start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir))
	sound(t, db)
}
