package filebuffer

import (
	"bufio"
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

// This file is the directory as one sees it who does not have it: `queend buffer`. It reads
// only, takes no lock, and may be used while a server writes and delivers.

// Contents is what is in a buffer's directory. Its JSON is what `queend buffer ls --json`
// prints.
type Contents struct {
	Dir       string    `json:"dir"`
	Holder    int       `json:"holder"`    // the process that has the directory, 0: none, as far as can be seen
	Messages  int       `json:"messages"`  // that wait
	Encrypted int       `json:"encrypted"` // of these, those whose payloads are envelopes on disk
	Behind    int       `json:"behind"`    // partitions that were locked in PostgreSQL, and stay behind what is delivered
	Released  uint64    `json:"released"`  // all records up to this one are done
	Segments  []Segment `json:"segments"`  // oldest first

	Queues []QueueContents `json:"queues"` // by name

	Poison     Poison `json:"poison"`
	Quarantine []File `json:"quarantine"` // damaged bytes that were set aside
	Taken      []File `json:"taken"`      // Queen's files that were taken over
	Queens     []File `json:"queens"`     // Queen's files that are to be delivered
}

// Segment is a file of records.
type Segment struct {
	Name     string     `json:"name"`
	Bytes    int64      `json:"bytes"`
	Records  int        `json:"records"`  // that are there, released ones too
	Released int        `json:"released"` // of these, by their numbers
	Messages int        `json:"messages"` // that wait, in all the other records
	Oldest   *time.Time `json:"oldest,omitempty"`
	Newest   *time.Time `json:"newest,omitempty"`
	Sealed   bool       `json:"sealed"` // it was closed in order

	Damaged    []Damage     `json:"damaged,omitempty"`
	TornTail   int64        `json:"tornTail,omitempty"`   // bytes at the end of the newest one that are no record, or no record yet
	Unreadable []Unreadable `json:"unreadable,omitempty"` // records that are whole and make no sense
	Error      string       `json:"error,omitempty"`      // why it could not be read, or not all of it: more may wait in it than was counted

	base, last uint64
	err        error
}

// Damage is a part of a segment that is not what was written.
type Damage struct {
	Offset int64  `json:"offset"`
	Bytes  int64  `json:"bytes"`
	Lost   uint64 `json:"lost"` // records, as far as is known
}

// Unreadable is a record that is whole and makes no sense.
type Unreadable struct {
	Record uint64 `json:"record"`
	Reason string `json:"reason"`
}

// QueueContents is what waits for a queue.
type QueueContents struct {
	Queue      string `json:"queue"`
	Messages   int    `json:"messages"`
	Partitions int    `json:"partitions"`
}

// Poison is the file of messages that PostgreSQL refuses.
type Poison struct {
	Bytes      int64      `json:"bytes"`
	Messages   int        `json:"messages"`
	Unreadable int        `json:"unreadable,omitempty"` // lines
	Last       *time.Time `json:"last,omitempty"`
	Reason     string     `json:"reason,omitempty"` // of the last one
}

// File is some file of the directory.
type File struct {
	Name  string `json:"name"`
	Bytes int64  `json:"bytes"`
}

// Message is a message of the buffer, for people. Its JSON has the fields of an item of a
// push among others, which a push ignores.
type Message struct {
	Time          time.Time       `json:"time"`
	Reason        string          `json:"reason,omitempty"` // why it is in the poison file, or cannot be read
	Queue         string          `json:"queue,omitempty"`
	Partition     string          `json:"partition,omitempty"`
	TransactionID string          `json:"transactionId,omitempty"`
	MessageID     string          `json:"messageId,omitempty"`
	ProducerSub   string          `json:"producerSub,omitempty"`
	TraceID       string          `json:"traceId,omitempty"`
	Encrypted     bool            `json:"encrypted,omitempty"` // the payload is an envelope
	Payload       json.RawMessage `json:"payload,omitempty"`
	Record        []byte          `json:"record,omitempty"` // base64: what is no message, or no JSON
}

// Describe looks at all of a buffer's directory. The error is a *journal.VersionError when
// a newer queend has written to it.
func Describe(dir string) (*Contents, error) {
	c := &Contents{
		Dir: dir, Holder: holder(dir),
		// No list is null in JSON.
		Segments: []Segment{}, Queues: []QueueContents{}, Quarantine: []File{}, Taken: []File{}, Queens: []File{},
	}
	if _, err := os.ReadDir(dir); err != nil {
		return nil, err
	}
	left := peekBehind(dir) // before the segments, which grow
	if err := c.inspect(); err != nil {
		return nil, err
	}
	if len(c.Segments) == 0 || left.through > c.newest().last {
		left = newBehind()
	}
	if c.moving() {
		// What is being written looks like damage, once.
		again := &Contents{Dir: dir}
		if err := again.inspect(); err != nil {
			return nil, err
		}
		c.keepDamage(again)
	}
	if err := c.count(left); err != nil {
		return nil, err
	}
	if err := c.poison(); err != nil {
		return nil, err
	}
	return c, c.files()
}

// inspect looks at the segments.
func (c *Contents) inspect() error {
	err := journal.Inspect(c.Dir, nil, func(info journal.SegmentInfo) {
		s := Segment{
			Name: info.Name, Bytes: info.Bytes, Records: info.Records, Released: info.Done, Sealed: info.Sealed,
			TornTail: info.TornTail, base: info.Base, last: info.Last, err: info.Err,
		}
		for _, r := range info.Damaged {
			s.Damaged = append(s.Damaged, Damage(r))
		}
		if info.Records > 0 {
			s.Oldest, s.Newest = &info.Oldest, &info.Newest
		}
		if info.Err != nil {
			s.Error = info.Err.Error()
		}
		c.Released = max(c.Released, info.Released)
		c.Segments = append(c.Segments, s)
	})
	for _, s := range c.Segments {
		var version *journal.VersionError
		if errors.As(s.err, &version) {
			return version
		}
	}
	return err
}

// moving says whether a server is writing, and there is damage where it writes.
func (c *Contents) moving() bool {
	return c.Holder != 0 && len(c.Segments) > 0 && len(c.newest().Damaged) > 0
}

func (c *Contents) newest() *Segment { return &c.Segments[len(c.Segments)-1] }

// keepDamage drops what was damaged in the newest segment at the first look and is not at
// the second.
func (c *Contents) keepDamage(again *Contents) {
	s := c.newest()
	i := slices.IndexFunc(again.Segments, func(o Segment) bool { return o.base == s.base })
	s.Damaged = slices.DeleteFunc(s.Damaged, func(r Damage) bool {
		return i < 0 || !slices.Contains(again.Segments[i].Damaged, r)
	})
}

// count counts what waits, but for what is delivered while something stays behind.
func (c *Contents) count(left behind) error {
	type counted struct {
		messages   int
		partitions map[string]bool
	}
	queues, waiting := map[string]*counted{}, map[*Segment]int{}
	c.Behind = len(left.partitions)
	err := journal.Read(c.Dir, nil, func(rec journal.Record) error {
		s := c.segmentOf(rec.Seq)
		if s == nil {
			return nil // made since
		}
		waiting[s]++
		op, err := read(rec)
		if err != nil {
			s.Unreadable = append(s.Unreadable, Unreadable{Record: rec.Seq, Reason: err.Error()})
			return nil
		}
		op.Items = left.left(rec.Seq, op.Items)
		s.Messages += len(op.Items)
		c.Messages += len(op.Items)
		for i := range op.Items {
			it := &op.Items[i]
			q := queues[string(it.Queue)]
			if q == nil {
				q = &counted{partitions: map[string]bool{}}
				queues[string(it.Queue)] = q
			}
			q.messages++
			q.partitions[string(it.Partition)] = true
			if _, sealed := it.Waiting(); sealed {
				c.Encrypted++
			}
		}
		return nil
	})
	var unread *journal.UnreadError
	if errors.As(err, &unread) {
		err = nil // it is said with each segment
	}
	for i := range c.Segments {
		s := &c.Segments[i]
		s.Records = max(s.Records, s.Released+waiting[s]) // some were written since it was inspected
		if unread != nil && s.err == nil && unread.Segments[s.Name] != nil {
			s.err = unread.Segments[s.Name]
			s.Error = s.err.Error()
		}
	}
	for name, q := range queues {
		c.Queues = append(c.Queues, QueueContents{Queue: name, Messages: q.messages, Partitions: len(q.partitions)})
	}
	slices.SortFunc(c.Queues, func(a, b QueueContents) int { return cmp.Compare(a.Queue, b.Queue) })
	return err
}

// segmentOf is the segment with a record of that number; nil: it was not there.
func (c *Contents) segmentOf(seq uint64) *Segment {
	for i := len(c.Segments) - 1; i >= 0; i-- {
		if c.Segments[i].base <= seq {
			return &c.Segments[i]
		}
	}
	return nil
}

// read is the push in a record, with its payloads as they are on disk; a mark is one of
// nothing.
func read(rec journal.Record) (*queue.Op, error) {
	if rec.Kind == kindMark {
		return &queue.Op{}, nil
	}
	if rec.Kind != kindPush {
		return nil, fmt.Errorf("a record of kind %d, which is not known here", rec.Kind)
	}
	op := &queue.Op{}
	return op, queue.PeekRecord(op, rec.Payload)
}

func (c *Contents) poison() error {
	info, err := os.Stat(filepath.Join(c.Dir, PoisonFile))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	c.Poison.Bytes = info.Size()
	c.Poison.Unreadable, err = readPoison(c.Dir, func(line Poisoned) error {
		c.Poison.Messages++
		at := line.Time
		c.Poison.Last, c.Poison.Reason = &at, line.Reason
		return nil
	})
	return err
}

// files lists what else is there.
func (c *Contents) files() (err error) {
	if c.Quarantine, err = filesIn(filepath.Join(c.Dir, "quarantine"), func(string) bool { return true }); err != nil {
		return err
	}
	if c.Taken, err = filesIn(filepath.Join(c.Dir, takenDir), func(string) bool { return true }); err != nil {
		return err
	}
	for _, sub := range []string{"", "failed"} {
		files, err := filesIn(filepath.Join(c.Dir, sub), isQueens)
		if err != nil {
			return err
		}
		for _, f := range files {
			c.Queens = append(c.Queens, File{Name: filepath.Join(sub, f.Name), Bytes: f.Bytes})
		}
	}
	return nil
}

func filesIn(dir string, is func(name string) bool) (files []File, err error) {
	files = []File{}
	entries, err := os.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return files, nil
	}
	for _, e := range entries {
		if info, err := e.Info(); err == nil && info.Mode().IsRegular() && is(e.Name()) {
			files = append(files, File{Name: e.Name(), Bytes: info.Size()})
		}
	}
	return files, err
}

