package queue

import (
	"fmt"
	"strings"
	"testing"
	"time"
)

// extend runs one extension and returns its answer.
func (r *runner) extend(id, body string) string {
	r.t.Helper()
	op := r.extendOp(id, body)
	r.run(NewAckBatch(), op)
	if op.Fault.Code != OK {
		return op.Fault.Message
	}
	return string(AppendExtendAnswer(nil, op))
}

func (r *runner) extendOp(id, body string) *Op {
	r.t.Helper()
	op := new(Op)
	if f := DecodeExtend(op, []byte(id), []byte(body), r.config); f.Code != OK {
		r.t.Fatalf("%s %s: %s", id, body, f.Message)
	}
	return op
}

func (r *runner) releaseOp(id string) *Op {
	return &Op{Verb: Release, Lease: LeaseRequest{ID: []byte(id)}}
}

// ourLease is a lease id that says where its partition is, or that it may be anywhere.
func (s *stream) ourLease(single bool) string {
	partition, _ := parseUUID([]byte(s.id))
	return string(AppendLeaseID(nil, s.ids.Next(), single, partition))
}

const extended = `"index":0,"leaseId":"%s","success":true}]`

func TestALeaseIsExtendedAndNeverShortened(t *testing.T) {
	r := newRunner(t, database(t))
	a, b := r.stream("a", 2), r.stream("b", 2)
	f := func(id string, streams ...*stream) {
		t.Helper()
		for _, s := range streams {
			s.lease("g", id, 2)
		}
		in := func() string {
			return r.sql(`SELECT string_agg(round(extract(epoch FROM lease_expires_at - clock_timestamp()) / 100)::text, ' ' ORDER BY lease_expires_at) FROM queen.partition_consumers WHERE worker_id = '%s'`, id)[0]
		}
		r.sql(`UPDATE queen.partition_consumers SET lease_expires_at = clock_timestamp() + interval '100 seconds' WHERE worker_id = '%s' AND partition_id = '%s'`, id, streams[0].id)
		others := strings.Repeat(" 36", len(streams)-1)
		if got := r.extend(id, `{"seconds":1}`); !strings.HasSuffix(got, fmt.Sprintf(extended, id)) || in() != "1"+others {
			t.Errorf("%s: %s, in %s", id, got, in())
		}
		got := r.extend(id, `{"seconds":1800.9}`)
		if !strings.HasPrefix(got, `[{"error":null,"expiresAt":"`) || !strings.HasSuffix(got, fmt.Sprintf(extended, id)) || in() != "18"+others {
			t.Errorf("%s: %s, in %s", id, got, in())
		}
		// The earliest of all is answered, as it is in the table.
		want := r.sql(`SELECT to_char(date_trunc('milliseconds', min(lease_expires_at)) AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.MS"Z"') FROM queen.partition_consumers WHERE worker_id = '%s'`, id)[0]
		if !strings.Contains(got, `"expiresAt":"`+want+`"`) {
			t.Errorf("%s: %s, want %s", id, got, want)
		}
		for _, body := range []string{"", "{}", `{"seconds":-5}`, `{"more":1}`} {
			if got := r.extend(id, body); !strings.HasSuffix(got, fmt.Sprintf(extended, id)) || in() != "18"+others {
				t.Errorf("%s: %s, in %s", body, got, in())
			}
		}
		for _, s := range streams {
			op := s.call("g", "yes released", "m1 retry "+id)
			if len(op.Freed) != 1 {
				t.Errorf("freed %+v", op.Freed)
			}
		}
	}
	f(a.ourLease(true), a)
	f(a.ourLease(false), a, b)
	f("019a0849-c4c7-7000-941c-819f1a97d5c0", a, b) // Queen's
	f("SQL-worker", a)
	// What is like an id of ours and is none is looked for everywhere.
	f(string(AppendLeaseID(nil, r.ids.Next(), true, UUID{1, 2, 3, 4})), b)
}

