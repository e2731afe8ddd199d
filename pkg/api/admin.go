package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/queend/queend/pkg/queue"
)

// Session is the database as an administrative route sees it: rare statements, on a
// connection that is not the data path's, in a goroutine that may wait.
type Session interface {
	// Rows runs the statement of a name. Columns are text, nil for NULL. Arguments are
	// nil, string, []byte, int, bool or []string.
	Rows(name string, arguments ...any) ([][][]byte, error)

	// Transaction makes one transaction of the statements that work runs. It may run work
	// several times, so that work must begin by forgetting what it found.
	Transaction(work func() error) error
}

// AdminBodyBytesMax bounds the body of an administrative request. Larger: 413.
const AdminBodyBytesMax = 1 << 20

// workBudget is how long work that is done in many small transactions goes on before it
// answers with what it has done. Queen's clients wait 30 seconds.
const workBudget = 20 * time.Second

// outcome is what an administrative route answers. The zero status is 200.
type outcome struct {
	status  int
	body    []byte
	changed []string // queues whose messages may have become claimable
	all     bool     // those of any may have
}

// refusal is an error that is the client's own: its status and its sentence.
type refusal struct {
	status   int
	sentence string
}

// Error implements error.
func (e *refusal) Error() string { return e.sentence }

// partial is an error before which something was done, or may have been.
type partial struct {
	error
	done string // what, for the client
}

func (e *partial) Unwrap() error { return e.error }

// mayBeDone says whether an error leaves open if the transaction was committed.
func mayBeDone(err error) bool {
	var doubt interface {
		error
		MayBeDone() bool
	}
	return errors.As(err, &doubt) && doubt.MayBeDone()
}

// The administrative routes.
func (r *Router) addAdmin() {
	r.add("POST", "/api/v1/configure", r.configure)
	r.addPath("DELETE", "/api/v1/resources/queues/:queue", r.deleteQueue)
	r.add("GET", "/api/v1/resources/partitions", r.listPartitions)
	r.addPath("DELETE", "/api/v1/queues/:queue/clear", r.clearQueue)

	r.add("GET", "/api/v1/messages", r.listMessages)
	r.addPath("GET", "/api/v1/messages/:partitionId/:transactionId", r.getMessage)
	r.addPath("DELETE", "/api/v1/messages/:partitionId/:transactionId", r.deleteMessage)
	r.addPath("POST", "/api/v1/messages/:partitionId/:transactionId/retry", r.retryMessage)
	r.addPath("POST", "/api/v1/messages/:partitionId/:transactionId/dlq", r.buryMessage)

	r.add("GET", "/api/v1/dlq", r.listLetters)
	r.add("POST", "/api/v1/dlq/redrive", r.redrive)

	r.addPath("DELETE", "/api/v1/consumer-groups/:group", r.deleteGroup)
	r.addPath("DELETE", "/api/v1/consumer-groups/:group/queues/:queue", r.deleteGroupInQueue)
	r.addPath("POST", "/api/v1/consumer-groups/:group/subscription", r.subscription)
	r.addPath("POST", "/api/v1/consumer-groups/:group/queues/:queue/seek", r.seek)
	r.addPath("POST", "/api/v1/consumer-groups/:group/queues/:queue/partitions/:partition/seek", r.seekPartition)

	r.add("POST", "/api/v1/traces", r.trace)
	r.addPath("GET", "/api/v1/traces/:partitionId/:transactionId", r.listTraces)
	r.addPath("GET", "/api/v1/traces/by-name/:name", r.listNamedTraces)
	r.add("GET", "/api/v1/traces/names", r.listTraceNames)
}

// administer has work done elsewhere and answers with its outcome. work runs in a
// goroutine: what it needs of the request must be copied before.
func (r *Router) administer(x Exchange, work func(Session) (outcome, error)) {
	r.administerWithin(0, x, work)
}

// administerWithin is administer for work that is short: within bounds how long PostgreSQL
// is waited for. 0: as long as any work.
func (r *Router) administerWithin(within time.Duration, x Exchange, work func(Session) (outcome, error)) {
	if r.stores == nil || r.stores.Admin == nil {
		r.fail(x, 503, nil, "the database is not ready yet, try again in a second")
		return
	}
	if !r.Database() {
		// The loops have noticed; nobody has to find out again, by waiting.
		r.Counters.Admin.Overloaded.Add(1)
		r.fail(x, 503, nil, "PostgreSQL does not answer, try again in a second")
		return
	}
	x.Expect(AnyLength)
	var o outcome
	var err error
	taken := r.stores.Admin(within, func(s Session) { o, err = work(s) }, func() {
		if err != nil {
			if mayBeDone(err) && r.stores.AllChanged != nil {
				r.stores.AllChanged() // whom it would have woken looks again
			}
			r.changed(o) // part of it may be done
			r.adminFault(x, err)
			return
		}
		r.changed(o)
		if r.stores.AllChanged != nil && o.all {
			r.stores.AllChanged()
		}
		if o.status == 0 {
			o.status = 200
		}
		x.Reply(o.status, jsonHeader, o.body, false)
	})
	if !taken {
		r.Counters.Admin.Overloaded.Add(1)
		r.fail(x, 503, nil, "too many administrative requests at once, try again in a second")
		return
	}
	r.Counters.Admin.Requests.Add(1)
}

