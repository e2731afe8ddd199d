package filebuffer

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/queend/queend/pkg/filebuffer/journal"
	"github.com/queend/queend/pkg/queue"
)

// This file takes over what Queen's server has left in its buffer directory when queend
// takes its place: failover_*.buf and qos0_*.buf, the same with .tmp behind, which it was
// writing when it ended, and those that it had put aside in failed/. Each record is a
// length of 4 bytes in the machine's order and a JSON object. What is taken is in the
// journal, and the file in taken/, so that nothing is taken twice; a crash in between takes
// it twice, and the transaction ids tell.

const (
	// queensRecordBytesMax is the largest record that is believed. Queen itself reads up to
	// 10 MiB, but writes larger ones.
	queensRecordBytesMax = 256 << 20

	// queensGroupBytes is how much of a file goes to the journal at once.
	queensGroupBytes = 1 << 20
)

// takenDir is where files go that were taken.
const takenDir = "taken"

// takeRounds is how often is looked for files: Queen's server may rename them as it ends.
const takeRounds = 3

// takeQueens takes all of Queen's files in, oldest first, before anything is written. When
// ctx ends, those that are not taken whole stay where they are.
func (b *Buffer) takeQueens(ctx context.Context, j *journal.Journal) error {
	t := taking{
		ctx: ctx, b: b, j: j, ids: queue.NewIDs(func() int64 { return time.Now().UnixMilli() }),
		patience: writerPatience, left: map[string]bool{},
	}
	found := false
	for range takeRounds {
		files, err := t.files()
		if err != nil {
			return fmt.Errorf("cannot look for Queen's buffer files: %w", err)
		}
		if len(files) == 0 {
			break
		}
		if !found {
			found = true
			if err := t.begin(len(files)); err != nil {
				return fmt.Errorf("cannot take over Queen's buffer files: %w", err)
			}
		}
		for _, path := range files {
			if err := t.file(path); err != nil {
				return t.failed(path, err)
			}
		}
	}
	if found {
		b.o.Log.Info().Uint64("messages", b.stats.Taken.Load()).Int("set_aside", t.bad).Int("left", len(t.left)).Msg("Queen's buffer files are taken over; they are kept in " + filepath.Join(b.o.Dir, takenDir))
	}
	return nil
}

// files lists what is to be taken.
func (t *taking) files() ([]string, error) {
	files, err := queensFiles(t.b.o.Dir)
	return slices.DeleteFunc(files, func(path string) bool { return t.left[path] }), err
}

// begin makes the place where the files go.
func (t *taking) begin(files int) error {
	dir := filepath.Join(t.b.o.Dir, takenDir)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	t.leases = !t.b.o.noLeases && leasesWork(dir)
	t.b.o.Log.Info().Int("files", files).Str("dir", t.b.o.Dir).Msg("taking over what Queen's server has left to deliver")
	return nil
}

// failed is the error of a file that was not taken.
func (t *taking) failed(path string, err error) error {
	if t.ctx.Err() != nil {
		t.b.o.Log.Info().Uint64("messages", t.b.stats.Taken.Load()).Str("file", path).Msg("the taking over of Queen's buffer files is stopped; it goes on with this file at the next start")
	}
	err = fmt.Errorf("cannot take over Queen's buffer file %s: %w", path, err)
	if errors.Is(err, journal.ErrFull) || errors.Is(err, syscall.ENOSPC) {
		// The bound is not asked, so it is the disk.
		err = fmt.Errorf("%w; the disk must have room for a copy of what is taken over: make room on it and start again, the file stays where it is", err)
	}
	return err
}

// queensFiles lists Queen's files by the time in their names: a UUIDv7 each.
func queensFiles(dir string) (files []string, err error) {
	for _, sub := range []string{"", "failed"} {
		entries, err := os.ReadDir(filepath.Join(dir, sub))
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for _, e := range entries {
			if e.Type().IsRegular() && isQueens(e.Name()) {
				files = append(files, filepath.Join(dir, sub, e.Name()))
			}
		}
	}
	id := func(path string) string {
		_, id, _ := strings.Cut(filepath.Base(path), "_")
		return id
	}
	slices.SortStableFunc(files, func(a, b string) int { return strings.Compare(id(a), id(b)) })
	return files, nil
}

func isQueens(name string) bool {
	return (strings.HasPrefix(name, "failover_") || strings.HasPrefix(name, "qos0_")) &&
		(strings.HasSuffix(name, ".buf") || strings.HasSuffix(name, ".buf.tmp"))
}

// taking is the taking over of files.
type taking struct {
	ctx      context.Context
	b        *Buffer
	j        *journal.Journal
	ids      *queue.IDs
	group    [][]byte // records that are not in the journal yet
	size     int
	bad      int
	leases   bool            // the file system tells who writes to a file
	patience time.Duration   // for as long writers are waited for, in all
	left     map[string]bool // files that somebody still writes to
}

// source is a file of Queen's.
type source struct {
	*os.File
	path string
	read int64 // up to here its records are taken
	n    int   // so many
	torn error // what is wrong with what is behind them; nil: nothing is
}

