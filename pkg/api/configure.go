package api

import (
	"encoding/json"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/queend/queend/pkg/queue"
)

// option is one of a queue's options. In the table they stand in the order of their
// names, as they do in the answer and among admin_configure's columns.
type option struct {
	name      string
	otherwise string // the default
	truth     bool   // true or false; else a whole number of 32 bits
}

var options = []option{
	{"completedRetentionSeconds", "0", false},
	{"deadLetterQueue", "false", true},
	{"delayedProcessing", "0", false},
	{"dlqAfterMaxRetries", "false", true},
	{"encryptionEnabled", "false", true},
	{"leaseTime", "300", false},
	{"maxSize", "0", false},
	{"maxWaitTimeSeconds", "0", false},
	{"priority", "0", false},
	{"retentionEnabled", "false", true},
	{"retentionSeconds", "0", false},
	{"retryDelay", "1000", false},
	{"retryLimit", "3", false},
	{"ttl", "3600", false},
	{"windowBuffer", "0", false},
}

// configure makes a queue or replaces all of its configuration: an option that is left
// out, or null, gets its default.
func (r *Router) configure(x Exchange) {
	body, err := readBody(x, true)
	if err != nil {
		r.adminFault(x, err)
		return
	}
	name, ok := body.text("queue")
	if !ok {
		r.fail(x, 400, nil, "queue is required")
		return
	}
	namespace, _ := body.text("namespace")
	task, _ := body.text("task")
	for _, n := range [][2]string{{"queue", name}, {"namespace", namespace}, {"task", task}} {
		if utf8.RuneCountInString(n[1]) > queue.NameCharsMax {
			r.fail(x, 400, nil, n[0]+" is longer than "+strconv.Itoa(queue.NameCharsMax)+" characters")
			return
		}
	}
	arguments := []any{name, namespace, task}
	values, err := readOptions(body)
	if err != nil {
		r.adminFault(x, err)
		return
	}
	for _, v := range values {
		arguments = append(arguments, v)
	}
	r.administer(x, func(s Session) (o outcome, err error) {
		err = s.Transaction(func() error {
			o, err = configure(s, name, arguments)
			return err
		})
		return o, err
	})
}

// configure runs in a goroutine, in a transaction. Partition and head are made by the
// push's own statements.
func configure(s Session, name string, arguments []any) (o outcome, err error) {
	rows, err := s.Rows("admin_configure", arguments...)
	if err != nil {
		return o, err
	}
	queues, partitions := []string{name}, []string{"Default"}
	for _, statement := range []string{"push_partitions", "push_heads"} {
		if _, err := s.Rows(statement, queues, partitions); err != nil {
			return o, err
		}
	}
	ids, err := s.Rows("push_ids", queues, partitions)
	if err != nil {
		return o, err
	}
	if len(ids) != 1 {
		return o, &refusal{503, "the queue was deleted in the same moment, try again"}
	}
	row := rows[0]
	var all object
	for i, option := range options {
		value := row[3+i]
		if option.truth {
			value = strconv.AppendBool(nil, yes(value))
		}
		all.json(option.name, value)
	}
	var answer object
	answer.bool("configured", true)
	answer.column("namespace", row[1])
	answer.json("options", all.end())
	answer.column("partitionId", ids[0][1])
	answer.text("queue", name)
	answer.column("queueId", row[0])
	answer.column("task", row[2])
	return outcome{body: answer.end(), changed: queues}, nil
}

// readOptions returns the value of each option, as text.
func readOptions(body fields) ([]string, error) {
	given := fields{}
	if body.has("options") && json.Unmarshal(body["options"], &given) != nil {
		return nil, &refusal{400, "options must be an object"}
	}
	values := make([]string, len(options))
	for i, o := range options {
		values[i] = o.otherwise
		if !given.has(o.name) {
			continue
		}
		text := string(given[o.name])
		if unquoted, ok := given.text(o.name); ok {
			text = strings.TrimSpace(unquoted)
		}
		var ok bool
		if values[i], ok = o.read(text); !ok {
			kind := "a whole number between -2147483648 and 2147483647"
			if o.truth {
				kind = "true or false"
			}
			return nil, &refusal{400, "options." + o.name + " must be " + kind}
		}
	}
	return values, nil
}

// read takes what PostgreSQL takes for an integer or a boolean (manual, chapters
// "Numeric Types" and "Boolean Type"), which is how Queen reads options, a number in
// quotes among them.
func (o *option) read(text string) (string, bool) {
	if !o.truth {
		n, err := strconv.ParseInt(text, 10, 32)
		return strconv.FormatInt(n, 10), err == nil
	}
	text = strings.ToLower(text)
	for word, value := range map[string]bool{"true": true, "yes": true, "on": true, "1": true, "false": false, "no": false, "off": false, "0": false} {
		// Any beginning of a word means it, but "o" could be two.
		if text != "" && text != "o" && strings.HasPrefix(word, text) {
			return strconv.FormatBool(value), true
		}
	}
	return "", false
}
