package api

import (
	"strconv"
)

// listMessages shows messages, newest first, of the last hour unless from and to say
// otherwise. What has become of a message is told by the cursors and leases of its
// partition; the status is the implicit group's where that has read the partition, or
// nobody has, else that of all groups together: completed when each is past it.
func (r *Router) listMessages(x Exchange) {
	limit, offset := page(x, 200)
	namespace := filter(x, "ns")
	if namespace == nil {
		namespace = filter(x, "namespace") // Queen's clients send this one, and Queen does not look at it
	}
	filters := []any{filter(x, "queue"), filter(x, "partition"), namespace, filter(x, "task")}
	arguments := append(filters[:4:4], filter(x, "status"), timeFilter(x, "from"), timeFilter(x, "to"), limit, offset)
	r.look(x, func(s Session) (outcome, error) {
		rows, err := s.Rows("admin_messages", arguments...)
		if err != nil {
			return outcome{}, err
		}
		groups, err := s.Rows("admin_messages_groups", filters...)
		if err != nil {
			return outcome{}, err
		}
		var answer object
		answer.json("messages", list(len(rows), func(i int) []byte { return listedMessage(rows[i]) }))
		answer.json("mode", mode(yes(groups[0][0]), groups[0][1], nil))
		return outcome{body: answer.end()}, nil
	})
}

func listedMessage(row [][]byte) []byte {
	var bus, m object
	bus.json("consumedBy", row[0])
	bus.json("totalGroups", row[1])
	m.json("busStatus", bus.end())
	m.column("createdAt", row[2])
	m.column("id", row[3])
	m.column("leaseExpiresAt", row[4])
	m.column("namespace", row[5])
	m.column("partition", row[6])
	m.column("partitionId", row[7])
	m.column("producerSub", row[8])
	m.column("queue", row[9])
	m.text("queuePath", string(row[9])+"/"+string(row[6]))
	m.json("queuePriority", row[10])
	m.column("queueStatus", row[11])
	m.column("status", row[12])
	m.column("task", row[13])
	m.column("traceId", row[14])
	m.column("transactionId", row[15])
	return m.end()
}

// mode says who reads: the implicit group (queue), others (bus), both or none. consumed
// is how many of the others are past a message, nil where there is none.
func mode(queue bool, groups, consumed []byte) []byte {
	kind := "none"
	switch bus := string(groups) != "0"; {
	case queue && bus:
		kind = "hybrid"
	case queue:
		kind = "queue"
	case bus:
		kind = "bus"
	}
	var m object
	m.json("busGroupsCount", groups)
	if consumed != nil {
		m.json("consumedByGroups", consumed)
	}
	m.bool("hasQueueMode", queue)
	m.text("type", kind)
	return m.end()
}

// getMessage shows one message and who has read it. Its payload is decrypted if it can be.
func (r *Router) getMessage(x Exchange, p Params) {
	partition, transaction := string(p.Get(0)), string(p.Get(1))
	r.look(x, func(s Session) (outcome, error) {
		rows, err := s.Rows("admin_message", partition, transaction)
		if err != nil {
			return outcome{}, err
		}
		if len(rows) == 0 {
			return outcome{}, &refusal{404, "Message not found"}
		}
		groups, err := s.Rows("admin_message_groups", partition, transaction)
		if err != nil {
			return outcome{}, err
		}
		return outcome{body: r.shownMessage(rows[0], groups)}, nil
	})
}

func (r *Router) shownMessage(row [][]byte, groups [][][]byte) []byte {
	bus, consumed, queue := 0, 0, false
	readers := list(len(groups), func(i int) []byte {
		name, past := string(groups[i][0]), yes(groups[i][1])
		switch {
		case name == queueMode:
			queue = true
		case past:
			consumed++
			fallthrough
		default:
			bus++
		}
		var g object
		g.bool("consumed", past)
		g.column("leaseExpiresAt", groups[i][2])
		g.text("name", name)
		return g.end()
	})
	var config, m object
	config.json("leaseTime", row[13])
	config.json("priority", row[14])
	config.json("retryDelay", row[15])
	config.json("retryLimit", row[16])
	config.json("ttl", row[17])
	m.json("consumerGroups", readers)
	m.column("createdAt", row[0])
	m.column("errorMessage", row[1])
	m.column("id", row[2])
	m.bool("isEncrypted", yes(row[3]))
	m.column("leaseExpiresAt", row[4])
	m.json("mode", mode(queue, strconv.AppendInt(nil, int64(bus), 10), strconv.AppendInt(nil, int64(consumed), 10)))
	m.column("namespace", row[5])
	m.column("partition", row[6])
	m.column("partitionId", row[7])
	m.json("payload", r.opened(row[8]))
	m.column("producerSub", row[9])
	m.column("queue", row[10])
	m.json("queueConfig", config.end())
	m.text("queuePath", string(row[10])+"/"+string(row[6]))
	m.json("retryCount", row[11])
	m.column("status", row[12])
	m.column("task", row[18])
	m.column("traceId", row[19])
	m.column("transactionId", row[20])
	return m.end()
}

// opened is a payload as it is shown: decrypted if it is an envelope that we have the key
// of, else as it was sent, or without the spaces that jsonb has put into it. Any goroutine.
func (r *Router) opened(payload []byte) []byte {
	config := r.stores.Config
	if plain, ok := config.Sealer.Open(nil, payload); ok {
		return plain
	}
	if config.PayloadJSONB && payload != nil {
		return compact(payload)
	}
	return payload
}

// deleteMessage deletes one message, with its dead letters and traces. Where only a dead
// letter is left of it, that goes.
func (r *Router) deleteMessage(x Exchange, p Params) {
	partition, transaction := string(p.Get(0)), string(p.Get(1))
	r.administer(x, func(s Session) (outcome, error) {
		deleted := false
		var changed []string
		err := s.Transaction(func() error {
			// The head's lock keeps retention from moving the tail meanwhile.
			if _, err := s.Rows("push_lock", []string{partition}); err != nil {
				return err
			}
			leases, err := s.Rows("admin_lease_shrink", partition, transaction)
			if err != nil {
				return err
			}
			changed = nil
			if len(leases) > 0 {
				changed = []string{string(leases[0][0])}
			}
			rows, err := s.Rows("admin_message_delete", partition, transaction)
			if err == nil {
				deleted = yes(rows[0][0])
			}
			return err
		})
		if err != nil {
			return outcome{}, err
		}
		sentence := "Message not found"
		if deleted {
			sentence = "Message deleted successfully"
		}
		var answer object
		answer.text("message", sentence)
		answer.text("partitionId", partition)
		answer.bool("success", deleted)
		answer.text("transactionId", transaction)
		return outcome{body: answer.end(), changed: changed}, nil
	})
}