// file takes one file, whole; or leaves it, when somebody still writes to it.
//
// A Queen that runs goes on writing to a file that is moved, and nobody would ever read
// that. So the file is moved when it is known that nobody has it open for writing; where
// that cannot be known, it is watched for a moment after it was moved.
func (t *taking) file(path string) error {
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil // it has another name by now: the next round finds it
	}
	if err != nil {
		return err
	}
	defer f.Close()
	s := &source{File: f, path: path}
	free, known := t.await(f)
	if !free {
		return t.leave(path)
	}
	if err := t.rest(s); err != nil {
		return err
	}
	taken, err := t.move(s)
	if err != nil || !taken {
		return err
	}
	if !known {
		if still, err := t.watch(s); !still {
			if err = errors.Join(err, t.putBack(s)); err != nil {
				return err
			}
			return t.leave(path)
		}
	}
	if s.torn != nil {
		t.b.o.Log.Warn().Str("file", path).Err(s.torn).Msg("the rest of Queen's buffer file cannot be read; all records before it are taken")
	}
	return nil
}

// rest takes what of the file is not taken yet.
func (t *taking) rest(s *source) error {
	if _, err := s.Seek(s.read, io.SeekStart); err != nil {
		return err
	}
	r := bufio.NewReaderSize(s, 1<<20)
	for s.torn = nil; ; s.n++ {
		if err := t.ctx.Err(); err != nil {
			return err
		}
		event, err := queensRecord(r)
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			s.torn = err
			break
		}
		if err := t.event(event, s.path, s.n); err != nil {
			return err
		}
		s.read += int64(4 + len(event))
	}
	return t.append()
}

// move puts a file in its place. It is false when the file was moved by somebody else.
func (t *taking) move(s *source) (bool, error) {
	to := filepath.Join(t.b.o.Dir, takenDir, filepath.Base(s.path))
	err := os.Rename(s.path, to)
	if _, is := os.Lstat(s.path); err != nil && errors.Is(is, os.ErrNotExist) {
		return false, nil // the transaction ids tell, when the next round finds it
	}
	if err != nil {
		return false, err
	}
	return true, t.syncMove(s.path)
}

func (t *taking) syncMove(path string) error {
	return errors.Join(syncDir(filepath.Dir(path)), syncDir(filepath.Join(t.b.o.Dir, takenDir)))
}

// queensRecord reads one record.
func queensRecord(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, errors.New("it ends in the middle of a length")
		}
		return nil, err
	}
	n := binary.NativeEndian.Uint32(head[:])
	if n == 0 || n > queensRecordBytesMax {
		return nil, fmt.Errorf("a record of %d bytes makes no sense", n)
	}
	var event bytes.Buffer
	if _, err := io.CopyN(&event, r, int64(n)); err != nil {
		return nil, fmt.Errorf("it ends in the middle of a record of %d bytes", n)
	}
	return event.Bytes(), nil
}

// event makes a record of ours of one of Queen's, the n-th of its file. It has the fields of
// an item of a push.
func (t *taking) event(event []byte, path string, n int) error {
	var op queue.Op
	body := append(append([]byte(`{"items":[`), event...), `]}`...)
	config := queue.Config{OpBytesMax: 2 * queensRecordBytesMax}
	if f := queue.Decode(&op, body, &config, t.ids); f.Code != queue.OK || len(op.Items) != 1 {
		t.bad++
		t.b.stats.Poisoned.Add(1)
		reason := "a record of Queen's buffer file " + filepath.Base(path) + " is no message: " + f.Message
		t.b.o.Log.Error().Str("file", path).Str("reason", f.Message).Msg("a record of Queen's buffer file is no message; it is set aside")
		return t.b.poison.add(Poisoned{Time: time.Now().UTC(), Reason: reason, Record: event})
	}
	it := &op.Items[0]
	it.TakeEnvelope()
	if !it.GivenTransaction {
		it.TransactionID = transactionOf(path, n)
	}
	var more struct {
		ProducerSub string `json:"producerSub"`
	}
	if json.Unmarshal(event, &more) == nil && more.ProducerSub != "" {
		it.ProducerSub = []byte(more.ProducerSub)
	}
	record, err := queue.AppendRecord(nil, &op, t.b.o.Sealer)
	if err != nil {
		return err
	}
	t.b.stats.Taken.Add(1)
	t.group = append(t.group, record)
	if t.size += len(record); t.size >= queensGroupBytes {
		return t.append()
	}
	return nil
}

// transactionOf makes the transaction id of a record that has none: the same whenever the
// file is taken, finished or not, so that what is taken twice is stored once. It is a UUID
// of version 8 (RFC 9562 §5.8).
func transactionOf(path string, n int) []byte {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %d", strings.TrimSuffix(filepath.Base(path), ".tmp"), n))
	id := queue.UUID(sum[:16])
	id[6], id[8] = id[6]&0x0f|0x80, id[8]&0x3f|0x80
	return id.Append(nil)
}

// append puts what was made into the journal. The bound is for pushes, which can be refused;
// this is on the disk already.
func (t *taking) append() error {
	if len(t.group) == 0 {
		return nil
	}
	_, err := t.j.AppendBeyond(kindPush, t.group)
	t.group, t.size = t.group[:0], 0
	return err
}

func syncDir(dir string) error {
	f, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer f.Close()
	return f.Sync()
}
