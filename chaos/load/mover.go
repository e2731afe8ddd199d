package load

import (
	"encoding/json"
	"fmt"
	"strings"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/oracle"
)

// move pops from one queue and, for each message, acknowledges it and pushes a child of
// it to the other queue, all that a pop brought in one transaction. Nothing else
// acknowledges in its group, and each acknowledgment names its lease, so that each message
// has one child in the end.
func (w *worker) move() {
	for w.load.consuming.Err() == nil {
		if p := w.pop(Mover, Work, 1+w.rng.IntN(moverBatch), 1+w.rng.IntN(2)); p != nil {
			w.transact(p.Messages)
		}
	}
}

// moverBatch is the most messages of one transaction.
const moverBatch = 20

// transact does one transaction, and again if its outcome is unknown.
func (w *worker) transact(messages []message) {
	key := ""
	if w.rng.IntN(2) == 0 {
		key = "t-"
	}
	var operations []string
	var children []*history.Message
	acksFirst := w.rng.IntN(2) == 0
	for i := range messages {
		m := &messages[i]
		child := w.message(Out, fmt.Sprint(w.rng.IntN(w.load.config.Partitions)), key)
		child.Parent = oracle.UID(string(m.Data))
		children = append(children, child)
		push := `{"type":"push","items":[` + item(child) + `]}`
		ack := strings.Replace(acknowledgment(m, Mover, m.LeaseID, "completed"), "{", `{"type":"ack",`, 1)
		if acksFirst {
			push, ack = ack, push
		}
		operations = append(operations, push, ack)
	}
	body := `{"operations":[` + strings.Join(operations, ",") + `]}`
	a := w.c.call("POST", "/api/v1/transaction", body, 0)
	if outcome := w.recordTransaction(a, messages, children); outcome != history.Unknown || key == "" {
		return
	}
	// The same once more, over another connection: if the first was done, its leases are
	// over or its messages are there, and this one does nothing.
	log := &history.Log{}
	c := w.connection(log, w.rng.IntN(len(w.load.config.Dials)))
	again := c.call("POST", "/api/v1/transaction", body, 0)
	c.close()
	w.log.Calls = append(w.log.Calls, log.Calls...)
	w.recordTransaction(again, messages, children)
}

func (w *worker) recordTransaction(a answer, messages []message, children []*history.Message) history.Outcome {
	var result struct {
		Success *bool  `json:"success"`
		Error   string `json:"error"`
		Results []struct {
			Type      string `json:"type"`
			MessageID string `json:"messageId"`
		} `json:"results"`
	}
	outcome, why := a.outcome(), a.why
	ids := make([]string, 0, len(children))
	if outcome == history.OK {
		switch err := json.Unmarshal(a.body, &result); {
		case err != nil || result.Success == nil:
			w.wrong("a transaction was answered %d %.300s", a.status, a.body)
			outcome = history.Unknown
		case !*result.Success:
			outcome, why = history.Fail, result.Error
		default:
			for _, r := range result.Results {
				if r.Type == "push" {
					ids = append(ids, r.MessageID)
				}
			}
			if len(ids) != len(children) || len(result.Results) != 2*len(children) {
				w.wrong("a transaction of %d pushes and acks was answered %.300s", len(children), a.body)
			}
		}
	}
	for i, m := range messages {
		id := ""
		if i < len(ids) {
			id = ids[i]
		}
		children[i].Attempts = append(children[i].Attempts, history.Attempt{Start: a.start, End: a.end, Outcome: outcome, Status: a.status, ID: id, Server: a.server, Why: why})
		w.log.Acks = append(w.log.Acks, history.Ack{
			Consumer: w.name, Group: Mover, PartitionID: m.PartitionID, MessageID: m.ID, Lease: m.LeaseID, Status: "completed",
			Start: a.start, End: a.end, Outcome: outcome, Refused: outcome == history.Fail && a.status == 200, Why: why, Transaction: true,
		})
	}
	return outcome
}
