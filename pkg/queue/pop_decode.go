package queue

import (
	"bytes"
	"slices"
	"strconv"
	"strings"
	"time"
	"unicode/utf8"
)

// popBytes is what a pop weighs beside its names.
const popBytes = 512

// PopNames are the names that a pop was asked for, decoded. They are copied.
type PopNames struct {
	Queue, Partition, Namespace, Task, Group []byte
}

// DecodePop makes op a pop: it copies the names into the op's own memory and checks them;
// no group is QueueMode. What else the pop asks for is the caller's to set in op.Pop, now.
// The zero Fault means that op is ready for a store.
func DecodePop(op *Op, scope PopScope, n PopNames) Fault {
	op.clear()
	op.Verb = Pop
	p := &op.Pop
	p.Scope, p.Batch, p.Partitions = scope, 1, 1
	op.body = slices.Grow(op.body, len(n.Queue)+len(n.Partition)+len(n.Namespace)+len(n.Task)+len(n.Group)+len(QueueMode))
	for _, name := range [...]struct {
		to   *[]byte
		from []byte
		what string
	}{{&p.Queue, n.Queue, "queue"}, {&p.Partition, n.Partition, "partition"}, {&p.Namespace, n.Namespace, "namespace"}, {&p.Task, n.Task, "task"}, {&p.Group, n.Group, "consumerGroup"}} {
		if utf8.RuneCount(name.from) > NameCharsMax {
			return Fault{Invalid, name.what + " is longer than " + strconv.Itoa(NameCharsMax) + " characters"}
		}
		if !utf8.Valid(name.from) || bytes.IndexByte(name.from, 0) >= 0 {
			return Fault{Invalid, name.what + " is not text that can be stored"}
		}
		from := len(op.body)
		op.body = append(op.body, name.from...)
		*name.to = whole(op.body[from:])
	}
	if len(p.Group) == 0 {
		from := len(op.body)
		op.body = append(op.body, QueueMode...)
		p.Group = whole(op.body[from:])
	}
	if scope == ManyQueues {
		// Absent and empty are the same: any.
		if len(p.Namespace) == 0 {
			p.Namespace = nil
		}
		if len(p.Task) == 0 {
			p.Task = nil
		}
	}
	op.Cost = len(op.body) + popBytes
	return Fault{}
}

// ParseSubscription reads where a group that is new begins. from goes before mode: now, or
// a time; what is neither says nothing.
func ParseSubscription(mode, from string) Subscription {
	if from != "" && from != "now" {
		if at, ok := parseTime(from); ok {
			if at.IsZero() {
				// Go's clients write a time that was never set as 0001-01-01T00:00:00Z. Where a
				// group begins is written with the zero time for now; this is before all messages.
				at = at.Add(time.Microsecond)
			}
			return Subscription{SubscribeAt, at}
		}
	}
	if from == "now" || mode == "new" || mode == "new-only" {
		return Subscription{Mode: SubscribeNew}
	}
	return Subscription{}
}

// timeLayouts are what clients write, after parseTime has made it uniform. A fraction may
// follow the seconds.
var timeLayouts = [...]string{
	"2006-01-02T15:04:05Z07:00", "2006-01-02T15:04:05Z0700", "2006-01-02T15:04:05Z07", "2006-01-02T15:04:05",
	"2006-01-02T15:04Z07:00", "2006-01-02T15:04Z0700", "2006-01-02T15:04Z07", "2006-01-02T15:04",
	"2006-01-02",
}

// parseTime reads a date and a time as PostgreSQL would (manual, "Date/Time Types"), in
// UTC where no zone is given. A space that + decodes to stands for it.
func parseTime(text string) (time.Time, bool) {
	text = strings.ToUpper(strings.TrimSpace(text))
	for _, zone := range []string{"UTC", "GMT"} {
		if s, ok := strings.CutSuffix(text, zone); ok {
			text = strings.TrimSpace(s) + "Z"
		}
	}
	if len(text) > len("2006-01-02") {
		date, rest := text[:10], strings.TrimSpace(strings.TrimPrefix(text[10:], "T"))
		// What follows a space is a zone: with its sign, or without the + that was lost.
		if clock, zone, ok := strings.Cut(rest, " "); ok {
			if zone = strings.TrimSpace(zone); zone != "" && zone[0]-'0' < 10 {
				zone = "+" + zone
			}
			rest = clock + zone
		}
		text = date + "T" + rest
	}
	for _, layout := range timeLayouts {
		if at, err := time.Parse(layout, text); err == nil {
			return at.UTC(), true
		}
	}
	return time.Time{}, false
}
