package main

import (
	"bytes"
	endian "encoding/binary"
	"encoding/json"
	"fmt"
	"hash/crc32"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/queend/queend/pkg/filebuffer"
	"github.com/queend/queend/pkg/postgres/postgrestest"
)

// nowhere is where no PostgreSQL is.
const nowhere = "DATABASE_URL=host=127.0.0.1 port=1"

// buffers pushes the items and wants each to be written to disk.
func (p *process) buffers(items string) (ids []string) {
	p.t.Helper()
	return p.pushes(routes[0], items, "buffered")
}

// pushes pushes the items and wants this status for each.
func (p *process) pushes(route, items, want string) (ids []string) {
	p.t.Helper()
	status, got, text := p.push(route, `{"items":[`+items+`]}`)
	if status != 201 || len(got) == 0 {
		p.t.Fatalf("%s %s: %d %s", route, items, status, text)
	}
	for _, it := range got {
		if it.Status != want || it.TransactionID == "" {
			p.t.Fatalf("%s %s: not %s: %s", route, items, want, text)
		}
		ids = append(ids, it.TransactionID)
	}
	return ids
}

// kill ends the process as a crash would.
func (p *process) kill() {
	p.t.Helper()
	if err := p.cmd.Process.Kill(); err != nil {
		p.t.Fatal(err)
	}
	<-p.done
}

// bufferDoes runs queend buffer … on a directory.
func bufferDoes(t *testing.T, dir string, args []string, env ...string) (code int, out, says string) {
	t.Helper()
	cmd := exec.Command(binary, append([]string{"buffer"}, args...)...)
	cmd.Env = append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "FILE_BUFFER_DIR=" + dir}, env...)
	var o, s strings.Builder
	cmd.Stdout, cmd.Stderr = &o, &s
	_ = cmd.Run()
	return cmd.ProcessState.ExitCode(), o.String(), s.String()
}

// contents is what queend buffer ls --json says of a directory.
func contents(t *testing.T, dir string) (c filebuffer.Contents) {
	t.Helper()
	code, out, says := bufferDoes(t, dir, []string{"ls", "--json"})
	if err := json.Unmarshal([]byte(out), &c); code != 0 || err != nil {
		t.Fatalf("exit %d, %v: %s%s", code, err, out, says)
	}
	return c
}

// isWhole asserts that queend buffer verify finds nothing, and that its report holds this.
func isWhole(t *testing.T, dir, part string) {
	t.Helper()
	code, out, says := bufferDoes(t, dir, []string{"verify"})
	if code != 0 || says != "" || !strings.Contains(out, "all is as it was written") || !strings.Contains(out, part) {
		t.Errorf("verify: exit %d: %s%s", code, out, says)
	}
}

// exported are the messages that queend buffer export prints.
func exported(t *testing.T, dir string, args []string, env ...string) (all []filebuffer.Message) {
	t.Helper()
	code, out, says := bufferDoes(t, dir, append([]string{"export"}, args...), env...)
	if code != 0 {
		t.Fatalf("export: exit %d: %s", code, says)
	}
	for line := range strings.Lines(out) {
		var m filebuffer.Message
		if err := json.Unmarshal([]byte(line), &m); err != nil {
			t.Fatalf("%v: %s", err, line)
		}
		all = append(all, m)
	}
	return all
}