// changed tells of the queues that an outcome has changed.
func (r *Router) changed(o outcome) {
	if r.stores.Changed != nil {
		for _, name := range o.changed {
			r.stores.Changed(name)
		}
	}
}

// look is administer for work that changes nothing.
func (r *Router) look(x Exchange, work func(Session) (outcome, error)) {
	r.administer(x, func(s Session) (outcome, error) {
		o, err := work(s)
		return o, onlyRead(err)
	})
}

// onlyRead is an error of what has changed nothing: there is no doubt then.
func onlyRead(err error) error {
	if mayBeDone(err) {
		return errUnanswered
	}
	return err
}

var errUnanswered = errors.New("PostgreSQL does not answer")

// adminFault answers an error of an administrative route.
func (r *Router) adminFault(x Exchange, err error) {
	status, sentence := explain(err)
	if status == 503 {
		r.Counters.Admin.Unavailable.Add(1)
	} else {
		r.Counters.Admin.Refused.Add(1)
	}
	r.fail(x, status, nil, sentence)
}

// explain says what the client hears of an error.
func explain(err error) (status int, sentence string) {
	var part *partial
	switch status, sentence = cause(err); {
	case errors.As(err, &part):
		sentence += "; " + part.done
	case mayBeDone(err):
		sentence += "; it may have been done"
	}
	return status, sentence
}

func cause(err error) (status int, sentence string) {
	var own *refusal
	var database interface {
		error
		SQLState() string
	}
	var large interface {
		error
		TooLarge() bool // the result is larger than the session can hold
	}
	switch {
	case errors.As(err, &own):
		return own.status, own.sentence
	case errors.As(err, &database):
		switch queue.Classify(database.SQLState()) {
		case queue.ClassData:
			return 400, database.Error()
		case queue.ClassRetry, queue.ClassStale, queue.ClassDuplicate:
			return 503, "others were at work on the same rows all the time, try again in a second"
		}
		return 503, "PostgreSQL cannot do this now: " + database.Error()
	case errors.As(err, &large) && large.TooLarge():
		return 413, err.Error()
	}
	return 503, "PostgreSQL does not answer, try again in a second"
}

// fields are a request body's members, by exact name.
type fields map[string]json.RawMessage

// readBody parses a body strictly. A value that is no object has no members. If
// required is false, an empty body is {}.
func readBody(x Exchange, required bool) (fields, error) {
	body := x.Request().Body
	switch {
	case len(body) > AdminBodyBytesMax:
		return nil, &refusal{413, "the body of an administrative request may have 1 MiB"}
	case len(bytes.TrimSpace(body)) == 0 && required:
		return nil, &refusal{400, "Empty request body"}
	case len(bytes.TrimSpace(body)) == 0:
		return fields{}, nil
	case !utf8.Valid(body):
		return nil, &refusal{400, "Invalid JSON: the text is not valid UTF-8"}
	}
	var all fields
	if err := json.Unmarshal(body, &all); err != nil {
		var kind *json.UnmarshalTypeError
		if errors.As(err, &kind) {
			return fields{}, nil
		}
		return nil, &refusal{400, "Invalid JSON: " + strings.TrimPrefix(err.Error(), "json: ")}
	}
	if isDeep(body) { // what is kept would be unreadable to who reads no deeper than a push may be
		return nil, &refusal{400, "Invalid JSON: it is nested more than " + strconv.Itoa(queue.DepthMax) + " deep"}
	}
	if queue.HasHalfPair(body) { // encoding/json would read another character, and name another queue than a push
		return nil, &refusal{400, `Invalid JSON: a string holds half of a surrogate pair (\ud800 to \udfff alone), which is no character`}
	}
	return all, nil
}

// isDeep says whether valid JSON is nested deeper than DepthMax.
func isDeep(text []byte) bool {
	depth, quoted := 0, false
	for i := 0; i < len(text); i++ {
		switch c := text[i]; {
		case c == '"':
			quoted = !quoted
		case quoted && c == '\\':
			i++
		case quoted:
		case c == '[' || c == '{':
			if depth++; depth > queue.DepthMax {
				return true
			}
		case c == ']' || c == '}':
			depth--
		}
	}
	return false
}

