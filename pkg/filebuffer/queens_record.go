package filebuffer

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// This file reads a buffer file of Queen's. Each record is a length of 4 bytes in the
// machine's order and a JSON object, which has the fields of an item of a push.

const (
	// queensRecordBytesMax is the largest record that is believed. Queen itself reads up to
	// 10 MiB, but writes larger ones.
	queensRecordBytesMax = 256 << 20

	// queensReadBytes is how much of a file is read at once.
	queensReadBytes = 1 << 20
)

// source is a file of Queen's.
type source struct {
	path, name string
	open       func(name string) (*os.File, error)
	f          *os.File      // nil: it is to be opened
	r          *bufio.Reader // nil: it is to be begun at read
	read       int64         // up to here its records are passed
	n          int           // so many
	size       int64         // it had when it was begun
	torn       error         // what is wrong with what is behind them; nil: nothing is
	last       uint64        // how many messages were handed by its end, of all files
}

func (q *queens) source(path string) *source {
	return &source{path: path, name: nameOf(path), open: q.b.o.open}
}

// next is the record behind those that were passed. io.EOF says that there is none that can
// be made sense of. After another error the file is opened anew.
func (s *source) next() ([]byte, error) {
	if err := s.begin(); err != nil {
		s.close()
		return nil, err
	}
	event, err := queensRecord(s.r)
	var torn tornError
	switch {
	case err == nil:
		return event, nil
	case errors.As(err, &torn):
		s.torn, err = err, io.EOF
	case !errors.Is(err, io.EOF):
		s.close()
	}
	return nil, err
}

// begin goes to where it was read to, if it is not there.
func (s *source) begin() (err error) {
	if s.f == nil {
		if s.f, err = s.open(s.path); err != nil {
			return err
		}
	}
	if s.r != nil {
		return nil
	}
	info, err := s.f.Stat()
	if err != nil {
		return err
	}
	if _, err := s.f.Seek(s.read, io.SeekStart); err != nil {
		return err
	}
	s.r, s.size, s.torn = bufio.NewReaderSize(s.f, queensReadBytes), info.Size(), nil
	return nil
}

// pass goes behind the record that was read.
func (s *source) pass(event []byte) {
	s.read += int64(4 + len(event))
	s.n++
}

// grown says that the end is not where it was when the file was begun: so it is not read whole.
func (s *source) grown() bool {
	info, err := s.f.Stat()
	if err == nil && info.Size() == s.size {
		return false
	}
	s.r = nil
	return true
}

func (s *source) close() {
	if s.f != nil {
		_ = s.f.Close()
	}
	s.f, s.r = nil, nil
}

// tornError says why what follows in a file is no record.
type tornError string

func (e tornError) Error() string { return string(e) }

// queensRecord reads one record.
func queensRecord(r io.Reader) ([]byte, error) {
	var head [4]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		if errors.Is(err, io.ErrUnexpectedEOF) {
			return nil, tornError("it ends in the middle of a length")
		}
		return nil, err
	}
	n := binary.NativeEndian.Uint32(head[:])
	if n == 0 || n > queensRecordBytesMax {
		return nil, tornError(fmt.Sprintf("a record of %d bytes makes no sense", n))
	}
	var event bytes.Buffer
	switch _, err := io.CopyN(&event, r, int64(n)); {
	case errors.Is(err, io.EOF):
		return nil, tornError(fmt.Sprintf("it ends in the middle of a record of %d bytes", n))
	case err != nil:
		return nil, err
	}
	return event.Bytes(), nil
}

// decode makes a push of the next record of a file.
func (q *queens) decode(op *queue.Op, event []byte, s *source) queue.Fault {
	body := append(append([]byte(`{"items":[`), event...), `]}`...)
	config := queue.Config{OpBytesMax: 2 * queensRecordBytesMax}
	f := queue.Decode(op, body, &config, q.ids)
	if f.Code != queue.OK {
		return f
	}
	if len(op.Items) != 1 {
		return queue.Fault{Code: queue.Invalid}
	}
	it := &op.Items[0]
	it.TakeEnvelope()
	if !it.GivenTransaction {
		it.TransactionID = transactionOf(s.path, s.n)
	}
	var more struct {
		ProducerSub string `json:"producerSub"`
	}
	if bytes.Contains(event, []byte("producerSub")) && json.Unmarshal(event, &more) == nil && more.ProducerSub != "" {
		it.ProducerSub = []byte(more.ProducerSub)
	}
	return f
}

// record makes a record of ours of the next one of a file; nil: it was no message, and is set
// aside. The message is in the gate then.
func (q *queens) record(event []byte, s *source) ([]byte, error) {
	var op queue.Op
	if f := q.decode(&op, event, s); f.Code != queue.OK {
		reason := "a record of Queen's buffer file " + filepath.Base(s.path) + " is no message: " + f.Message
		if err := q.b.poison.add(Poisoned{Time: time.Now().UTC(), Reason: reason, Record: event}); err != nil {
			return nil, fmt.Errorf("the poison file cannot be written: %w", err)
		}
		q.bad++
		q.b.stats.Poisoned.Add(1)
		q.b.o.Log.Error().Str("file", s.path).Str("reason", f.Message).Msg("a record of Queen's buffer file is no message; it is set aside")
		return nil, nil
	}
	record, err := queue.AppendRecord(nil, &op, q.b.o.Sealer)
	if err != nil {
		return nil, err
	}
	if q.counted[s.name] > 0 {
		q.counted[s.name]--
	} else {
		q.gate(op.Items) // it came since the scan
	}
	q.b.stats.Taken.Add(1)
	return record, nil
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
