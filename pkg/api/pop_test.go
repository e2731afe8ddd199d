package api

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/queue"
)

// popWorld is a world whose pops end as end says.
func popWorld(end func(*queue.Op)) (*world, *scripted) {
	w, pops := newWorld(), &scripted{end: end}
	stores := *w.router.stores
	stores.Pop = pops
	w.router.Open(stores)
	return w, pops
}

func TestAPopAsksForWhatItsRouteAndQuerySay(t *testing.T) {
	f := func(target, want string) {
		t.Helper()
		got := ""
		w, _ := popWorld(func(op *queue.Op) {
			p := &op.Pop
			got = fmt.Sprintf("%d queue=%s partition=%s ns=%s task=%s group=%s batch=%d partitions=%d wait=%v auto=%v timeout=%v", p.Scope, p.Queue, p.Partition, p.Namespace, p.Task, p.Group,
				p.Batch, p.Partitions, p.Wait, p.AutoAck, p.Timeout)
			if p.Subscription.Mode != queue.SubscribeAll {
				got += fmt.Sprintf(" from=%d", p.Subscription.Mode)
			}
			if op.Verb != queue.Pop || op.Deadline != 3*time.Second || op.Accepted != time.Second || op.Decoded != 3*time.Second {
				t.Errorf("%+v", op)
			}
		})
		w.router.Services.Pop = PopDefaults{Subscription: "new"}
		if x := w.send(t, "GET", target, ""); x.replies != 1 || x.status != 200 {
			t.Errorf("%s: %d %s", target, x.status, x.body)
		}
		if got != want {
			t.Errorf("%s:\n got %s\nwant %s", target, got, want)
		}
	}
	const queueMode = "group=__QUEUE_MODE__ batch=1 partitions=1 wait=false auto=false timeout=30s"
	f("/api/v1/pop/queue/q/partition/p", "0 queue=q partition=p ns= task= "+queueMode+" from=1")
	f("/api/v1/pop/queue/q?subscriptionMode=all", "1 queue=q partition= ns= task= "+queueMode)
	f("/api/v1/pop/queue/q?subscriptionMode=", "1 queue=q partition= ns= task= "+queueMode)
	f("/api/v1/pop/queue/?subscriptionMode=", "1 queue= partition= ns= task= "+queueMode)
	f("/api/v1/pop/queue//partition/?subscriptionMode=", "0 queue= partition= ns= task= "+queueMode)
	f("/api/v1/pop/queue/a%20b%2F%C3%A9?subscriptionMode=&consumerGroup=", "1 queue=a b/é partition= ns= task= "+queueMode)
	f("/api/v1/pop?namespace=n&task=t+u&subscriptionMode=", "2 queue= partition= ns=n task=t u "+queueMode)
	f("/api/v1/pop?subscriptionMode=", "2 queue= partition= ns= task= "+queueMode)
	f("/api/v1/pop/queue/q?batch=10&partitions=3&wait=true&autoAck=true&timeout=1500&consumerGroup=g%26&subscriptionMode=new-only", "1 queue=q partition= ns= task= group=g& batch=10 partitions=3 wait=true auto=true timeout=1.5s from=1")
	f("/api/v1/pop/queue/q?batch=abc&timeout=x&wait=yes&autoAck=1&subscriptionFrom=2020-01-01T00:00:00%2B01:00", "1 queue=q partition= ns= task= group=__QUEUE_MODE__ batch=1 partitions=1 wait=false auto=true timeout=30s from=2")
	f("/api/v1/pop/queue/q?batch=0&partitions=0&timeout=-1&subscriptionMode=", "1 queue=q partition= ns= task= group=__QUEUE_MODE__ batch=1 partitions=1 wait=false auto=false timeout=0s")
	f("/api/v1/pop/queue/q?batch=-5&partitions=-5&subscriptionMode=", "1 queue=q partition= ns= task= "+queueMode)
	f("/api/v1/pop/queue/q/partition/p?batch=-5&partitions=7&subscriptionMode=", "0 queue=q partition=p ns= task= group=__QUEUE_MODE__ batch=0 partitions=1 wait=false auto=false timeout=30s")
	f("/api/v1/pop/queue/q/partition/p?batch=0&wait=true&subscriptionMode=", "0 queue=q partition=p ns= task= group=__QUEUE_MODE__ batch=0 partitions=1 wait=false auto=false timeout=30s")
	f("/api/v1/pop/queue/q?batch=2000000000&partitions=2000000000&subscriptionMode=", "1 queue=q partition= ns= task= group=__QUEUE_MODE__ batch=100000 partitions=1000 wait=false auto=false timeout=30s")
}

