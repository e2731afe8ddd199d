package main

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"text/tabwriter"
	"time"

	"github.com/queend/queend/pkg/filebuffer"
	"github.com/queend/queend/pkg/queue"
)

// BufferCommand is `queend buffer ls|verify|export`.
type BufferCommand struct {
	Ls     BufferList   `cmd:"" help:"Say what waits on disk, what was set aside and what was taken over."`
	Verify BufferVerify `cmd:"" help:"Read every record and check it; exit 1 when something is damaged."`
	Export BufferExport `cmd:"" help:"Print the messages that wait, a JSON object a line."`
}

// BufferPlace says which directory is meant.
type BufferPlace struct {
	Dir   string `name:"dir" env:"FILE_BUFFER_DIR" placeholder:"DIR" help:"The buffer's directory (default: the one that queend would use with this environment)."`
	Local Bool   `name:"local-postgres" env:"QUEEND_LOCAL_POSTGRES" default:"false" hidden:""`
	Data  string `name:"data-dir" env:"QUEEND_DATA_DIR" hidden:""`
}

// BufferList is `queend buffer ls`.
type BufferList struct {
	JSON        Bool `name:"json" default:"false" help:"Print all of it as one JSON object."`
	Queues      Bool `name:"queues" default:"false" help:"Count the messages of each queue, too."`
	BufferPlace `embed:""`
}

// BufferVerify is `queend buffer verify`.
type BufferVerify struct {
	BufferPlace `embed:""`
}

// BufferExport is `queend buffer export`.
type BufferExport struct {
	Output      string `name:"output" short:"o" placeholder:"FILE" help:"Write to this file (mode 0600), which must not be there yet, instead of stdout."`
	Queue       string `name:"queue" placeholder:"QUEUE" help:"Only messages for this queue."`
	Poison      Bool   `name:"poison" default:"false" help:"Also what PostgreSQL has refused (poison.jsonl), first, and records that make no sense; such lines have a reason."`
	Key         string `name:"encryption-key" env:"QUEEN_ENCRYPTION_KEY" placeholder:"HEX" help:"Opens encrypted payloads: 64 hexadecimal digits. Prefer the environment."`
	BufferPlace `embed:""`
}

const bufferManual = `The file buffer is a directory in which pushes wait while PostgreSQL is away, or in maintenance mode. These commands read it and change nothing; they can be run while a server has it, and while none does. A service keeps its buffer in its state directory: --dir /var/lib/queend/buffers, as root.

To back it up while queend is down copy the whole directory. Never copy it back while a queend runs on it, and never give one directory to two.`

// Help is the manual of the three.
func (BufferCommand) Help() string { return bufferManual }

// Help is the manual of ls.
func (BufferList) Help() string {
	return `A line for each file of records: its size, the records in it, how many of them are delivered already (the file goes when all are), the messages in the others, and when its first and its last record were written.

Exit status 1, and a line on stderr, when a file could not be read: what is in it is not counted.

Then how many messages are encrypted on disk: what was buffered with a QUEEN_ENCRYPTION_KEY is delivered only by a server that has the same. To look needs no key.

Then what else is there: poison.jsonl, the messages that PostgreSQL has refused, with their reasons; quarantine/, damaged bytes that were set aside, and whole files that could not be read everywhere; taken/, files of Queen's server that were taken over, which may be deleted.

` + bufferManual
}

// Help is the manual of verify.
func (BufferVerify) Help() string {
	return `Reads all files of records, checks every record's checksum and number, and whether it can be understood. Each damaged place is a line on stdout. Lines that begin with "note:" are no damage: that a server is writing here, so that the end of the newest file is in motion, or that the last one did not end in order, so that its end may be a write that was cut short, of which nothing was answered.

Damage is set aside and the rest delivered when a server meets it; nothing has to be done here first.

Exit status: 0, all is as it was written; 1, something is damaged; 2, it could not check.`
}