func TestTheBufferCanBeLookedAtWhileAServerHasItAndWhenItIsDown(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir)
	p.await("listening")
	p.buffers(`{"queue":"a","partition":"1","payload":{"n":1},"transactionId":"t1","traceId":"0190a1b2-0000-7000-8000-000000000001"},{"queue":"a","partition":"2","payload":"zwei\n"}`)
	p.buffers(`{"queue":"b","payload":null}`)

	look := func(state, note string) {
		t.Helper()
		code, out, says := bufferDoes(t, dir, []string{"ls", "--queues"})
		if code != 0 || says != "" || !strings.HasPrefix(out, dir+": 3 messages wait, "+state) {
			t.Errorf("ls: exit %d: %s%s", code, out, says)
		}
		rows := strings.Join(strings.Fields(out), " ")
		for _, part := range []string{"00000000000000000001.queend ", "QUEUE MESSAGES PARTITIONS a 2 2 b 1 1"} {
			if !strings.Contains(rows, part) {
				t.Errorf("%s is not in\n%s", part, out)
			}
		}
		isWhole(t, dir, note)
		if all := exported(t, dir, nil); len(all) != 3 || string(all[0].Payload) != `{"n":1}` || string(all[1].Payload) != `"zwei\n"` || string(all[2].Payload) != "null" {
			t.Errorf("export: %+v", all)
		} else if m := all[0]; m.Queue != "a" || m.Partition != "1" || m.TransactionID != "t1" || m.TraceID != "0190a1b2-0000-7000-8000-000000000001" || m.MessageID == "" || m.Time.IsZero() || m.Encrypted {
			t.Errorf("the first: %+v", m)
		}
	}
	look(fmt.Sprintf("a server has the directory (process %d)", p.cmd.Process.Pid), "note: a server is writing here (process ")
	if c := contents(t, dir); c.Holder != p.cmd.Process.Pid || c.Messages != 3 || len(c.Segments) != 1 || c.Segments[0].Records != 2 || c.Segments[0].Messages != 3 || c.Segments[0].Sealed || len(c.Queues) != 2 {
		t.Errorf("%+v", c)
	}
	if err := p.stop(); err != nil {
		t.Error(err)
	}
	look("no server has the directory", "looked at 2 records in 1 file of ")
	if c := contents(t, dir); c.Holder != 0 || !c.Segments[0].Sealed || c.Segments[0].TornTail != 0 {
		t.Errorf("when it was stopped: %+v", c)
	}
	if all := exported(t, dir, []string{"--queue=b"}); len(all) != 1 || all[0].Queue != "b" || all[0].Partition != "Default" {
		t.Errorf("of one queue: %+v", all)
	}
	file := filepath.Join(t.TempDir(), "out.jsonl")
	if all := exported(t, dir, []string{"--output=" + file}); len(all) != 0 {
		t.Errorf("on stdout: %+v", all)
	}
	info, err := os.Stat(file)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info, err)
	}
	if text, _ := os.ReadFile(file); bytes.Count(text, []byte("\n")) != 3 {
		t.Errorf("in the file: %s", text)
	}
	if code, _, says := bufferDoes(t, dir, []string{"export", "--output=" + file}); code != 1 || !strings.Contains(says, "is there already") {
		t.Errorf("again: exit %d: %s", code, says)
	}
}

func TestWhatIsExportedCanBePushedAgainByAShell(t *testing.T) {
	if _, err := exec.LookPath("curl"); err != nil {
		t.Skip("there is no curl here")
	}
	dir, db := t.TempDir(), postgrestest.Database(t)
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir)
	p.await("listening")
	for i := range 3 {
		p.buffers(fmt.Sprintf(`{"queue":"q","partition":"p","payload":{"n":"%d \\ '"}}`, i))
	}
	p.kill()
	_, out, _ := bufferDoes(t, dir, []string{"export"})
	other := start(t, "DATABASE_URL="+db)
	_, manual, _ := bufferDoes(t, dir, []string{"export", "--help"})
	_, script, _ := strings.Cut(manual, "while IFS")
	script, _, _ = strings.Cut(script, "< FILE")
	script = "while IFS" + strings.ReplaceAll(script, "127.0.0.1:6632", other.address)
	for range 2 { // the second time they are there already
		shell := exec.Command("sh", "-c", script)
		shell.Stdin = strings.NewReader(out)
		if text, err := shell.CombinedOutput(); err != nil {
			t.Fatalf("%v: %s\n%s", err, text, script)
		}
	}
	got := other.pop("/queue/q?batch=10&autoAck=true")
	if len(got.Messages) != 3 {
		t.Fatal(got.text)
	}
	for i, m := range got.Messages {
		if want := fmt.Sprintf(`{"n":"%d \\ '"}`, i); string(m.Data) != want {
			t.Errorf("%s instead of %s", m.Data, want)
		}
	}
}

