package load

import (
	"encoding/json"
	"fmt"
	"net/url"
	"strings"
	"time"

	"github.com/queend/queend/chaos/history"
)

// How consumers behave, in percent of the batches that they get.
const (
	refusePercent  = 8 // nack all
	retryPercent   = 3 // give all back
	partPercent    = 8 // acknowledge some, forget the rest until the lease is over
	forgetPercent  = 3 // acknowledge nothing
	buryPercent    = 1 // dead-letter the first
	extendPercent  = 8 // extend the lease first
	oneByOne       = 15
	unleasedAcks   = 20 // without the lease's id
	onePartition   = 15 // pops of one partition
	byNamespace    = 10 // pops by namespace and task
	pushesPerBatch = 20 // most messages of a pop
)

// popped is the answer to a pop.
type popped struct {
	Success  *bool     `json:"success"`
	Paused   bool      `json:"paused"`
	Error    string    `json:"error"`
	LeaseID  string    `json:"leaseId"`
	Messages []message `json:"messages"`

	start, end time.Duration
}

type message struct {
	ID            string          `json:"id"`
	TransactionID string          `json:"transactionId"`
	Queue         string          `json:"queue"`
	Partition     string          `json:"partition"`
	PartitionID   string          `json:"partitionId"`
	LeaseID       string          `json:"leaseId"`
	ConsumerGroup string          `json:"consumerGroup"`
	Data          json.RawMessage `json:"data"`
}

// pop pops once and records what came. Nil: nothing.
func (w *worker) pop(group, queue string, batch, partitions int) *popped {
	query := url.Values{
		"batch": {fmt.Sprint(batch)}, "wait": {"true"}, "timeout": {fmt.Sprint(w.load.config.Poll.Milliseconds())},
	}
	if group != QueueMode {
		query.Set("consumerGroup", group)
	}
	if group == Auto {
		query.Set("autoAck", "true")
	}
	path := "/api/v1/pop/queue/" + queue
	switch n := w.rng.IntN(100); {
	case n < onePartition:
		path += fmt.Sprintf("/partition/%d", w.rng.IntN(w.load.config.Partitions))
		query.Set("timeout", "50") // it must not wait where nothing comes
	case n < onePartition+byNamespace:
		namespace, task, _ := strings.Cut(queue, ".")
		path = "/api/v1/pop"
		query.Set("namespace", namespace)
		query.Set("task", task)
	default:
		query.Set("partitions", fmt.Sprint(partitions))
	}
	a := w.c.call("GET", path+"?"+query.Encode(), "", w.load.config.Poll)
	if a.outcome() != history.OK {
		sleep(w.load.consuming, 50*time.Millisecond)
		return nil
	}
	p := &popped{start: a.start, end: a.end}
	if err := json.Unmarshal(a.body, p); err != nil || p.Messages == nil {
		w.wrong("a pop was answered %d %.300s", a.status, a.body)
		return nil
	}
	if p.Success != nil && !*p.Success {
		sleep(w.load.consuming, 20*time.Millisecond)
	}
	for i := range p.Messages {
		m := &p.Messages[i]
		w.log.Deliveries = append(w.log.Deliveries, history.Delivery{
			Consumer: w.name, Group: group, Queue: w.load.keep(m.Queue), Partition: w.load.keep(m.Partition), PartitionID: w.load.keep(m.PartitionID), MessageID: m.ID,
			Key: m.TransactionID, Lease: w.load.keep(m.LeaseID), Payload: w.load.keep(string(m.Data)), Start: p.start, End: p.end, At: i, Auto: group == Auto,
		})
		if m.Queue != queue || m.LeaseID != p.LeaseID || (group == Auto) != (m.LeaseID == "") {
			w.wrong("a pop of %s for group %q with lease %q brought %+v", queue, group, p.LeaseID, *m)
		}
	}
	if len(p.Messages) > batch {
		w.wrong("a pop of %d brought %d messages", batch, len(p.Messages))
	}
	if len(p.Messages) == 0 {
		return nil
	}
	return p
}

// consume pops and acknowledges until the load is stopped.
func (w *worker) consume(group, queue string) {
	for w.load.consuming.Err() == nil {
		p := w.pop(group, queue, 1+w.rng.IntN(pushesPerBatch), 1+w.rng.IntN(4))
		if p == nil || group == Auto {
			continue
		}
		time.Sleep(time.Duration(w.rng.IntN(3)) * time.Millisecond) // the work
		w.settle(p, group)
	}
}