// Help is the manual of export.
func (BufferExport) Help() string {
	return `Prints a JSON object a line for each message that waits, in the order of delivery: time, queue, partition, transactionId, messageId, traceId, producerSub, payload. Payloads are encrypted on disk when the server has a key: they are opened when QUEEN_ENCRYPTION_KEY is given here, else they are the envelope, beside "encrypted":true.

What Queen's server has left and is not delivered yet is not among them: ls names its files.

A line is an item of a push, so that this pushes them elsewhere, in order; what is there already is found by its transactionId:

  while IFS= read -r line; do
    printf '{"items":[%s]}' "$line" |
      curl -fsS http://127.0.0.1:6632/api/v1/push -H 'Content-Type: application/json' --data-binary @- || break
  done < FILE

What the disk does not give is passed over; the exit status is 1 then, and the file is named. A server does the same after some tries, and keeps such a file in quarantine/. When the disk gives it again, this exports it: copy it into an empty directory, without the .bad at its name's end, and give that as --dir. What was delivered already is in it too.

A server that has the directory goes on delivering meanwhile: a message that was exported may be delivered as well.

` + bufferManual
}

// Validate is called by kong.
func (e *BufferExport) Validate() error {
	if e.Key != "" && !isKey(e.Key) {
		return errors.New("--encryption-key: 64 hexadecimal digits (32 bytes) are needed")
	}
	return nil
}

// dir is the directory that is meant.
func (p *BufferPlace) dir() (string, error) {
	var s ServeCommand
	s.Buffer.Dir, s.Local.Postgres, s.Local.Dir = p.Dir, p.Local, p.Data
	return s.BufferDir()
}

// describe looks at the directory; its errors are sentences.
func (p *BufferPlace) describe() (*filebuffer.Contents, error) {
	dir, err := p.dir()
	if err != nil {
		return nil, err
	}
	c, err := filebuffer.Describe(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil, fmt.Errorf("there is no directory %s: nothing was ever buffered there; --dir or FILE_BUFFER_DIR name another one", dir)
	case errors.Is(err, fs.ErrPermission):
		return nil, fmt.Errorf("cannot read the file buffer in %s as this user, who must be the server's, or root: %w", dir, err)
	case err != nil:
		return nil, fmt.Errorf("cannot read the file buffer in %s: %w", dir, err)
	}
	return c, nil
}

// listBuffer is `queend buffer ls`.
func listBuffer(l *BufferList, out io.Writer) error {
	c, err := l.describe()
	if err != nil {
		return err
	}
	b := bufio.NewWriter(out)
	if l.JSON {
		encoder := json.NewEncoder(b)
		encoder.SetIndent("", "  ")
		encoder.SetEscapeHTML(false)
		err = encoder.Encode(c)
	} else {
		writeContents(b, c, bool(l.Queues))
	}
	if err := errors.Join(err, b.Flush()); err != nil {
		return fmt.Errorf("cannot print what is there: %w", err)
	}
	if unread := c.Unread(); len(unread) > 0 {
		return fmt.Errorf("%s could not be read, or not all of it; messages may wait in it that are not counted, keep it: %s: %s",
			plural(len(unread), "file"), unread[0].Name, unread[0].Error)
	}
	return nil
}

