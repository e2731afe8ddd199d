package filebuffer

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// PoisonFile is the name of the file for messages that PostgreSQL refuses, in the buffer's
// directory: one JSON object a line.
const PoisonFile = "poison.jsonl"

// Poisoned is a line of it.
type Poisoned struct {
	Time          time.Time       `json:"time"`
	Reason        string          `json:"reason"`
	Queue         string          `json:"queue,omitempty"`
	Partition     string          `json:"partition,omitempty"`
	TransactionID string          `json:"transactionId,omitempty"`
	MessageID     string          `json:"messageId,omitempty"`
	ProducerSub   string          `json:"producerSub,omitempty"`
	TraceID       string          `json:"traceId,omitempty"`
	Encrypted     bool            `json:"encrypted,omitempty"` // the payload is an envelope
	Payload       json.RawMessage `json:"payload,omitempty"`
	Record        []byte          `json:"record,omitempty"` // base64: a record that cannot be read
}

// poison is the file. It is opened with the buffer, so that it can be written when it is
// needed.
type poison struct {
	dir  string
	mu   sync.Mutex // held while the disk is waited for
	file *os.File
	size atomic.Int64
}

func (p *poison) open() (err error) {
	p.file, err = os.OpenFile(filepath.Join(p.dir, PoisonFile), os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o600)
	if err != nil {
		return err
	}
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	p.size.Store(info.Size())
	if info.Size() == 0 {
		return syncDir(p.dir) // what is in it once must not be without a name
	}
	var last [1]byte
	if _, err = p.file.ReadAt(last[:], info.Size()-1); err == nil && last[0] != '\n' {
		_, err = p.file.WriteString("\n") // a line that was being written at a crash
	}
	return err
}

// bytes is the file's size; it does not wait for the disk.
func (p *poison) bytes() int64 { return p.size.Load() }

// add appends a line and has it on disk when it returns.
func (p *poison) add(line Poisoned) error {
	var text bytes.Buffer
	encoder := json.NewEncoder(&text)
	encoder.SetEscapeHTML(false)
	if encoder.Encode(line) != nil {
		// The payload is not JSON.
		line.Record, line.Payload = line.Payload, nil
		text.Reset()
		if err := encoder.Encode(line); err != nil {
			return err
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	info, err := p.file.Stat()
	if err != nil {
		return err
	}
	if _, err := p.file.Write(text.Bytes()); err != nil {
		return errors.Join(err, p.file.Truncate(info.Size())) // the next try begins a line
	}
	p.size.Store(info.Size() + int64(text.Len()))
	return p.file.Sync()
}

func (p *poison) close() error {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.file.Close()
}

// poisoned is the line of a message. With an envelope, that is what is written.
func poisoned(it *queue.Item, reason string, now time.Time) Poisoned {
	payload, sealed := it.Waiting()
	line := Poisoned{
		Time: now.UTC(), Reason: reason, Queue: string(it.Queue), Partition: string(it.Partition),
		TransactionID: string(it.TransactionID), MessageID: it.ID.String(), ProducerSub: string(it.ProducerSub),
		Encrypted: sealed, Payload: json.RawMessage(payload),
	}
	if it.HasTrace {
		line.TraceID = it.TraceID.String()
	}
	return line
}
