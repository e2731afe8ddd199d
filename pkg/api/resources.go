package api

import (
	"strconv"
	"time"
)

// The work of deleting a queue comes in pieces, each a transaction of its own.
const (
	deleteRowsMax       = 5000   // messages at a time
	deletePartitionsMax = 1000   // partitions whose messages are looked for, or that go, together
	deleteAtOnceMax     = 20_000 // partitions that go with their queue: about a second
)

// deleteQueue deletes a queue with all that belongs to it. It is gone, for everybody and
// at once, when one short transaction commits; its messages, which nobody can reach any
// more, go after that in small ones. If that takes longer than workBudget, or is
// interrupted, the sweep that keeps the database clean takes the rest. Where groups begin
// is kept: a queue that is made again is read from there.
//
// A queue of more than deleteAtOnceMax partitions loses the others before, piece by piece.
func (r *Router) deleteQueue(x Exchange, p Params) {
	name := string(p.Get(0))
	r.administer(x, func(s Session) (outcome, error) {
		d := deletion{s: s, queue: name, until: time.Now().Add(workBudget), atOnce: deleteAtOnceMax}
		existed, err := d.run()
		if err != nil {
			return outcome{}, err
		}
		var answer object
		answer.bool("deleted", true)
		answer.bool("existed", existed)
		answer.text("queue", name)
		return outcome{body: answer.end()}, nil
	})
}

// deletion is one of a queue.
type deletion struct {
	s      Session
	queue  string
	until  time.Time
	atOnce int // partitions

	gone bool // part of it
}

func (d *deletion) run() (existed bool, err error) {
	if err := d.prepare(); err != nil {
		return false, d.broken(err)
	}
	var partitions []string
	err = d.s.Transaction(func() (err error) {
		if _, err = d.s.Rows("admin_queue_heads", d.queue); err != nil {
			return err
		}
		if _, err = d.s.Rows("admin_queue_lock", d.queue); err != nil {
			return err
		}
		if partitions, err = partitionsOf(d.s, d.queue); err != nil {
			return err
		}
		gone, err := d.s.Rows("admin_queue_delete", d.queue)
		if err == nil {
			existed = string(gone[0][0]) != "0"
		}
		return err
	})
	if err != nil && d.gone {
		err = d.broken(err)
	}
	if err != nil {
		return false, err
	}
	// The queue is gone whether or not this succeeds.
	_, _ = d.messages(partitions)
	return existed, nil
}

// broken is an error of a deletion that is done in pieces.
func (d *deletion) broken(err error) error {
	switch {
	case err == tooLong: // it says so
	case d.gone:
		return &partial{err, "part of it is gone, ask again for the rest"}
	case mayBeDone(err):
		return &partial{err, "part of it may be gone, ask again for the rest"}
	}
	return err
}

// prepare makes what is left for the one transaction small.
func (d *deletion) prepare() error {
	partitions, err := partitionsOf(d.s, d.queue)
	if err != nil {
		return err
	}
	layout, err := d.s.Rows("schema_layout")
	if err != nil {
		return onlyRead(err)
	}
	if yes(layout[0][2]) {
		// Queen's foreign key would delete all messages in that transaction, however many
		// there are.
		if done, err := d.messages(partitions); err != nil {
			return err
		} else if !done {
			return tooLong
		}
	}
	for len(partitions) > d.atOnce {
		if time.Now().After(d.until) {
			return tooLong
		}
		piece := partitions[:min(len(partitions)-d.atOnce, deletePartitionsMax)]
		err := d.s.Transaction(func() error {
			if _, err := d.s.Rows("push_lock", piece); err != nil {
				return err
			}
			_, err := d.s.Rows("admin_queue_piece", piece)
			return err
		})
		if err != nil {
			return err
		}
		d.gone = true
		if _, err := d.messages(piece); err != nil {
			return err
		}
		partitions = partitions[len(piece):]
	}
	return nil
}

var tooLong = &refusal{503, "the queue is too large to be deleted at once; much of it is gone, ask again for the rest"}

func partitionsOf(s Session, name string) ([]string, error) {
	rows, err := s.Rows("admin_queue_partitions", name)
	partitions := make([]string, len(rows))
	for i, row := range rows {
		partitions[i] = string(row[0])
	}
	return partitions, onlyRead(err)
}

// messages deletes the messages of partitions, piece by piece, and says whether it is done
// with all of them.
func (d *deletion) messages(partitions []string) (done bool, err error) {
	for len(partitions) > 0 {
		n := min(len(partitions), deletePartitionsMax)
		for full := true; full; {
			if time.Now().After(d.until) {
				return false, nil
			}
			rows, err := d.s.Rows("admin_queue_messages", partitions[:n], deleteRowsMax)
			if err != nil {
				return false, err
			}
			gone, _ := strconv.Atoi(string(rows[0][0]))
			full = gone == deleteRowsMax
			d.gone = d.gone || gone > 0
		}
		partitions = partitions[n:]
	}
	return true, nil
}

// listPartitions shows the partitions of a queue, by name.
func (r *Router) listPartitions(x Exchange) {
	r.listPage(x, 100, "partitions", "admin_partitions", []any{filter(x, "queue")}, func(row [][]byte) []byte {
		var p object
		p.column("createdAt", row[0])
		p.column("id", row[1])
		p.column("lastActivity", row[2])
		p.column("name", row[3])
		p.column("queue", row[4])
		return p.end()
	})
}