// writeContents prints what is there, for people.
func writeContents(out io.Writer, c *filebuffer.Contents, queues bool) {
	least := ""
	if len(c.Unread()) > 0 {
		least = "at least "
	}
	fmt.Fprintf(out, "%s: %s%s wait, %s\n", c.Dir, least, plural(c.Messages, "message"), serverHere(c))
	table := tabwriter.NewWriter(out, 0, 0, 2, ' ', 0)
	if len(c.Segments) > 0 {
		fmt.Fprintln(table, "FILE\tBYTES\tRECORDS\tDELIVERED\tMESSAGES\tOLDEST\tNEWEST")
	}
	for _, s := range c.Segments {
		fmt.Fprintf(table, "%s\t%d\t%d\t%d\t%d\t%s\t%s%s\n", s.Name, s.Bytes, s.Records, s.Released, s.Messages, stamp(s.Oldest), stamp(s.Newest), mark(&s))
	}
	_ = table.Flush()
	if queues && len(c.Queues) > 0 {
		fmt.Fprintln(table, "QUEUE\tMESSAGES\tPARTITIONS")
		for _, q := range c.Queues {
			fmt.Fprintf(table, "%s\t%d\t%d\n", q.Queue, q.Messages, q.Partitions)
		}
		_ = table.Flush()
	}
	if c.Behind > 0 {
		fmt.Fprintf(out, "behind:    %s with messages stayed behind, because another session held them locked in PostgreSQL; what is behind theirs is delivered\n", plural(c.Behind, "partition"))
	}
	if c.Encrypted > 0 {
		fmt.Fprintf(out, "encrypted: %s; what was buffered with a QUEEN_ENCRYPTION_KEY is delivered only by a server that has the same\n", plural(c.Encrypted, "message"))
	}
	if c.Released > 0 {
		fmt.Fprintf(out, "delivered: all records up to number %d\n", c.Released)
	}
	if p := c.Poison; p.Bytes > 0 {
		fmt.Fprintf(out, "%s: %s that PostgreSQL has refused, in %d bytes", filebuffer.PoisonFile, plural(p.Messages, "message"), p.Bytes)
		if p.Last != nil {
			fmt.Fprintf(out, "; the last one, %s: %s", stamp(p.Last), p.Reason)
		}
		fmt.Fprintln(out)
	}
	for _, f := range c.Quarantine {
		if f.Bytes == 0 {
			fmt.Fprintf(out, "quarantine/%s: a place that the disk did not give; its file is kept here when all the rest is delivered\n", f.Name)
			continue
		}
		fmt.Fprintf(out, "quarantine/%s: %d damaged bytes that were set aside\n", f.Name, f.Bytes)
	}
	for _, f := range c.Taken {
		fmt.Fprintf(out, "taken/%s: %d bytes, taken over from Queen's server; may be deleted\n", f.Name, f.Bytes)
	}
	for _, f := range c.Queens {
		fmt.Fprintf(out, "%s: %d bytes of Queen's server, not delivered yet\n", f.Name, f.Bytes)
	}
}

// mark is a last column for a segment of which there is something to see with verify.
func mark(s *filebuffer.Segment) string {
	switch {
	case s.Error != "":
		return "\tcannot be read: " + s.Error
	case len(s.Damaged) > 0 || len(s.Unreadable) > 0:
		return "\tDAMAGED, see queend buffer verify"
	}
	return ""
}

func serverHere(c *filebuffer.Contents) string {
	if c.Holder == 0 {
		return "no server has the directory"
	}
	return fmt.Sprintf("a server has the directory (process %d)", c.Holder)
}

func stamp(at *time.Time) string {
	if at == nil {
		return "-"
	}
	return at.UTC().Format("2006-01-02T15:04:05.000Z")
}

func plural(n int, noun string) string {
	if n == 1 {
		return "1 " + noun
	}
	return fmt.Sprintf("%d %ss", n, noun)
}

// errDamaged ends verify when there is damage.
var errDamaged = errors.New("the file buffer is damaged, see above")

// verifyBuffer is `queend buffer verify`.
func verifyBuffer(v *BufferVerify, out io.Writer) error {
	c, err := v.describe()
	if err != nil {
		return uncheckedError{err}
	}
	b := bufio.NewWriter(out)
	found, records := 0, 0
	for i := range c.Segments {
		found += writeDamage(b, &c.Segments[i])
		records += c.Segments[i].Records
	}
	writeNotes(b, c)
	fmt.Fprintf(b, "looked at %s in %s of %s: ", plural(records, "record"), plural(len(c.Segments), "file"), c.Dir)
	if found == 0 {
		fmt.Fprintln(b, "all is as it was written")
	} else {
		fmt.Fprintln(b, plural(found, "damaged place"))
	}
	if err := b.Flush(); err != nil {
		return uncheckedError{fmt.Errorf("cannot print what was found: %w", err)}
	}
	if found > 0 {
		return errDamaged
	}
	return nil
}

// writeDamage prints what is wrong with a segment, and says how much that is.
func writeDamage(out io.Writer, s *filebuffer.Segment) int {
	for _, r := range s.Damaged {
		fmt.Fprintf(out, "%s: %d bytes at offset %d are not what was written; %s in them\n", s.Name, r.Bytes, r.Offset, plural(int(r.Lost), "record"))
	}
	for _, u := range s.Unreadable {
		fmt.Fprintf(out, "%s: record %d is whole and makes no sense: %s\n", s.Name, u.Record, u.Reason)
	}
	n := len(s.Damaged) + len(s.Unreadable)
	if s.Error != "" {
		fmt.Fprintf(out, "%s: cannot be read: %s\n", s.Name, s.Error)
		n++
	}
	return n
}

