package api

import (
	"strconv"
	"strings"
	"time"
)

// clearRowsMax is how many messages one transaction of a clear takes.
const clearRowsMax = 10_000

// clearQueue takes all messages out of a queue, or out of one of its partitions: those that
// are there when it is asked. The queue, its partitions and the groups stay, and numbers go on
// behind what went; dead letters keep their own copies. It is what retention does to messages
// that are too old, with the same statements: leases of which nothing is left end.
func (r *Router) clearQueue(x Exchange, p Params) {
	name, partition := string(p.Get(0)), filter(x, "partition")
	r.administer(x, func(s Session) (outcome, error) {
		c := clearing{s: s, until: time.Now().Add(workBudget)}
		known, err := s.Rows("admin_clear_places", name, partition)
		if err != nil {
			return outcome{}, onlyRead(err)
		}
		if len(known) == 0 {
			return outcome{}, &refusal{404, "Queue not found"}
		}
		if partition != nil && known[0][0] == nil {
			return outcome{}, &refusal{404, "Partition not found"}
		}
		for len(known) > 0 {
			n := min(len(known), deletePartitionsMax)
			if err := c.clear(known[:n]); err != nil {
				return outcome{changed: []string{name}}, err
			}
			known = known[n:]
		}
		var answer object
		answer.bool("cleared", true)
		answer.int("count", c.gone)
		if partition != nil {
			answer.text("partition", partition.(string))
		}
		answer.text("queue", name)
		answer.bool("success", true)
		return outcome{body: answer.end(), changed: []string{name}}, nil
	})
}

type clearing struct {
	s     Session
	until time.Time
	gone  int
}

// clear takes out what partitions have up to places: (id, created_at, id of the message) each,
// null where there has never been one.
func (c *clearing) clear(places [][][]byte) error {
	var parts, upToAt, upToID, ever, firstAt, firstID []string
	for _, place := range places {
		if place[0] == nil || place[1] == nil {
			continue
		}
		parts = append(parts, string(place[0]))
		upToAt, upToID = append(upToAt, string(place[1])), append(upToID, string(place[2]))
		ever, firstAt = append(ever, "infinity"), append(firstAt, "-infinity")
		firstID = append(firstID, "00000000-0000-0000-0000-000000000000")
	}
	for len(parts) > 0 {
		if time.Now().After(c.until) {
			return &refusal{503, "the queue cannot be cleared at once; much of it may be gone, ask again for the rest"}
		}
		var n int
		err := c.s.Transaction(func() (err error) {
			n, err = c.piece(parts, ever, firstAt, firstID, upToAt, upToID)
			return err
		})
		if err != nil && (c.gone > 0 || mayBeDone(err)) {
			return &partial{err, "part of it may be gone, ask again for the rest"}
		}
		if err != nil {
			return err
		}
		if c.gone += n; n > 0 {
			continue
		}
		// A message that somebody rewrote or removed meanwhile is missed.
		left, err := c.s.Rows("admin_clear_left", parts, upToAt, upToID)
		if err != nil {
			return &partial{onlyRead(err), "part of it may be gone, ask again for the rest"}
		}
		if !yes(left[0][0]) {
			break
		}
		time.Sleep(clearPause)
	}
	return nil
}

// clearPause is how long a clear waits for others that are at work on the same messages.
const clearPause = 20 * time.Millisecond

// piece is one transaction. Where an older message is left, because it was missed, the numbers
// of those that went are holes; else they lie behind the tail.
func (c *clearing) piece(parts, cutoffs, afterAt, afterID, upToAt, upToID []string) (n int, err error) {
	losses, err := c.s.Rows("maintain_delete", parts, cutoffs, afterAt, afterID, upToAt, upToID, clearRowsMax)
	if err != nil || len(losses) == 0 {
		return 0, err
	}
	var lost, counts, beganAt, beganID, lastAt, lastID []string
	for _, l := range losses { // partition, messages, greatest number, first at, id, last at, id, numbers
		k, err := strconv.Atoi(string(l[1]))
		if err != nil {
			return 0, err
		}
		n += k
		lost, counts = append(lost, string(l[0])), append(counts, string(l[1]))
		beganAt, beganID = append(beganAt, string(l[3])), append(beganID, string(l[4]))
		lastAt, lastID = append(lastAt, string(l[5])), append(lastID, string(l[6]))
	}
	if _, err := c.s.Rows("maintain_leases", lost, lastAt, lastID); err != nil {
		return 0, err
	}
	if _, err := c.s.Rows("maintain_history", lost, counts, "clear"); err != nil {
		return 0, err
	}
	rows, err := c.s.Rows("maintain_older", lost, beganAt, beganID)
	if err != nil {
		return 0, err
	}
	older := map[string]bool{}
	for _, row := range rows {
		older[string(row[0])] = true
	}
	return n, c.account(losses, older)
}

// account keeps the numbers true. The heads are locked by the last statement.
func (c *clearing) account(losses [][][]byte, older map[string]bool) error {
	var inside, holes, numbered, tails []string
	for _, l := range losses {
		switch partition := string(l[0]); {
		case l[2] == nil: // a take-over has not numbered them yet
		case older[partition]:
			for _, seq := range strings.Split(strings.Trim(string(l[7]), "{}"), ",") {
				inside, holes = append(inside, partition), append(holes, seq)
			}
		default:
			numbered, tails = append(numbered, partition), append(tails, string(l[2]))
		}
	}
	if len(inside) > 0 {
		if _, err := c.s.Rows("maintain_holes", inside, holes); err != nil {
			return err
		}
	}
	if len(numbered) == 0 {
		return nil
	}
	if _, err := c.s.Rows("maintain_fill", numbered, tails); err != nil {
		return err
	}
	_, err := c.s.Rows("maintain_tail", numbered, tails)
	return err
}
