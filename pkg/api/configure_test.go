package api

import (
	"strings"
	"testing"
)

const defaults = `"completedRetentionSeconds":0,"deadLetterQueue":false,"delayedProcessing":0,"dlqAfterMaxRetries":false,"encryptionEnabled":false,` +
	`"leaseTime":300,"maxSize":0,"maxWaitTimeSeconds":0,"priority":0,"retentionEnabled":false,"retentionSeconds":0,"retryDelay":1000,"retryLimit":3,"ttl":3600,"windowBuffer":0`

func TestConfigureMakesAQueueAndReplacesItsConfiguration(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		f := func(body, name, namespace, task, options string) {
			t.Helper()
			w.says("POST", "/api/v1/configure", body, 200, `{"configured":true,"namespace":"`+namespace+`","options":{`+options+
				`},"partitionId":"U","queue":"`+name+`","queueId":"U","task":"`+task+`"}`)
		}
		f(`{"queue":"q"}`, "q", "", "", defaults)
		f(`{"queue":"q.a.b","options":{}}`, "q.a.b", "", "", defaults)
		f(`{"queue":"","options":null}`, "", "", "", defaults)
		f(`{"queue":"q","namespace":null,"task":5}`, "q", "", "", defaults)
		f(`{"queue":"q","options":{"leaseTime":null,"unknownOption":1}}`, "q", "", "", defaults)
		first := w.one(`SELECT id FROM queen.queues WHERE name = 'q'`)

		all := `"completedRetentionSeconds":1,"deadLetterQueue":true,"delayedProcessing":2,"dlqAfterMaxRetries":true,"encryptionEnabled":true,` +
			`"leaseTime":60,"maxSize":10,"maxWaitTimeSeconds":4,"priority":5,"retentionEnabled":true,"retentionSeconds":6,"retryDelay":7,"retryLimit":0,"ttl":8,"windowBuffer":9`
		f(`{"queue":"q","namespace":"ns","task":"t","options":{`+all+`}}`, "q", "ns", "t", all)
		w.holds(`SELECT completed_retention_seconds, dead_letter_queue, delayed_processing, dlq_after_max_retries, encryption_enabled, lease_time, max_queue_size,
			max_wait_time_seconds, priority, retention_enabled, retention_seconds, retry_delay, retry_limit, ttl, window_buffer, namespace, task FROM queen.queues WHERE name = 'q'`,
			"1|t|2|t|t|60|10|4|5|t|6|7|0|8|9|ns|t")
		f(`{"queue":"q","options":{"leaseTime":30}}`, "q", "", "", strings.Replace(defaults, `"leaseTime":300`, `"leaseTime":30`, 1))
		f(`{"queue":"q"}`, "q", "", "", defaults)
		w.holds(`SELECT id FROM queen.queues WHERE name = 'q'`, first)

		// The partition is as a push would have made it.
		w.holds(`SELECT q.name, p.name, h.queue_name, h.last_message_id, h.last_message_created_at, h.seq, h.tail_seq FROM queen.queues q
			JOIN queen.partitions p ON p.queue_id = q.id JOIN queen.partition_lookup h ON h.partition_id = p.id WHERE q.name = 'q'`,
			"q|Default|q|00000000-0000-0000-0000-000000000000|-infinity|0|0")
		w.push("q", "Default", "t1")
		w.dense()
		if got := strings.Join(w.changed, ","); !strings.HasPrefix(got, "q,q.a.b,,q") {
			t.Errorf("the hook heard %s", got)
		}
	})
}

func TestOptionsAreReadAsPostgreSQLWould(t *testing.T) {
	w := onFresh(t)
	f := func(option, value, want string) {
		t.Helper()
		x := w.ask("POST", "/api/v1/configure", `{"queue":"q","options":{"`+option+`":`+value+`}}`)
		if x.status != 200 || !strings.Contains(x.body, `"`+option+`":`+want) {
			t.Errorf("%s %s: %d %s", option, value, x.status, x.body)
		}
	}
	f("leaseTime", `30`, "30,")
	f("leaseTime", `"30"`, "30,")
	f("leaseTime", `" +30 "`, "30,")
	f("leaseTime", `-1`, "-1,")
	f("leaseTime", `2147483647`, "2147483647,")
	f("deadLetterQueue", `true`, "true,")
	f("deadLetterQueue", `"TRUE"`, "true,")
	f("deadLetterQueue", `"t"`, "true,")
	f("deadLetterQueue", `"on"`, "true,")
	f("deadLetterQueue", `1`, "true,")
	f("deadLetterQueue", `"of"`, "false,")
	f("deadLetterQueue", `0`, "false,")
	f("windowBuffer", `5`, "5}")

	before := w.sql(`SELECT * FROM queen.queues`)
	g := func(option, value, kind string) {
		t.Helper()
		w.says("POST", "/api/v1/configure", `{"queue":"q","options":{"`+option+`":`+value+`}}`, 400, `{"error":"options.`+option+` must be `+kind+`"}`)
	}
	const whole, truth = "a whole number between -2147483648 and 2147483647", "true or false"
	g("leaseTime", `30.5`, whole)
	g("leaseTime", `"x"`, whole)
	g("leaseTime", `""`, whole)
	g("leaseTime", `true`, whole)
	g("leaseTime", `2147483648`, whole)
	g("leaseTime", `[1]`, whole)
	g("leaseTime", `{}`, whole)
	g("retentionEnabled", `"o"`, truth)
	g("retentionEnabled", `""`, truth)
	g("retentionEnabled", `2`, truth)
	g("retentionEnabled", `"yess"`, truth)
	g("retentionEnabled", `{}`, truth)
	if after := w.sql(`SELECT * FROM queen.queues`); strings.Join(after, "") != strings.Join(before, "") {
		t.Errorf("a refused configuration left %q, before: %q", after, before)
	}
	// NUL is no text in PostgreSQL.
	x := w.ask("POST", "/api/v1/configure", `{"queue":"a\u0000b"}`)
	if x.status != 400 {
		t.Errorf("%d %s", x.status, x.body)
	}
}

func TestHalfOfASurrogatePairIsNoName(t *testing.T) {
	w := onFresh(t)
	x := w.ask("POST", "/api/v1/configure", `{"queue":"a\ud83d"}`)
	if x.status != 400 || !strings.Contains(x.body, "half of a surrogate pair") {
		t.Errorf("%d %s", x.status, x.body)
	}
	w.holds(`SELECT count(*)::text FROM queen.queues`, "0")
}

func TestAQueueThatBecomesEncryptedIsSoForTheNextPush(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "Default", "clear")
		w.ask("POST", "/api/v1/configure", `{"queue":"q","options":{"encryptionEnabled":true}}`)
		w.push("q", "Default", "sealed")
		w.ask("POST", "/api/v1/configure", `{"queue":"q"}`)
		w.push("q", "Default", "clear again")
		w.holds(`SELECT transaction_id, is_encrypted FROM queen.messages WHERE partition_id = '`+w.partition("q", "Default")+`' ORDER BY seq`, "clear|f", "sealed|t", "clear again|f")
	})
}