// writeNotes prints what is no damage, and yet to be known.
func writeNotes(out io.Writer, c *filebuffer.Contents) {
	if n := len(c.Segments); n > 0 {
		s := &c.Segments[n-1]
		switch {
		case s.Sealed:
		case c.Holder != 0:
			fmt.Fprintf(out, "note: a server is writing here (process %d): the end of %s is in motion\n", c.Holder, s.Name)
		case s.TornTail > 0:
			fmt.Fprintf(out, "note: the last %d bytes of %s are a write that was cut short; nothing of it was answered, and the next start cuts it off\n", s.TornTail, s.Name)
		default:
			fmt.Fprintf(out, "note: %s was not closed in order: its server was killed\n", s.Name)
		}
	}
	if n := len(c.Quarantine); n > 0 {
		fmt.Fprintf(out, "note: %s of damaged bytes that were set aside earlier in quarantine/\n", plural(n, "file"))
	}
	if n := c.Poison.Unreadable; n > 0 {
		fmt.Fprintf(out, "note: %s of %s cannot be read\n", plural(n, "line"), filebuffer.PoisonFile)
	}
}

// exportMessages is `queend buffer export`. What it says beside goes to says.
func exportMessages(e *BufferExport, out, says io.Writer) error {
	c, err := e.describe()
	if err != nil {
		return err
	}
	var sealer *queue.Sealer
	if e.Key != "" {
		if sealer, err = queue.NewSealer(e.Key); err != nil {
			return err
		}
	}
	finish := func() error { return nil }
	if e.Output != "" {
		f, err := os.OpenFile(e.Output, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if errors.Is(err, fs.ErrExist) {
			return fmt.Errorf("%s is there already; give --output another name", e.Output)
		}
		if err != nil {
			return fmt.Errorf("cannot make the file for the messages: %w", err)
		}
		out, finish = f, func() error { return errors.Join(f.Sync(), f.Close()) }
	}
	x := exporter{out: bufio.NewWriterSize(out, 1<<20), queue: e.Queue, poison: bool(e.Poison)}
	if e.Poison {
		err = filebuffer.PoisonedMessages(c.Dir, sealer, x.write)
	}
	if err == nil {
		err = filebuffer.Messages(c.Dir, sealer, x.write)
	}
	if err := errors.Join(err, x.out.Flush(), finish()); err != nil {
		return fmt.Errorf("what was exported is not all that there is: %w", err)
	}
	x.report(says, c)
	return nil
}

// exporter writes messages, and counts them.
type exporter struct {
	out    *bufio.Writer
	queue  string
	poison bool
	line   []byte

	written, sealed, senseless int
}

func (x *exporter) write(m *filebuffer.Message) (err error) {
	if m.Reason != "" && m.Queue == "" {
		x.senseless++
		if !x.poison || x.queue != "" {
			return nil
		}
	} else if x.queue != "" && m.Queue != x.queue {
		return nil
	}
	if x.line, err = m.AppendJSON(x.line[:0]); err != nil {
		return err
	}
	x.written++
	if m.Encrypted {
		x.sealed++
	}
	_, err = x.out.Write(x.line)
	return err
}

// report says what one must know who uses what was exported.
func (x *exporter) report(says io.Writer, c *filebuffer.Contents) {
	fmt.Fprintf(says, "queend: %s exported\n", plural(x.written, "message"))
	if x.sealed > 0 {
		fmt.Fprintf(says, "queend: %s could not be opened, QUEEN_ENCRYPTION_KEY is not given or another one: the payloads are envelopes, not to be pushed as they are\n", plural(x.sealed, "message"))
	}
	if x.senseless > 0 && !x.poison {
		fmt.Fprintf(says, "queend: %s that make no sense are left out, --poison exports them\n", plural(x.senseless, "record"))
	}
	lost := uint64(0)
	for _, s := range c.Segments {
		for _, r := range s.Damaged {
			lost += r.Lost
		}
	}
	if lost > 0 {
		fmt.Fprintf(says, "queend: %s lost by damage, see queend buffer verify\n", plural(int(lost), "record"))
	}
	if c.Holder != 0 && x.written > 0 {
		fmt.Fprintf(says, "queend: a server has the directory (process %d) and delivers what was exported as well\n", c.Holder)
	}
}