// settle does with a batch what consumers do.
func (w *worker) settle(p *popped, group string) {
	lease := p.LeaseID
	if w.rng.IntN(100) < unleasedAcks {
		lease = ""
	}
	dice := w.rng.IntN(100)
	if w.load.calm.Load() {
		dice = 99
	}
	within := func(percent int) bool {
		dice -= percent
		return dice < 0 && dice >= -percent
	}
	if w.rng.IntN(100) < extendPercent {
		w.extend(p)
	}
	switch {
	case within(refusePercent):
		w.ack(p.Messages, group, lease, "failed")
	case within(retryPercent):
		w.ack(p.Messages, group, lease, "retry")
	case within(partPercent):
		w.ack(p.Messages[:w.rng.IntN(len(p.Messages))+1], group, lease, "completed")
	case within(forgetPercent):
	case within(buryPercent):
		w.ack(p.Messages[:1], group, lease, "dlq")
	case within(oneByOne):
		for i := range p.Messages {
			w.ackOne(&p.Messages[i], group, lease, "completed")
		}
	default:
		w.ack(p.Messages, group, lease, "completed")
	}
}

func (w *worker) extend(p *popped) {
	seconds := int(w.load.config.Lease / time.Second)
	a := w.c.call("POST", "/api/v1/lease/"+p.LeaseID+"/extend", fmt.Sprintf(`{"seconds":%d}`, seconds), 0)
	var items []struct{ Success bool }
	if a.outcome() == history.OK && (json.Unmarshal(a.body, &items) != nil || len(items) != 1) {
		w.wrong("a lease extension was answered %d %.300s", a.status, a.body)
	}
}

// ack acknowledges messages in one request.
func (w *worker) ack(messages []message, group, lease, status string) {
	if len(messages) == 0 {
		return
	}
	var b strings.Builder
	for i := range messages {
		if i > 0 {
			b.WriteByte(',')
		}
		b.WriteString(acknowledgment(&messages[i], "", lease, status))
	}
	a := w.c.call("POST", "/api/v1/ack/batch", `{"acknowledgments":[`+b.String()+`],"consumerGroup":`+groupJSON(group)+`}`, 0)
	w.recordAcks(a, messages, group, lease, status)
}

func (w *worker) ackOne(m *message, group, lease, status string) {
	a := w.c.call("POST", "/api/v1/ack", acknowledgment(m, group, lease, status), 0)
	w.recordAcks(a, []message{*m}, group, lease, status)
}

// groupJSON writes queue mode as clients do.
func groupJSON(group string) string {
	if group == QueueMode {
		return "null"
	}
	return fmt.Sprintf("%q", group)
}

func acknowledgment(m *message, group, lease, status string) string {
	var more string
	if lease != "" {
		more = fmt.Sprintf(`,"leaseId":%q`, lease)
	}
	if group != "" {
		more += fmt.Sprintf(`,"consumerGroup":%q`, group)
	}
	return fmt.Sprintf(`{"transactionId":%q,"partitionId":%q,"status":%q%s}`, m.TransactionID, m.PartitionID, status, more)
}

func (w *worker) recordAcks(a answer, messages []message, group, lease, status string) {
	var items []struct {
		Success bool    `json:"success"`
		Error   *string `json:"error"`
	}
	outcome := a.outcome()
	if outcome == history.OK && (json.Unmarshal(a.body, &items) != nil || len(items) != len(messages)) {
		w.wrong("%d acknowledgments were answered %d %.300s", len(messages), a.status, a.body)
		outcome = history.Unknown
	}
	for i := range messages {
		m := &messages[i]
		x := history.Ack{
			Consumer: w.name, Group: group, PartitionID: m.PartitionID, MessageID: m.ID, Lease: lease, Status: status,
			Start: a.start, End: a.end, Outcome: outcome, Why: a.why,
		}
		if outcome == history.OK && !items[i].Success {
			x.Outcome, x.Refused = history.Fail, true
			if items[i].Error != nil {
				x.Why = *items[i].Error
			}
			if strings.Contains(x.Why, "may have been taken") {
				x.Outcome, x.Refused = history.Unknown, false
			}
		}
		w.log.Acks = append(w.log.Acks, x)
	}
}