func TestVerifyFindsDamageAndSaysWhereItIs(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir)
	p.await("listening")
	for i := range 3 {
		p.buffers(fmt.Sprintf(`{"queue":"q","payload":"message %d"}`, i))
	}
	p.kill()
	isWhole(t, dir, "was not closed in order")
	segment := filepath.Join(dir, contents(t, dir).Segments[0].Name)
	text, err := os.ReadFile(segment)
	if err != nil {
		t.Fatal(err)
	}
	text[bytes.Index(text, []byte("message 1"))] ^= 1
	if err := os.WriteFile(segment, text, 0o600); err != nil {
		t.Fatal(err)
	}
	code, out, says := bufferDoes(t, dir, []string{"verify"})
	if code != 1 || !strings.Contains(out, filepath.Base(segment)+": ") || !strings.Contains(out, "are not what was written; 1 record in them\n") || !strings.Contains(out, ": 1 damaged place\n") || !strings.Contains(says, "the file buffer is damaged") {
		t.Errorf("exit %d: %s%s", code, out, says)
	}
	if _, out, _ := bufferDoes(t, dir, []string{"ls"}); !strings.Contains(out, "DAMAGED, see queend buffer verify") {
		t.Error(out)
	}
	code, out, says = bufferDoes(t, dir, []string{"export"})
	if code != 0 || strings.Count(out, "\n") != 2 || !strings.Contains(says, "1 record lost by damage") {
		t.Errorf("export: exit %d: %s%s", code, out, says)
	}
}

// An operator may delete a buffer of which ls says that nothing waits.
func TestABufferThatCannotBeReadIsNotSaidToBeEmpty(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir, "QUEEND_FILE_BUFFER_SEGMENT_BYTES=65536")
	p.await("listening")
	for range 4 {
		p.buffers(`{"queue":"q","payload":"` + strings.Repeat("x", 40_000) + `"}`)
	}
	p.kill()
	// The kernel gives nothing of this file's beginning, as of a bad sector.
	bad := contents(t, dir).Segments[1].Name
	if err := os.Remove(filepath.Join(dir, bad)); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("/proc/self/mem", filepath.Join(dir, bad)); err != nil {
		t.Fatal(err)
	}
	f := func(part string, args ...string) string {
		t.Helper()
		code, out, says := bufferDoes(t, dir, args)
		if code != 1 || !strings.Contains(says, bad) || !strings.Contains(says, "input/output error") || !strings.Contains(out, part) {
			t.Errorf("%v: exit %d: %s%s", args, code, out, says)
		}
		return out
	}
	f(dir+": at least 3 messages wait", "ls")
	f(`"error": "`, "ls", "--json")
	if out := f(`"queue":"q"`, "export"); strings.Count(out, "\n") != 3 {
		t.Errorf("export: %s", out)
	}
	if code, out, _ := bufferDoes(t, dir, []string{"verify"}); code != 1 || !strings.Contains(out, bad+": cannot be read: ") {
		t.Errorf("verify: exit %d: %s", code, out)
	}
}

func TestVerifyRaisesNoFalseAlarmWhileAServerWritesAndDelivers(t *testing.T) {
	dir, db := t.TempDir(), postgrestest.Database(t)
	if code, output := runToEnd(t, []string{"migrate", "apply"}, "DATABASE_URL="+db); code != 0 {
		t.Fatal(output)
	}
	sql(t, db, `CREATE FUNCTION slowly() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.02); RETURN NULL; END';
		CREATE TRIGGER slowly AFTER INSERT ON queen.messages FOR EACH STATEMENT EXECUTE FUNCTION slowly()`)
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir, "QUEEND_FILE_BUFFER_SEGMENT_BYTES=1000000")
	p.await("listening")
	filling := strings.Repeat("x", 50_000)
	done := make(chan *stream, 1)
	go func() {
		s := newStream(t, "p")
		defer func() { done <- s }()
		for range 300 {
			s.try(p, routes[0], filling)
		}
	}()
	var s *stream
	for s == nil {
		select {
		case s = <-done:
		default:
			isWhole(t, dir, "")
		}
	}
	p.kill()
	p = start(t, "DATABASE_URL="+db, "FILE_BUFFER_DIR="+dir, "QUEEND_FILE_BUFFER_SEGMENT_BYTES=1000000")
	for left := 1; left > 0; left = contents(t, dir).Messages {
		isWhole(t, dir, "")
	}
	s.arrives(p)
	if len(s.ids) != 300 {
		t.Errorf("only %d were buffered", len(s.ids))
	}
}