// Unread are the segments that could not be read, or not all of.
func (c *Contents) Unread() (unread []*Segment) {
	for i := range c.Segments {
		if c.Segments[i].err != nil {
			unread = append(unread, &c.Segments[i])
		}
	}
	return unread
}

// Messages gives each message of a directory that waits, in the order of delivery. The error
// is a *journal.UnreadError when all were given but those that the disk does not give. What
// the sealer can open is opened. A record that makes no sense is a message with a reason
// and nothing but the record.
func Messages(dir string, s *queue.Sealer, each func(*Message) error) error {
	left := peekBehind(dir)
	if left.any() {
		last := uint64(0)
		if err := journal.Inspect(dir, nil, func(info journal.SegmentInfo) { last = max(last, info.Last) }); err != nil {
			return err
		}
		if left.through > last {
			left = newBehind()
		}
	}
	return journal.Read(dir, nil, func(rec journal.Record) error {
		op, err := read(rec)
		if err != nil {
			return each(&Message{Time: rec.Time.UTC(), Reason: err.Error(), Record: rec.Payload})
		}
		op.Items = left.left(rec.Seq, op.Items)
		for i := range op.Items {
			m := Message(poisoned(&op.Items[i], "", rec.Time))
			m.open(s)
			if err := each(&m); err != nil {
				return err
			}
		}
		return nil
	})
}