func TestALeaseThatIsNotThereOrIsOverIsNotExtended(t *testing.T) {
	s := newRunner(t, database(t)).stream("q", 2)
	for _, id := range []string{"abc", "00000000-0000-0000-0000-000000000002", s.ourLease(true), s.ourLease(false), "", strings.Repeat("x", 300), "a\x00b"} {
		if got := s.extend(id, `{"seconds":30}`); !strings.HasPrefix(got, `[{"error":"Lease not found","expiresAt":null,"index":0,"leaseId":"`) || !strings.HasSuffix(got, `"success":false}]`) {
			t.Errorf("%q: %s", id, got)
		}
	}
	for _, id := range []string{s.ourLease(true), "mine"} {
		s.sql(`UPDATE queen.partition_consumers SET lease_expires_at = NULL`)
		s.lease("g", id, 2)
		s.sql(`UPDATE queen.partition_consumers SET lease_expires_at = now() - interval '1 second'`)
		want := fmt.Sprintf(`[{"error":"Lease already expired","expiresAt":null,"index":0,"leaseId":"%s","success":false}]`, id)
		if got := s.extend(id, ""); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestAReleaseGivesALeaseBackAsIfNothingHadBeenDelivered(t *testing.T) {
	r := newRunner(t, database(t))
	a, b := r.stream("a", 2), r.stream("b", 2)
	f := func(id string, streams ...*stream) {
		t.Helper()
		for _, s := range streams {
			s.lease("g", id, 2)
		}
		op, again := r.releaseOp(id), r.releaseOp(id)
		r.run(NewAckBatch(), op)
		r.run(NewAckBatch(), again)
		if len(op.Freed) != len(streams) || len(again.Freed) != 0 {
			t.Errorf("%s: freed %+v, then %+v", id, op.Freed, again.Freed)
		}
		for i, s := range streams {
			s.expectState("g", "at - consumed 0/0 seq 0")
			if got := op.Freed[i]; got.Group != "g" || got.Queue != "a" && got.Queue != "b" {
				t.Errorf("freed %+v", got)
			}
		}
	}
	f(a.ourLease(true), a)
	f(a.ourLease(false), a, b)
	// Who has lost the lease releases nothing.
	id := a.ourLease(true)
	a.lease("g", id, 2)
	r.sql(`UPDATE queen.partition_consumers SET worker_id = 'other' WHERE worker_id = '%s'`, id)
	op := r.releaseOp(id)
	r.run(NewAckBatch(), op)
	if a.expectState("g", "at - lease other 0/2 consumed 0/0 seq 0"); len(op.Freed) != 0 {
		t.Errorf("freed %+v", op.Freed)
	}
}

func TestAcksExtensionsAndReleasesShareABatch(t *testing.T) {
	r := newRunner(t, database(t))
	a, b, c := r.stream("a", 2), r.stream("b", 2), r.stream("c", 2)
	la, lb := a.ourLease(true), "foreign"
	a.lease("g", la, 2)
	b.lease("g", lb, 2)
	c.lease("g", "C", 2)
	ops := []*Op{a.ackOp(a.acks("g", "m1 completed "+la)), r.extendOp(la, ""), r.extendOp(lb, ""), r.extendOp(la, `{"seconds":7200}`), r.extendOp("none", ""), r.releaseOp("C"), c.ackOp(c.acks("g", "m1 completed C"))}
	r.run(NewAckBatch(), ops...)
	if got, want := outcomes(ops[0])+"; "+outcomes(ops[6]), "yes; no nolease"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	for i, want := range map[int]string{1: "", 2: "", 3: "", 4: leaseNotFound} {
		if got := ops[i].Lease.Why; got != want {
			t.Errorf("%d: %q, want %q", i, got, want)
		}
	}
	if in := time.Until(time.UnixMicro(ops[3].Lease.Expires)); in < 6000*time.Second {
		t.Errorf("extended for %s", in)
	}
	if got, want := strings.Join(r.steps, ","), "pop_plan lease_extend,lease_extend_scan,lease_release_scan,pop_plan ack_messages ack_groups,pop_plan ack_write"; got != want {
		t.Errorf("steps %q, want %q", got, want)
	}
}

func TestWhatIsAskedOfALeaseIsChecked(t *testing.T) {
	f := func(body, want string) {
		t.Helper()
		op := new(Op)
		if got := DecodeExtend(op, []byte("l"), []byte(body), &Config{}); got.Code != Invalid || !strings.HasPrefix(got.Message, want) {
			t.Errorf("%s: %+v", body, got)
		}
	}
	f(`[]`, "the body must be a JSON object")
	f(`null`, "the body must be a JSON object")
	f(`{"seconds":"30"}`, "seconds must be a number")
	f(`{"seconds":true}`, "seconds must be a number")
	f(`{"seconds":1`, "Invalid JSON: ")
	seconds := func(body string, want int) {
		t.Helper()
		op := new(Op)
		if f := DecodeExtend(op, []byte("l"), []byte(body), &Config{}); f.Code != OK || op.Lease.Seconds != want || string(op.Lease.ID) != "l" || op.Verb != Extend {
			t.Errorf("%s: %+v, %+v", body, f, op.Lease)
		}
	}
	seconds("", 60)
	seconds(" ", 60)
	seconds(`{"seconds":null}`, 60)
	seconds("{}", 60)
	seconds(`{"seconds":90.9}`, 90)
	seconds(`{"seconds":-1}`, 0)
	seconds(`{"seconds":1,"seconds":2}`, 2)
	seconds(`{"seconds":1e999}`, LeaseSecondsMax)
	seconds(fmt.Sprintf(`{"seconds":%d}`, LeaseSecondsMax), LeaseSecondsMax)
	seconds(fmt.Sprintf(`{"seconds":%d}`, LeaseSecondsMax+1), LeaseSecondsMax)
}
