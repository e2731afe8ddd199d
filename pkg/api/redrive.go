package api

import (
	"cmp"
	"fmt"
	"slices"
	"strconv"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// redriveMessagesMax is how many messages one transaction of a redrive puts back.
const redriveMessagesMax = 100

// retryMessage has a message delivered again: under the lock of its partition's head, as a
// push, it leaves its place and becomes the newest message of the partition, with a new id,
// the same transaction and the same payload. Its dead letters go. A message that only
// lives on as a dead letter is put back from there.
//
// A partition is one log for all groups, so every group that has consumed the message sees
// it again; a group that has not sees it once, at its new place. Where a group may hold the
// message right now, its lease ends: an ack of the old delivery must not be taken
// for one of the new place, which is past all other messages.
func (r *Router) retryMessage(x Exchange, p Params) {
	if _, err := readBody(x, false); err != nil {
		r.adminFault(x, err)
		return
	}
	partition, transaction := string(p.Get(0)), string(p.Get(1))
	r.administer(x, func(s Session) (outcome, error) {
		var back redelivery
		err := s.Transaction(func() (err error) {
			back = redelivery{partition: partition}
			if err = back.find(s, []string{transaction}); err != nil {
				return err
			}
			if len(back.messages) == 0 {
				return &refusal{404, "Message not found"}
			}
			return back.store(s, r.stores.Config.PayloadJSONB)
		})
		if err != nil {
			return outcome{}, err
		}
		var answer object
		answer.text("message", "Message is delivered again")
		answer.text("messageId", back.messages[0].newID)
		answer.text("partitionId", partition)
		answer.bool("success", true)
		answer.text("transactionId", transaction)
		return outcome{body: answer.end(), changed: []string{back.queue}}, nil
	})
}

// redrive puts the messages of dead letters back, as retryMessage does, in the order in
// which they were pushed, a few in each transaction. The dead letters of what was put back
// are gone, those of other groups too, so that to ask again is to go on.
//
// It is left as it is, and counted as skipped, when the message cannot be put back:
// there is no copy of it, or its transaction was pushed again meanwhile.
//
// An error after messages were put back is told beside their count, in an answer like that
// of a redrive whose time is over: who hears 503 thinks that nothing was done.
//
// A body that is no object, or has a name that is not known, is refused: a filter that was
// misspelt would put back everything.
func (r *Router) redrive(x Exchange) {
	body, err := readBody(x, false)
	if err == nil {
		err = body.only(x, append([]string{"limit", "dryRun"}, redriveFilters...))
	}
	if err != nil {
		r.adminFault(x, err)
		return
	}
	var filters []any
	for _, name := range redriveFilters {
		value, err := body.optional(name)
		if err != nil {
			r.adminFault(x, err)
			return
		}
		filters = append(filters, value)
	}
	limit, err := body.whole("limit", -1)
	if err != nil {
		r.adminFault(x, err)
		return
	}
	if body.has("dryRun") && !body.yes("dryRun") && string(body["dryRun"]) != "false" {
		r.fail(x, 400, nil, "dryRun must be true or false")
		return
	}
	if body.yes("dryRun") {
		r.look(x, func(s Session) (outcome, error) { return countRedrive(s, filters, limit) })
		return
	}
	r.administer(x, func(s Session) (outcome, error) {
		d := redrive{s: s, filters: filters, limit: limit, jsonb: r.stores.Config.PayloadJSONB, until: time.Now().Add(workBudget)}
		err := d.run()
		if err != nil && d.count == 0 {
			return outcome{}, err
		}
		var answer object
		answer.int("count", d.count)
		answer.bool("dryRun", false)
		if err != nil {
			_, sentence := explain(err)
			answer.text("error", sentence)
		}
		answer.bool("more", d.more || err != nil)
		answer.int("skipped", d.skipped)
		return outcome{body: answer.end(), changed: d.queues}, nil
	})
}

var redriveFilters = []string{"queue", "partition", "consumerGroup", "from", "to"}

func countRedrive(s Session, filters []any, limit int) (outcome, error) {
	rows, err := s.Rows("admin_redrive_count", append(filters[:5:5], limitArgument(limit))...)
	if err != nil {
		return outcome{}, err
	}
	var answer object
	answer.json("count", rows[0][0])
	answer.bool("dryRun", true)
	return outcome{body: answer.end()}, nil
}

// limitArgument is a limit as an argument: nil for none.
func limitArgument(limit int) any {
	if limit < 0 {
		return nil
	}
	return limit
}

// redrive is one under way.
type redrive struct {
	s       Session
	filters []any
	limit   int // -1: none
	jsonb   bool
	until   time.Time

	count, skipped int
	more           bool     // there may be more: the limit or the time has ended it
	queues         []string // what was put back, or may have been, is theirs
}

// run goes through the dead letters by partition and message id, so that it comes to an
// end whatever is added meanwhile, and whatever is skipped.
func (d *redrive) run() error {
	partition, message := "00000000-0000-0000-0000-000000000000", "00000000-0000-0000-0000-000000000000"
	for {
		n := redriveMessagesMax
		if d.limit >= 0 {
			n = min(n, d.limit-d.count)
		}
		if n == 0 || time.Now().After(d.until) {
			d.more = true
			return nil
		}
		rows, err := d.s.Rows("admin_redrive_pick", append(d.filters[:5:5], partition, message, n)...)
		if err != nil || len(rows) == 0 {
			return onlyRead(err)
		}
		partition = string(rows[0][0])
		var messages []string
		for _, row := range rows {
			if string(row[0]) != partition {
				break // the next step's
			}
			message = string(row[1])
			messages = append(messages, message)
		}
		if err := d.step(partition, messages); err != nil {
			return err
		}
	}
}

// step puts some messages of one partition back.
func (d *redrive) step(partition string, messages []string) error {
	var back redelivery
	err := d.s.Transaction(func() error {
		back = redelivery{partition: partition, strict: true}
		if err := back.lock(d.s); err != nil {
			return err
		}
		rows, err := d.s.Rows("admin_redrive_transactions", partition, messages)
		if err != nil {
			return err
		}
		var transactions []string
		for _, row := range rows {
			transactions = append(transactions, string(row[0]))
		}
		if err := back.look(d.s, transactions); err != nil {
			return err
		}
		back.messages = slices.DeleteFunc(back.messages, func(m *redelivered) bool { return !slices.Contains(messages, m.id) })
		if len(back.messages) == 0 {
			return nil
		}
		return back.store(d.s, d.jsonb)
	})
	switch {
	case err != nil && !mayBeDone(err):
		return err
	case len(back.messages) == 0:
		err = onlyRead(err)
	case !slices.Contains(d.queues, back.queue):
		d.queues = append(d.queues, back.queue)
	}
	if mayBeDone(err) {
		err = &partial{err, fmt.Sprintf("whether the next %d messages were put back is not known", len(back.messages))}
	}
	if err != nil {
		return err
	}
	d.count += len(back.messages)
	d.skipped += len(messages) - len(back.messages)
	return nil
}

// redelivery puts messages of one partition back at its end. It runs in a goroutine, in a
// transaction.
type redelivery struct {
	partition string
	strict    bool // only the very message that a dead letter is of, not a later one of its transaction

	queue    string
	messages []*redelivered
}

// redelivered is a message that goes back.
type redelivered struct {
	transaction string
	id          string // until now
	createdAt   string
	newID       string
	letter      string // the dead letter that has a copy; "": none has
	stored      bool   // the message itself is there: it moves, its payload is not touched
}

func (b *redelivery) find(s Session, transactions []string) error {
	if err := b.lock(s); err != nil {
		return err
	}
	return b.look(s, transactions)
}

// lock takes the head's lock, and sees to it that every dead letter of the partition has
// its copy (those that Queen wrote may have none yet).
func (b *redelivery) lock(s Session) error {
	if _, err := s.Rows("push_lock", []string{b.partition}); err != nil {
		return err
	}
	_, err := s.Rows("admin_redrive_copy", b.partition)
	return err
}

// look finds what can be put back, in the order in which it was pushed.
func (b *redelivery) look(s Session, transactions []string) error {
	stored, err := s.Rows("admin_redrive_lock", b.partition, transactions)
	if err != nil {
		return err
	}
	letters, err := s.Rows("admin_redrive_letters", b.partition, transactions)
	if err != nil {
		return err
	}
	found := map[string]*redelivered{}
	for _, row := range stored {
		m := &redelivered{transaction: string(row[0]), id: string(row[1]), createdAt: string(row[2]), stored: true}
		found[m.transaction] = m
	}
	for _, row := range letters {
		m := &redelivered{transaction: string(row[0]), id: string(row[1]), createdAt: string(row[2]), letter: string(row[3])}
		switch there := found[m.transaction]; {
		case there == nil:
			found[m.transaction] = m
		case b.strict && there.stored && there.id != m.id:
			delete(found, m.transaction)
		}
	}
	for _, m := range found {
		b.messages = append(b.messages, m)
	}
	slices.SortFunc(b.messages, func(a, b *redelivered) int {
		return cmp.Or(cmp.Compare(a.createdAt, b.createdAt), cmp.Compare(a.id, b.id))
	})
	return nil
}

// store gives the messages their new places.
func (b *redelivery) store(s Session, jsonb bool) error {
	head, err := s.Rows("admin_redrive_stamp", b.partition)
	if err != nil {
		return err
	}
	if len(head) == 0 {
		return &refusal{404, "Message not found"} // the partition was deleted
	}
	stamp := string(head[0][0])
	b.queue = string(head[0][1])
	ids := queue.NewIDs(func() int64 { return time.Now().UnixMilli() })
	var moved, restored struct{ keys, ids, ranks []string }
	var old []string
	for i, m := range b.messages {
		m.newID = ids.Next().String()
		to, key := &moved, m.transaction
		if !m.stored {
			to, key = &restored, m.letter
		}
		to.keys, to.ids, to.ranks = append(to.keys, key), append(to.ids, m.newID), append(to.ranks, strconv.Itoa(i+1))
		old = append(old, m.id)
	}
	if len(restored.ids) > 0 {
		name := "admin_redrive_restore"
		if jsonb {
			name = "admin_redrive_restore_jsonb"
		}
		if _, err := s.Rows(name, b.partition, stamp, restored.keys, restored.ids, restored.ranks); err != nil {
			return err
		}
	}
	// The dead letters go after their copies are used, and before a message moves: where
	// Queen's foreign key is left, they refer to its old id.
	if _, err := s.Rows("admin_redrive_done", b.partition, old); err != nil {
		return err
	}
	if len(moved.ids) > 0 {
		if _, err := s.Rows("admin_redrive_leases", b.partition, moved.keys); err != nil {
			return err
		}
		if _, err := s.Rows("admin_redrive_move", b.partition, stamp, moved.keys, moved.ids, moved.ranks); err != nil {
			return err
		}
	}
	last := b.messages[len(b.messages)-1].newID
	_, err = s.Rows("admin_redrive_head", b.partition, stamp, len(b.messages), last)
	return err
}
