package api

// listLetters shows dead letters, newest first. from and to are about when they died.
func (r *Router) listLetters(x Exchange) {
	filters := letterFilters(filter(x, "queue"), filter(x, "partition"), filter(x, "consumerGroup"), timeFilter(x, "from"), timeFilter(x, "to"))
	r.listPage(x, 100, "messages", "admin_letters", filters, r.shownLetter)
}

// letterFilters are the arguments by which every statement about dead letters begins.
func letterFilters(queue, partition, group, from, to any) []any {
	return []any{queue, partition, group, from, to}
}

func (r *Router) shownLetter(row [][]byte) []byte {
	var m object
	m.column("consumerGroup", row[0])
	m.column("createdAt", row[1])
	m.json("data", r.opened(row[2]))
	m.column("errorMessage", row[3])
	m.column("failedAt", row[4])
	m.column("id", row[5])
	m.column("partition", row[6])
	m.column("partitionId", row[7])
	m.column("producerSub", row[8])
	m.column("queue", row[9])
	m.json("retryCount", row[10])
	m.column("transactionId", row[11])
	return m.end()
}

// buriedBy is what a dead letter says whose burier said nothing.
const buriedBy = "Moved to the dead letter queue on request"

// buryMessage moves a message to the dead letters of a group (consumerGroup in the body,
// else the implicit one). The dead letter keeps its own copy. What becomes of the message
// depends on where the group stands, since a cursor can only pass what lies before it:
//
//   - The group is past it: only the dead letter is added.
//   - It is the next one that the group would read: the cursor passes it. The other
//     groups read it as before.
//   - The group has others to read before it, and no other group still has to read
//     it: it is taken out of the partition.
//   - The same, and another group still has to read it: 409, nothing is done.
//     Passing it would skip the others, and taking it out would take it from that group.
//
// Asking again changes nothing.
func (r *Router) buryMessage(x Exchange, p Params) {
	body, err := readBody(x, false)
	if err != nil {
		r.adminFault(x, err)
		return
	}
	partition, transaction := string(p.Get(0)), string(p.Get(1))
	name, _ := body.text("consumerGroup")
	sentence, _ := body.text("error")
	name = group([]byte(name))
	if sentence == "" {
		sentence = buriedBy
	}
	r.administer(x, func(s Session) (outcome, error) {
		var changed []string
		err := s.Transaction(func() (err error) {
			changed, err = bury(s, partition, transaction, name, sentence)
			return err
		})
		if err != nil {
			return outcome{}, err
		}
		var answer object
		answer.text("consumerGroup", name)
		answer.text("message", "Message moved to the dead letter queue")
		answer.text("partitionId", partition)
		answer.bool("success", true)
		answer.text("transactionId", transaction)
		return outcome{body: answer.end(), changed: changed}, nil
	})
}

func bury(s Session, partition, transaction, name, sentence string) (changed []string, err error) {
	// Locks in the order of everybody: the head, then the cursors.
	if _, err = s.Rows("push_lock", []string{partition}); err != nil {
		return nil, err
	}
	if _, err = s.Rows("admin_bury_lock", partition); err != nil {
		return nil, err
	}
	rows, err := s.Rows("admin_bury_look", partition, transaction, name)
	if err != nil {
		return nil, err
	}
	if len(rows) == 0 {
		letters, err := s.Rows("admin_bury_known", partition, transaction, name)
		if err == nil && len(letters) == 0 {
			err = &refusal{404, "Message not found"}
		}
		return nil, err
	}
	past, next, wanted := yes(rows[0][1]), yes(rows[0][2]), yes(rows[0][3])
	if _, err = s.Rows("admin_bury_letter", partition, transaction, name, sentence); err != nil {
		return nil, err
	}
	switch {
	case past:
	case next:
		_, err = s.Rows("admin_bury_pass", partition, transaction, name)
	case wanted:
		err = &refusal{409, "it is not the next message of this group, and another group has not read it yet: nothing was changed"}
	default:
		if _, err = s.Rows("admin_lease_shrink", partition, transaction); err != nil {
			return nil, err
		}
		var gone [][][]byte
		gone, err = s.Rows("admin_bury_remove", partition, transaction)
		if err == nil && len(gone) == 0 {
			err = &refusal{503, "the database is still being taken over, and Queen's foreign key would delete the dead letter with its message; try again later"}
		}
	}
	return []string{string(rows[0][0])}, err
}