// PoisonedMessages gives each message of the poison file, oldest first.
func PoisonedMessages(dir string, s *queue.Sealer, each func(*Message) error) error {
	_, err := readPoison(dir, func(line Poisoned) error {
		m := Message(line)
		m.open(s)
		return each(&m)
	})
	return err
}

// open opens the payload, if it is an envelope and this is its key.
func (m *Message) open(s *queue.Sealer) {
	if !m.Encrypted {
		return
	}
	if plain, ok := s.Open(nil, m.Payload); ok {
		m.Payload, m.Encrypted = plain, false
	}
}

// AppendJSON appends the message as one line, with its end.
func (m *Message) AppendJSON(dst []byte) ([]byte, error) {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(m) != nil {
		// What PostgreSQL takes for JSON and Go does not is kept as bytes.
		raw := *m
		raw.Record, raw.Payload = raw.Payload, nil
		text.Reset()
		if err := encoder.Encode(&raw); err != nil {
			return dst, err
		}
	}
	return append(dst, text.Bytes()...), nil
}

// readPoison reads the poison file; bad lines are counted. A line that a crash cut short may
// have the next one behind it.
func readPoison(dir string, each func(Poisoned) error) (bad int, err error) {
	f, err := os.Open(filepath.Join(dir, PoisonFile))
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	defer f.Close()
	for r := bufio.NewReader(f); ; {
		text, err := r.ReadBytes('\n')
		if errors.Is(err, io.EOF) {
			if len(text) > 0 {
				bad++ // or it is being written
			}
			return bad, nil
		}
		if err != nil {
			return bad, err
		}
		var line Poisoned
		if json.Unmarshal(text, &line) != nil {
			bad++
			begin := bytes.LastIndex(text, []byte(`{"time":"`))
			if line = (Poisoned{}); begin <= 0 || json.Unmarshal(text[begin:], &line) != nil {
				continue
			}
		}
		if err := each(line); err != nil {
			return bad, err
		}
	}
}

// holder is the process that has a directory, 0 when none can be seen. It asks the kernel's
// list of locks (proc_locks(5)): to try the lock would turn a server away that starts at
// that moment.
func holder(dir string) int {
	path := filepath.Join(dir, "lock")
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return 0
	}
	locks, err := os.ReadFile("/proc/locks")
	if err != nil {
		return 0
	}
	written, _ := os.ReadFile(path)
	device := fmt.Sprintf("%02x:%02x", unix.Major(st.Dev), unix.Minor(st.Dev))
	for line := range strings.Lines(string(locks)) {
		// 1: FLOCK ADVISORY WRITE 708 fe:00:264548 0 EOF
		f := strings.Fields(line)
		if len(f) < 6 || f[1] != "FLOCK" {
			continue
		}
		i := strings.LastIndexByte(f[5], ':')
		pid, err := strconv.Atoi(f[4])
		if err != nil || i < 0 || f[5][i+1:] != strconv.FormatUint(st.Ino, 10) {
			continue
		}
		// Some file systems show another device here than in stat(2); then the number that
		// the holder has written into the file decides.
		if f[5][:i] == device || f[4] == strings.TrimSpace(string(written)) {
			return pid
		}
	}
	return 0
}
