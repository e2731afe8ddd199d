package api

import (
	"strconv"
	"time"
)

// The work of deleting a queue comes in pieces, each a transaction of its own.
const (
	deleteRowsMax       = 5000 // messages at a time
	deletePartitionsMax = 1000 // partitions whose messages are looked for together
)

// deleteQueue deletes a queue with all that belongs to it. It is gone, for everybody and
// at once, when one short transaction commits; its messages, which nobody can reach any
// more, go after that in small ones. If that takes longer than workBudget, or is
// interrupted, the sweep that keeps the database clean takes the rest. Where groups begin
// is kept: a queue that is made again is read from there.
func (r *Router) deleteQueue(x Exchange, p Params) {
	name := string(p.Get(0))
	r.administer(x, func(s Session) (outcome, error) {
		existed, err := deleteQueue(s, name, time.Now().Add(workBudget))
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

func deleteQueue(s Session, name string, until time.Time) (existed bool, err error) {
	layout, err := s.Rows("schema_layout")
	if err != nil {
		return false, err
	}
	if yes(layout[0][2]) {
		// Queen's foreign key would delete all messages in the one transaction, however
		// many there are: most of them go first.
		partitions, err := partitionsOf(s, name)
		if err != nil {
			return false, err
		}
		if done, err := deleteMessages(s, partitions, until); err != nil {
			return false, err
		} else if !done {
			return false, &refusal{503, "the queue has more messages than can be deleted at once; many of them are gone, ask again for the rest"}
		}
	}
	var partitions []string
	err = s.Transaction(func() (err error) {
		if _, err = s.Rows("admin_queue_heads", name); err != nil {
			return err
		}
		if _, err = s.Rows("admin_queue_lock", name); err != nil {
			return err
		}
		if partitions, err = partitionsOf(s, name); err != nil {
			return err
		}
		gone, err := s.Rows("admin_queue_delete", name)
		if err == nil {
			existed = string(gone[0][0]) != "0"
		}
		return err
	})
	if err != nil {
		return false, err
	}
	// The queue is gone whether or not this succeeds.
	_, _ = deleteMessages(s, partitions, until)
	return existed, nil
}

func partitionsOf(s Session, name string) ([]string, error) {
	rows, err := s.Rows("admin_queue_partitions", name)
	partitions := make([]string, len(rows))
	for i, row := range rows {
		partitions[i] = string(row[0])
	}
	return partitions, err
}

// deleteMessages deletes the messages of partitions, piece by piece, and says whether it
// is done with all of them.
func deleteMessages(s Session, partitions []string, until time.Time) (done bool, err error) {
	for len(partitions) > 0 {
		n := min(len(partitions), deletePartitionsMax)
		for full := true; full; {
			if time.Now().After(until) {
				return false, nil
			}
			rows, err := s.Rows("admin_queue_messages", partitions[:n], deleteRowsMax)
			if err != nil {
				return false, err
			}
			gone, _ := strconv.Atoi(string(rows[0][0]))
			full = gone == deleteRowsMax
		}
		partitions = partitions[n:]
	}
	return true, nil
}