// only refuses a body that is no object, or that has other names than these.
func (f fields) only(x Exchange, names []string) error {
	if body := bytes.TrimSpace(x.Request().Body); len(body) > 0 && body[0] != '{' {
		return &refusal{400, "the body must be a JSON object"}
	}
	for _, name := range slices.Sorted(maps.Keys(f)) {
		if !slices.Contains(names, name) {
			return &refusal{400, fmt.Sprintf("%q is not known here: the body may have %s", name, strings.Join(names, ", "))}
		}
	}
	return nil
}

// has says whether a member is there and is not null.
func (f fields) has(name string) bool { return len(f[name]) > 0 && f[name][0] != 'n' }

// text is a member that is a string. The text is the caller's: it shares no memory with
// the request.
func (f fields) text(name string) (value string, ok bool) {
	if raw := f[name]; len(raw) == 0 || raw[0] != '"' || json.Unmarshal(raw, &value) != nil {
		return "", false
	}
	return value, true
}

// optional is a member that may be absent, null or "", which mean the same (nil), and
// must be a string otherwise.
func (f fields) optional(name string) (any, error) {
	value, ok := f.text(name)
	switch {
	case ok && value != "":
		return value, nil
	case ok || !f.has(name):
		return nil, nil
	}
	return nil, &refusal{400, name + " must be a string"}
}

// yes says whether a member is true.
func (f fields) yes(name string) bool { return string(f[name]) == "true" }

// whole is a member that is a whole number, or otherwise.
func (f fields) whole(name string, otherwise int) (n int, err error) {
	if !f.has(name) {
		return otherwise, nil
	}
	if json.Unmarshal(f[name], &n) != nil || n < 0 {
		return 0, &refusal{400, name + " must be a whole number"}
	}
	return n, nil
}

// filter is a query's value as an argument: nil, which filters nothing, if the key is
// not there or empty.
func filter(x Exchange, name string) any {
	if value, _ := queryText(x, name); len(value) > 0 {
		return string(value)
	}
	return nil
}

// timeFilter is filter for a time. A + that was not escaped has come as a space: where a
// zone follows a time of day, it is put back.
func timeFilter(x Exchange, name string) any {
	value, given := filter(x, name).(string)
	if !given {
		return nil
	}
	return lostPlus.ReplaceAllString(value, "$1+$2")
}

var lostPlus = regexp.MustCompile(`^(\d{4}-\d\d-\d\d[T ]\d\d:\d\d\S*) (\d{2}(?::?\d{2})?)$`)

// endless says whether a time that PostgreSQL reads is none: before all times, or after
// them.
func endless(timestamp string) bool {
	return strings.EqualFold(strings.TrimLeft(strings.TrimSpace(timestamp), "+-"), "infinity")
}

// group is a consumer group's name: the empty one means the implicit one.
func group(name []byte) string {
	if len(name) == 0 {
		return queueMode
	}
	return string(name)
}

// queueMode is the implicit consumer group.
const queueMode = "__QUEUE_MODE__"

// rows is what a route shows at most, however large a limit is asked for.
const listRowsMax = 1000

// page reads limit and offset. A limit or an offset below zero is the default.
func page(x Exchange, otherwise int) (limit, offset int) {
	if limit = queryInt(x, "limit", otherwise); limit < 0 {
		limit = otherwise
	}
	return min(limit, listRowsMax), max(queryInt(x, "offset", 0), 0)
}

// listPage shows a part of a list under its name, limit elements if the request does not say,
// with how many there are in all. The statement's last arguments are limit and offset; that
// which counts has the others.
func (r *Router) listPage(x Exchange, otherwise int, name, statement string, filters []any, show func(row [][]byte) []byte) {
	limit, offset := page(x, otherwise)
	r.look(x, func(s Session) (outcome, error) {
		rows, err := s.Rows(statement, append(slices.Clip(filters), limit, offset)...)
		if err != nil {
			return outcome{}, err
		}
		total, err := s.Rows(statement+"_count", filters...)
		if err != nil {
			return outcome{}, err
		}
		var pagination object
		pagination.int("limit", limit)
		pagination.int("offset", offset)
		members := map[string][]byte{
			name:         list(len(rows), func(i int) []byte { return show(rows[i]) }),
			"pagination": pagination.end(),
			"total":      total[0][0],
		}
		var answer object
		for _, key := range slices.Sorted(maps.Keys(members)) {
			answer.json(key, members[key])
		}
		return outcome{body: answer.end()}, nil
	})
}

// yes is a column that is a boolean.
func yes(column []byte) bool { return string(column) == "t" }
