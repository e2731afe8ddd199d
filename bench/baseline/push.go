package main

import (
	"encoding/json"
	"io"
	"net/http"
	"strconv"

	"github.com/google/uuid"
	"github.com/jackc/pgx/v5/pgtype"
)

// item is one message of a push, and what became of it.
type item struct {
	queue, partition string
	payload          json.RawMessage
	transactionID    string
	trace            pgtype.UUID
	id               pgtype.UUID
	at               pgtype.UUID // its partition

	status string // empty: not decided yet
	winner pgtype.UUID
}

// wireItem is an item as it is sent; nil is absent.
type wireItem struct {
	Queue         json.RawMessage `json:"queue"`
	Partition     json.RawMessage `json:"partition"`
	TransactionID json.RawMessage `json:"transactionId"`
	TraceID       json.RawMessage `json:"traceId"`
	Payload       json.RawMessage `json:"payload"`
}

// answer is an item as it is answered, keys in the order of their bytes.
type answer struct {
	Index         int          `json:"index"`
	MessageID     pgtype.UUID  `json:"message_id"`
	PartitionID   *pgtype.UUID `json:"partition_id,omitempty"`
	QueueName     string       `json:"queueName"`
	Status        string       `json:"status"`
	TraceID       *pgtype.UUID `json:"trace_id,omitempty"`
	TransactionID string       `json:"transactionId"`
	Transaction   string       `json:"transaction_id"`
}

func push(s *store) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			refuse(w, http.StatusBadRequest, err.Error())
			return
		}
		items, why := decode(body)
		if why != "" {
			refuse(w, http.StatusBadRequest, why)
			return
		}
		if err := s.push(r.Context(), items); err != nil {
			refuse(w, http.StatusServiceUnavailable, err.Error())
			return
		}
		reply(w, http.StatusCreated, answers(items))
	})
}

func refuse(w http.ResponseWriter, status int, why string) {
	reply(w, status, map[string]string{"error": why})
}

func reply(w http.ResponseWriter, status int, body any) {
	text, err := json.Marshal(body)
	if err != nil {
		panic("BUG: an answer that is no JSON: " + err.Error())
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Content-Length", strconv.Itoa(len(text))) // or an answer of 2 KiB is chunked
	w.WriteHeader(status)
	_, _ = w.Write(text) // the client may be gone
}

// decode refuses what Queen refuses, in its words; why is empty when it does not.
func decode(body []byte) (items []item, why string) {
	var request struct {
		Items *[]wireItem `json:"items"`
	}
	if err := json.Unmarshal(body, &request); err != nil {
		return nil, "Invalid JSON: " + err.Error()
	}
	if request.Items == nil {
		return nil, "items array is required"
	}
	items = make([]item, len(*request.Items))
	for i, wire := range *request.Items {
		if why := items[i].read(wire); why != "" {
			return nil, why
		}
	}
	return items, ""
}

func (it *item) read(wire wireItem) (why string) {
	it.partition, it.payload = "Default", wire.Payload
	if wire.Payload == nil {
		it.payload = json.RawMessage("null")
	}
	trace := ""
	switch {
	case wire.Partition != nil && !text(wire.Partition, &it.partition):
		return "Partition must be a string"
	case !text(wire.Queue, &it.queue):
		return "Queue must be a string"
	case wire.TransactionID != nil && !text(wire.TransactionID, &it.transactionID):
		return "TransactionId must be a string"
	case wire.TraceID != nil && !text(wire.TraceID, &trace):
		return "TraceId must be a string"
	case trace != "" && it.trace.Scan(trace) != nil:
		return "TraceId must be a UUID"
	}
	it.id = newID()
	if it.transactionID == "" {
		it.transactionID = uuid.UUID(newID().Bytes).String()
	}
	return ""
}

// newID makes a UUIDv7, as queend does for messages and for transactions without a name.
func newID() pgtype.UUID {
	return pgtype.UUID{Bytes: uuid.Must(uuid.NewV7()), Valid: true}
}

// text reads a JSON string; anything else, null too, is none.
func text(raw json.RawMessage, into *string) bool {
	return len(raw) > 0 && raw[0] == '"' && json.Unmarshal(raw, into) == nil
}

func answers(items []item) []answer {
	all := make([]answer, len(items))
	for i := range items {
		it := &items[i]
		all[i] = answer{Index: i, MessageID: it.winner, QueueName: it.queue, Status: it.status,
			TransactionID: it.transactionID, Transaction: it.transactionID}
		if it.status == queued {
			all[i].PartitionID, all[i].TraceID = &it.at, &it.trace
		}
	}
	return all
}