func TestAPopThatMakesNoSenseIsRefused(t *testing.T) {
	w, pops := popWorld(nil)
	f := func(method, target string, status int, want string) {
		t.Helper()
		x := w.send(t, method, target, "")
		if x.replies != 1 || x.status != status || x.body != `{"error":"`+want+`"}` {
			t.Errorf("%s: %d %s", target, x.status, x.body)
		}
	}
	long := strings.Repeat("x", 256)
	f("GET", "/api/v1/pop/queue/"+long, 400, "queue is longer than 255 characters")
	f("GET", "/api/v1/pop/queue/q/partition/"+long, 400, "partition is longer than 255 characters")
	f("GET", "/api/v1/pop/queue/q?consumerGroup="+long, 400, "consumerGroup is longer than 255 characters")
	f("GET", "/api/v1/pop?task="+long, 400, "task is longer than 255 characters")
	f("HEAD", "/api/v1/pop/queue/q", 405, "this path does not take that method; see the Allow header")
	f("POST", "/api/v1/pop/queue/q", 405, "this path does not take that method; see the Allow header")
	if len(pops.ops) > 0 || w.router.Counters.Pop.Refused.Load() != 4 {
		t.Error(len(pops.ops), w.router.Counters.Pop.Refused.Load())
	}
}

func TestAPopIsAnswered200WhateverHappened(t *testing.T) {
	f := func(want, counted string, end func(*queue.Op)) {
		t.Helper()
		w, _ := popWorld(end)
		x := w.send(t, "GET", "/api/v1/pop/queue/q", "")
		if x.replies != 1 || x.status != 200 || x.header != "Content-Type: application/json\r\n" || x.body != want {
			t.Errorf("%d %s %s", x.status, x.header, x.body)
		}
		set := metrics.NewSet()
		Export(set, []*Router{w.router})
		set.Seal()
		if text, err := set.Exposition(); err != nil || !strings.Contains(string(text), counted+"\n") {
			t.Errorf("%s is not counted", counted)
		}
		if free := w.router.popCalls.calls; len(free) != 1 || free[0].exchange != nil {
			t.Error("the call is not free")
		}
	}
	f(`{"error":"no_available_partition","messages":[],"success":false}`, `queend_pop_requests_total{outcome="empty"} 1`, func(*queue.Op) {})
	f(`{"consumerGroup":"__QUEUE_MODE__","leaseId":null,"messages":[],"partition":"","partitionId":null,"queue":"q","success":true}`, `queend_pop_requests_total{outcome="expired"} 1`, func(op *queue.Op) { op.Pop.Expired = true })
	f(`{"messages":[],"paused":true}`, `queend_pop_requests_total{outcome="paused"} 1`, func(op *queue.Op) { op.Pop.Paused = true })
	for code := queue.Invalid; code <= queue.Internal; code++ {
		f(`{"error":"why","messages":[],"success":false}`, `queend_pop_requests_total{outcome="failed"} 1`, func(op *queue.Op) { op.Fault = queue.Fault{Code: code, Message: "why"} })
	}
	f(`{"consumerGroup":"__QUEUE_MODE__","leaseId":"","messages":[{},{}],"partition":"","partitionId":null,"partitionsClaimed":1,"queue":"q","success":true}`, "queend_pop_messages_total 2", func(op *queue.Op) {
		op.Pop.Count, op.Pop.Claimed, op.Pop.Messages = 2, 1, []byte(`{},{}`)
	})
}

func TestAPopBeforeTheDatabaseIsReadyHearsSo(t *testing.T) {
	w := newWorld()
	w.router.stores = nil
	x := w.send(t, "GET", "/api/v1/pop/queue/q?wait=true", "")
	if x.status != 200 || x.body != `{"error":"the database is not ready yet, try again in a second","messages":[],"success":false}` {
		t.Errorf("%d %s", x.status, x.body)
	}
}

// canceled is a store that completes an op when it is canceled.
type canceled struct{ op *queue.Op }

func (s *canceled) Do(op *queue.Op)     { s.op = op }
func (s *canceled) Cancel(op *queue.Op) { op.Done.OpDone(op) }

func TestAPopEndsWithItsClient(t *testing.T) {
	w, store := newWorld(), &canceled{}
	stores := *w.router.stores
	stores.Pop = store
	w.router.Open(stores)
	gone := func() bool { return store.op.Pop.Client.Gone() }

	x := w.send(t, "GET", "/api/v1/pop/queue/q?wait=true", "")
	if x.replies != 0 || gone() {
		t.Error("it is not parked")
	}
	if x.half = true; !gone() {
		t.Error("who waits and will send no more is taken for gone")
	}
	x.half, x.gone = false, true
	if !gone() {
		t.Error("it is gone")
	}
	x.whenGone()
	if x.replies != 1 {
		t.Error("it was not completed")
	}
	x.whenGone() // it has no op any more
	if x.replies != 1 {
		t.Error("it was completed twice")
	}

	x = w.send(t, "GET", "/api/v1/pop/queue/q?wait=true", "")
	if x.whenHalf(); x.replies != 1 || x.status != 200 || !strings.Contains(x.body, `"leaseId":null,"messages":[]`) {
		t.Errorf("who stops sending while it waits is answered: %d %s", x.replies, x.body)
	}
	x.whenHalf() // it has no op any more
	if x.replies != 1 {
		t.Error("it was answered twice")
	}

	x = w.send(t, "GET", "/api/v1/pop/queue/q", "")
	if x.whenHalf != nil {
		t.Error("who does not wait has its answer soon")
	}
	if x.half = true; gone() {
		t.Error("who asks and then closes its side gets its answer")
	}
}
