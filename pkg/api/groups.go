package api

import (
	"slices"
	"strconv"
)

// The routes of consumer groups move cursors. A group's name may be empty in a path: that
// is the implicit group, as everywhere, except where all of its queues would lose theirs.

// deleteGroup forgets a group: cursors, leases, and, unless deleteMetadata is false, where
// it begins. It starts anew when it pops again.
func (r *Router) deleteGroup(x Exchange, p Params) {
	if len(p.Get(0)) == 0 {
		// A script whose variable is empty would set back every queue's own consumers.
		r.fail(x, 400, nil, "the name of the group is missing; that of a queue's own consumers is "+queueMode)
		return
	}
	r.forgetGroup(x, string(p.Get(0)), nil)
}

// deleteGroupInQueue forgets a group in one queue. If it is written down where the group
// begins in the queue's namespace or task, that stays, and it begins there again.
func (r *Router) deleteGroupInQueue(x Exchange, p Params) {
	r.forgetGroup(x, group(p.Get(0)), string(p.Get(1)))
}

// forgetGroup is both; queue is nil for all queues.
func (r *Router) forgetGroup(x Exchange, name string, queue any) {
	metadata := true
	if _, given := queryText(x, "deleteMetadata"); given {
		metadata = queryBool(x, "deleteMetadata")
	}
	r.administer(x, func(s Session) (outcome, error) {
		var deleted int
		var o outcome
		err := s.Transaction(func() error {
			deleted, o = 0, outcome{}
			if _, err := s.Rows("admin_group_lock", name, queue); err != nil {
				return err
			}
			rows, err := s.Rows("admin_group_delete", name, queue)
			if err != nil {
				return err
			}
			for _, row := range rows {
				n, _ := strconv.Atoi(string(row[1]))
				deleted += n
				o.changed = append(o.changed, string(row[0]))
			}
			if metadata {
				if rows, err = s.Rows("admin_group_forget", name, queue); err == nil {
					o.began(rows)
				}
			}
			return err
		})
		if err != nil {
			return outcome{}, err
		}
		var answer object
		answer.text("consumerGroup", name)
		answer.int("deletedPartitions", deleted)
		answer.bool("metadataDeleted", metadata)
		if queue != nil {
			answer.text("queueName", queue.(string))
		}
		answer.bool("success", true)
		o.body = answer.end()
		return o, nil
	})
}

// began notes where beginnings were changed: rows of a queue each, or null.
func (o *outcome) began(rows [][][]byte) {
	for _, row := range rows {
		if row[0] == nil {
			o.all = true
		} else if name := string(row[0]); !slices.Contains(o.changed, name) {
			o.changed = append(o.changed, name)
		}
	}
}

// subscription changes where a group begins in partitions that it has not read yet. The
// cursors that it has stay.
func (r *Router) subscription(x Exchange, p Params) {
	body, err := readBody(x, true)
	if err != nil {
		r.adminFault(x, err)
		return
	}
	timestamp, ok := body.text("subscriptionTimestamp")
	if !ok || timestamp == "" {
		r.fail(x, 400, nil, "Missing subscriptionTimestamp in request body")
		return
	}
	if endless(timestamp) {
		r.fail(x, 400, nil, "subscriptionTimestamp must be a time: "+timestamp+" is none")
		return
	}
	name := group(p.Get(0))
	r.administer(x, func(s Session) (outcome, error) {
		rows, err := s.Rows("admin_subscription", name, timestamp)
		if err != nil {
			return outcome{}, err
		}
		var o outcome
		o.began(rows[1:])
		var answer object
		answer.text("consumerGroup", name)
		answer.column("newTimestamp", rows[0][0])
		answer.json("rowsUpdated", rows[0][1])
		answer.bool("success", true)
		o.body = answer.end()
		return o, nil
	})
}

// seek moves a group's cursors in all partitions of a queue: to the end, or so that what
// was pushed after a timestamp is what it reads next. Leases end.
//
// What moves are cursors that are there. A group whose beginning is stored has one in every
// partition, for Queen made them at once; where queend has not yet, a seek does. A group that
// has none in the queue, as it has never popped, gets one in each partition: else a seek
// before its first pop would be in vain. Any other group that has not come to a partition
// begins there at the first message, now as before.
func (r *Router) seek(x Exchange, p Params) {
	body, err := readBody(x, true)
	if err != nil {
		r.adminFault(x, err)
		return
	}
	timestamp, ok := body.text("timestamp")
	end := body.yes("toEnd")
	if !end && (!ok || timestamp == "") {
		r.fail(x, 400, nil, "Must specify either 'toEnd': true or 'timestamp'")
		return
	}
	if !end && endless(timestamp) {
		r.fail(x, 400, nil, "timestamp must be a time: "+timestamp+" is none; toEnd is for the end")
		return
	}
	name, queue := group(p.Get(0)), string(p.Get(1))
	r.administer(x, func(s Session) (outcome, error) {
		var rows [][][]byte
		var target []byte
		err := s.Transaction(func() (err error) {
			if _, err = s.Rows("admin_group_lock", name, queue); err != nil {
				return err
			}
			if end {
				rows, err = s.Rows("admin_seek_end", name, queue, nil)
				return err
			}
			when, err := s.Rows("admin_seek_begin", name, queue, timestamp)
			if err != nil {
				return err
			}
			target = when[0][0]
			rows, err = s.Rows("admin_seek_time", name, queue, timestamp)
			return err
		})
		if err != nil {
			return outcome{}, err
		}
		if len(rows) == 0 {
			known, err := s.Rows("admin_queue_known", queue)
			if err == nil && len(known) == 0 {
				err = &refusal{404, "Queue not found"}
			}
			if err != nil {
				return outcome{}, err
			}
		}
		var answer object
		answer.text("consumerGroup", name)
		answer.int("partitionsUpdated", len(rows))
		answer.text("queueName", queue)
		answer.bool("seekToEnd", end)
		answer.bool("success", true)
		answer.column("targetTimestamp", target)
		o := outcome{body: answer.end()}
		if len(rows) > 0 {
			o.changed = []string{queue}
		}
		return o, nil
	})
}

// seekPartition moves a group's cursor in one partition to the end.
func (r *Router) seekPartition(x Exchange, p Params) {
	if _, err := readBody(x, false); err != nil {
		r.adminFault(x, err)
		return
	}
	name, queue, partition := group(p.Get(0)), string(p.Get(1)), string(p.Get(2))
	r.administer(x, func(s Session) (outcome, error) {
		var rows [][][]byte
		err := s.Transaction(func() (err error) {
			rows, err = s.Rows("admin_seek_end", name, queue, partition)
			return err
		})
		if err != nil {
			return outcome{}, err
		}
		var answer object
		updated := len(rows) > 0
		if !updated {
			// Where the cursor would be is said all the same, as Queen does.
			if rows, err = s.Rows("admin_seek_head", queue, partition); err != nil {
				return outcome{}, err
			}
		}
		if len(rows) == 0 {
			answer.text("error", "Partition not found")
			answer.bool("success", false)
			return outcome{status: 404, body: answer.end()}, nil
		}
		answer.text("consumerGroup", name)
		answer.column("cursorMovedTo", rows[0][0])
		answer.text("partitionName", partition)
		answer.text("queueName", queue)
		answer.bool("success", true)
		answer.bool("updated", updated)
		o := outcome{body: answer.end()}
		if updated {
			o.changed = []string{queue}
		}
		return o, nil
	})
}