// A crash in the middle of a line leaves it without an end.
func TestTheLinesOfThePoisonFileAreFoundBehindATornOne(t *testing.T) {
	dir := t.TempDir()
	line := func(id string) string {
		return `{"time":"2026-01-02T03:04:05Z","reason":"no","queue":"q","partition":"p","transactionId":"` + id + `","payload":{"n":1}}` + "\n"
	}
	if err := os.WriteFile(filepath.Join(dir, filebuffer.PoisonFile), []byte(line("a")+line("torn")[:60]+line("b")+line("c")[:70]), 0o600); err != nil {
		t.Fatal(err)
	}
	all := exported(t, dir, []string{"--poison"})
	if len(all) != 2 || all[0].TransactionID != "a" || all[1].TransactionID != "b" {
		t.Errorf("%+v", all)
	}
	isWhole(t, dir, "note: 2 lines of poison.jsonl cannot be read")
}

func TestTheBufferCommandsSayInSentencesWhatIsWrong(t *testing.T) {
	dir := t.TempDir()
	f := func(code int, sentence, dir string, args ...string) {
		t.Helper()
		if got, out, says := bufferDoes(t, dir, args); got != code || out != "" || !strings.Contains(says, sentence) {
			t.Errorf("%v: exit %d: %s%s", args, got, out, says)
		}
	}
	f(1, "nothing was ever buffered there", filepath.Join(dir, "none"), "ls")
	f(2, "nothing was ever buffered there", filepath.Join(dir, "none"), "verify")
	f(1, "64 hexadecimal digits", dir, "export", "--encryption-key=abc")
	f(1, "unknown flag", dir, "ls", "--nothing")
	f(2, "unknown flag", dir, "verify", "--nothing")
	if err := os.WriteFile(filepath.Join(dir, "00000000000000000001.queend"), segmentOfVersion(2), 0o600); err != nil {
		t.Fatal(err)
	}
	f(1, "version 2", dir, "ls")
	f(2, "version 2", dir, "verify")
	f(1, "version 2", dir, "export")
}

// segmentOfVersion is the head of a segment that begins with record 1.
func segmentOfVersion(version uint32) []byte {
	head := make([]byte, 32)
	copy(head, "queend\r\n")
	endian.LittleEndian.PutUint32(head[8:], version)
	endian.LittleEndian.PutUint64(head[16:], 1)
	endian.LittleEndian.PutUint32(head[28:], crc32.Checksum(head[:28], crc32.MakeTable(crc32.Castagnoli)))
	return head
}

func TestTheBufferCommandsHaveAManual(t *testing.T) {
	for _, args := range [][]string{{"--help"}, {"ls", "--help"}, {"verify", "--help"}, {"export", "--help"}} {
		if code, out, _ := bufferDoes(t, t.TempDir(), args); code != 0 || len(out) < 500 {
			t.Errorf("%v: exit %d: %s", args, code, out)
		}
	}
}

// A reader that goes away in the middle is no reason for a stack trace.
func TestAnExportThatNobodyReadsEndsWithASentence(t *testing.T) {
	dir := t.TempDir()
	p := launch(t, nowhere, "FILE_BUFFER_DIR="+dir)
	p.await("listening")
	p.buffers(`{"queue":"q"}`)
	full, err := os.OpenFile("/dev/full", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer full.Close()
	cmd := exec.Command(binary, "buffer", "export", "--dir", dir)
	cmd.Env = []string{"HOME=" + dir}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	var says strings.Builder
	cmd.Stdout, cmd.Stderr = full, &says
	if err := cmd.Run(); err == nil || !strings.Contains(says.String(), "what was exported is not all that there is") || strings.Contains(says.String(), "goroutine") {
		t.Errorf("%v: %s", err, says.String())
	}
}
