package filebuffer

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

// An operator may delete a directory in which nothing waits.
func TestADirectoryThatCannotBeReadEverywhereIsNotSaidToBeEmpty(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(journal.Options{Dir: dir, SegmentBytes: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	for i := range 12 {
		op := queue.Op{Items: []queue.Item{{Queue: []byte("q"), Partition: []byte("p"), Payload: []byte(`"` + strings.Repeat("x", 2000) + `"`)}}}
		op.Items[0].ID[15] = byte(i)
		record, _ := queue.AppendRecord(nil, &op, nil)
		if _, err := j.Append(kindPush, [][]byte{record}); err != nil {
			t.Fatal(err)
		}
	}
	if err := errors.Join(j.Release(1), j.Close()); err != nil {
		t.Fatal(err)
	}
	before, err := Describe(dir)
	if err != nil || len(before.Segments) < 4 || before.Messages != 11 || len(before.Unread()) != 0 || before.Segments[0].Released != 1 {
		t.Fatalf("%+v, %v", before, err)
	}
	// The kernel gives nothing of this file's beginning, as of a bad sector.
	bad := before.Segments[1].Name
	if err := errors.Join(os.Remove(filepath.Join(dir, bad)), os.Symlink("/proc/self/mem", filepath.Join(dir, bad))); err != nil {
		t.Fatal(err)
	}
	c, err := Describe(dir)
	if err != nil {
		t.Fatal(err)
	}
	waiting := 11 - before.Segments[1].Messages
	if unread := c.Unread(); len(unread) != 1 || unread[0].Name != bad || !strings.Contains(unread[0].Error, "input/output error") {
		t.Errorf("%+v", c)
	}
	if c.Messages != waiting || c.Segments[0].Released != 1 || c.Segments[1].Released != 0 || c.Segments[2].Released != 0 || c.Segments[2].Messages != before.Segments[2].Messages {
		text, _ := json.Marshal(c)
		t.Errorf("%d wait: %s", waiting, text)
	}
	n := 0
	err = Messages(dir, nil, func(m *Message) error {
		n++
		return nil
	})
	if n != waiting || !strings.Contains(err.Error(), bad) || !strings.Contains(err.Error(), syscall.EIO.Error()) {
		t.Errorf("%d of %d messages, %v", n, waiting, err)
	}
}

// A copy of the directory, or one whose segments were removed by hand.
func TestANoteOfAnotherJournalHidesNoMessages(t *testing.T) {
	dir := t.TempDir()
	j, err := journal.Open(journal.Options{Dir: dir, SegmentBytes: 8 << 10})
	if err != nil {
		t.Fatal(err)
	}
	op := queue.Op{Items: []queue.Item{{Queue: []byte("q"), Partition: []byte("p"), Payload: []byte(`1`)}}}
	record, _ := queue.AppendRecord(nil, &op, nil)
	if _, err := j.Append(kindPush, [][]byte{record}); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(j.Close(), os.WriteFile(filepath.Join(dir, behindFile), []byte(`{"through":7,"partitions":[{"queue":"q","partition":"other","first":3,"skip":0}]}`), 0o600)); err != nil {
		t.Fatal(err)
	}
	c, err := Describe(dir)
	n := 0
	if err := errors.Join(err, Messages(dir, nil, func(*Message) error { n++; return nil })); err != nil {
		t.Fatal(err)
	}
	if c.Messages != 1 || c.Behind != 0 || n != 1 {
		t.Errorf("%d messages, %d partitions behind; %d exported", c.Messages, c.Behind, n)
	}
}
