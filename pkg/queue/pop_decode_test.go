package queue

import (
	"strings"
	"testing"
	"time"
)

func TestAPopsNamesAreCopiedAndChecked(t *testing.T) {
	queue := []byte("q")
	op := new(Op)
	if f := DecodePop(op, OnePartition, PopNames{Queue: queue}); f.Code != OK {
		t.Fatal(f)
	}
	queue[0] = 'x'
	if p := &op.Pop; op.Verb != Pop || string(p.Queue) != "q" || string(p.Group) != QueueMode || p.Batch != 1 || p.Partitions != 1 || op.Cost == 0 {
		t.Errorf("%+v", op)
	}
	if f := DecodePop(op, ManyQueues, PopNames{Namespace: []byte{}, Group: []byte("g")}); f.Code != OK || op.Pop.Namespace != nil || op.Pop.Task != nil || string(op.Pop.Group) != "g" {
		t.Errorf("%v, %+v", f, op.Pop)
	}
	long := []byte(strings.Repeat("é", NameCharsMax))
	if f := DecodePop(op, OneQueue, PopNames{Queue: long}); f.Code != OK {
		t.Error(f)
	}
	f := func(n PopNames, want string) {
		t.Helper()
		if f := DecodePop(op, OneQueue, n); f.Code != Invalid || f.Message != want {
			t.Errorf("%+v", f)
		}
	}
	f(PopNames{Queue: append(long, 'x')}, "queue is longer than 255 characters")
	f(PopNames{Partition: append(long, 'x')}, "partition is longer than 255 characters")
	f(PopNames{Group: append(long, 'x')}, "consumerGroup is longer than 255 characters")
	f(PopNames{Task: append(long, 'x')}, "task is longer than 255 characters")
	f(PopNames{Group: []byte("a\x00b")}, "consumerGroup is not text that can be stored")
	f(PopNames{Queue: []byte("a\xff")}, "queue is not text that can be stored")
}

func TestATimeThatWasNeverSetIsBeforeAllMessages(t *testing.T) {
	f := func(from string) {
		t.Helper()
		var s groupStart
		if s.from(ParseSubscription("", from)); s.mode != "timestamp" || s.at.IsZero() || s.at.Year() != 1 {
			t.Errorf("%q: %q %v", from, s.mode, s.at)
		}
	}
	f(time.Time{}.Format(time.RFC3339))
	f("0001-01-01")
	f("0001-01-01T02:00:00+02:00")
	f("0001-01-01T00:00:00.0000001Z")
}

func TestASubscriptionIsRead(t *testing.T) {
	f := func(mode, from string, want SubscriptionMode) {
		t.Helper()
		if s := ParseSubscription(mode, from); s.Mode != want {
			t.Errorf("%q, %q: %+v", mode, from, s)
		}
	}
	for _, mode := range []string{"", "all", "from_beginning", "NEW", "newer"} {
		f(mode, "", SubscribeAll)
		f(mode, "garbage", SubscribeAll)
		f(mode, "now", SubscribeNew)
	}
	for _, mode := range []string{"new", "new-only"} {
		f(mode, "", SubscribeNew)
		f(mode, "garbage", SubscribeNew)
		f(mode, "2020-01-01", SubscribeAt)
	}
	at := func(text string, want time.Time) {
		t.Helper()
		if s := ParseSubscription("", text); s.Mode != SubscribeAt || !s.At.Equal(want) {
			t.Errorf("%q: %+v", text, s)
		}
	}
	noon := time.Date(2026, 4, 26, 12, 30, 0, 0, time.UTC)
	for _, text := range []string{
		"2026-04-26T12:30:00Z", "2026-04-26T12:30:00.000Z", "2026-04-26 12:30:00", "2026-04-26T12:30", "2026-04-26t12:30:00z",
		"2026-04-26T14:30:00+02:00", "2026-04-26T14:30:00 02:00", "2026-04-26 14:30:00+02", "2026-04-26 14:30:00 +0200", "2026-04-26T10:00:00-02:30",
		"2026-04-26 12:30:00 UTC", "2026-04-26 12:30:00 GMT", " 2026-04-26T12:30:00Z ",
	} {
		at(text, noon)
	}
	at("2026-04-26", noon.Truncate(24*time.Hour))
	at("2026-04-26T12:30:00.000001Z", noon.Add(time.Microsecond))
	at("2026-04-26T12:30:00.5+00:00", noon.Add(time.Second/2))
}

// What a client writes means what it would mean in PostgreSQL.
func TestPostgreSQLReadsTimesAsWeDo(t *testing.T) {
	db := database(t)
	for _, text := range []string{"2026-04-26T12:30:00Z", "2026-04-26 12:30:00", "2026-04-26T14:30:00+02:00", "2026-04-26 14:30:00.123456+02", "2026-04-26 14:30:00 +0200",
		"2026-04-26", "2026-04-26T12:30", "2026-04-26 12:30:00 UTC"} {
		at, ok := parseTime(text)
		rows := query(t, db, `SELECT to_char(($1::text || CASE WHEN $1 ~ '^[-0-9]+([T ][0-9:]+)?$' THEN ' UTC' ELSE '' END)::timestamptz AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')`, text)
		if want := at.Format("2006-01-02T15:04:05.000000Z"); !ok || rows[0] != want {
			t.Errorf("%s: %s, PostgreSQL: %s", text, want, rows[0])
		}
	}
}
