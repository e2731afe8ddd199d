package api

import (
	"fmt"
	"strings"
	"testing"
)

// state is the group rows of a queue: partition, group, the message at the cursor, its number, and
// whether it is leased.
func (w *adminWorld) state(queue string, want ...string) {
	w.t.Helper()
	w.holds(`SELECT p.name, c.consumer_group, coalesce(m.transaction_id, CASE WHEN c.last_consumed_created_at IS NULL THEN '-' ELSE '?' END), c.last_seq,
			CASE WHEN c.lease_expires_at IS NULL AND c.worker_id IS NULL AND num_nonnulls(c.lease_end_created_at, c.lease_end_id, c.lease_end_seq) = 0 AND c.batch_size = 0 AND c.acked_count = 0 AND c.batch_retry_count = 0 THEN 'free' ELSE 'leased' END
		FROM queen.partition_consumers c JOIN queen.partitions p ON p.id = c.partition_id JOIN queen.queues q ON q.id = p.queue_id
		LEFT JOIN queen.messages m ON m.partition_id = p.id AND (m.created_at, m.id) = (c.last_consumed_created_at, c.last_consumed_id)
		WHERE q.name = '`+queue+`' ORDER BY 1, 2`, want...)
}

// heard checks what the hook was told since the last time.
func (w *adminWorld) heard(want ...string) {
	w.t.Helper()
	if fmt.Sprint(w.changed) != fmt.Sprint(want) {
		w.t.Errorf("the hook heard %q, want %q", w.changed, want)
	}
	w.changed = nil
}

func TestAGroupSeeksToTheEnd(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q"}`) // Default stays empty
		w.push("q", "p1", "a", "b")
		w.push("q", "p2", "c")
		w.push("other", "p1", "d")
		p1 := w.partition("q", "p1")
		w.consume(p1, "g", "a")
		w.lease(p1, "g")
		w.sql(`UPDATE queen.partition_consumers SET batch_retry_count = 2, acked_count = 1, total_messages_consumed = 9 WHERE partition_id = $1`, p1)
		w.consume(p1, "h", "a")
		w.sql(`INSERT INTO queen.consumer_watermarks (queue_name, consumer_group) VALUES ('q', 'g')`)
		for _, g := range []string{"g", "new one", "__QUEUE_MODE__"} {
			w.sql(`INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT p.id, $1 FROM queen.partitions p JOIN queen.queues q ON q.id = p.queue_id WHERE q.name = 'q' ON CONFLICT DO NOTHING`, g)
		}
		w.changed = nil
		seek := func(group string, status int, answer string) {
			t.Helper()
			w.says("POST", "/api/v1/consumer-groups/"+group+"/queues/q/seek", `{"toEnd":true}`, status, answer)
		}
		seek("g", 200, `{"consumerGroup":"g","partitionsUpdated":3,"queueName":"q","seekToEnd":true,"success":true,"targetTimestamp":null}`)
		w.heard("q")
		w.holds(`SELECT p.name, c.consumer_group, c.last_seq FROM queen.partition_consumers c JOIN queen.partitions p ON p.id = c.partition_id WHERE c.consumer_group IN ('g', 'h') ORDER BY 1, 2`,
			"Default|g|0", "p1|g|2", "p1|h|1", "p2|g|1")
		w.state("other")
		w.holds(`SELECT total_messages_consumed FROM queen.partition_consumers WHERE partition_id = '`+p1+`' AND consumer_group = 'g'`, "9")
		w.holds(`SELECT count(*) FROM queen.consumer_watermarks WHERE consumer_group = 'g'`, "1") // forward: what is known stays known
		// What is pushed now lies beyond.
		w.push("q", "p1", "e")
		w.holds(`SELECT m.transaction_id FROM queen.partition_consumers c JOIN queen.messages m ON m.partition_id = c.partition_id AND m.seq > c.last_seq
			AND (m.created_at, m.id) > (c.last_consumed_created_at, c.last_consumed_id) WHERE c.partition_id = '`+p1+`' AND c.consumer_group = 'g'`, "e")
		// One that has read nothing, and the implicit one by either name.
		seek("new%20one", 200, `{"consumerGroup":"new one","partitionsUpdated":3,"queueName":"q","seekToEnd":true,"success":true,"targetTimestamp":null}`)
		seek("", 200, `{"consumerGroup":"__QUEUE_MODE__","partitionsUpdated":3,"queueName":"q","seekToEnd":true,"success":true,"targetTimestamp":null}`)
		seek("__QUEUE_MODE__", 200, `{"consumerGroup":"__QUEUE_MODE__","partitionsUpdated":3,"queueName":"q","seekToEnd":true,"success":true,"targetTimestamp":null}`)
		w.holds(`SELECT consumer_group, sum(last_seq) FROM queen.partition_consumers c JOIN queen.partitions p ON p.id = c.partition_id JOIN queen.queues q ON q.id = p.queue_id AND q.name = 'q'
			WHERE consumer_group NOT IN ('g', 'h') GROUP BY 1 ORDER BY 1`, "__QUEUE_MODE__|4", "new one|4")
		// The head stands where a deleted message was.
		w.ask("DELETE", "/api/v1/messages/"+p1+"/e", "")
		seek("g", 200, `{"consumerGroup":"g","partitionsUpdated":3,"queueName":"q","seekToEnd":true,"success":true,"targetTimestamp":null}`)
		w.holds(`SELECT c.last_seq, (c.last_consumed_created_at, c.last_consumed_id) = (h.last_message_created_at, h.last_message_id) FROM queen.partition_consumers c
			JOIN queen.partition_lookup h USING (partition_id) WHERE c.partition_id = '`+p1+`' AND consumer_group = 'g'`, "3|t")
	})
}

// A seek moves the cursors that are there, and no others: where a group has not come to yet
// it begins as it would have. One whose beginning is stored has all of them.
func TestASeekMovesTheCursorsThatAreThere(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q"}`)
		w.push("q", "p1", "a", "b")
		w.push("q", "p2", "c")
		w.consume(w.partition("q", "p1"), "g", "a")
		w.changed = nil
		seek := func(group, body string, n int) {
			t.Helper()
			end, target := "true", "null"
			if strings.Contains(body, "timestamp") {
				end, target = "false", "T"
			}
			w.says("POST", "/api/v1/consumer-groups/"+group+"/queues/q/seek", body, 200,
				fmt.Sprintf(`{"consumerGroup":%q,"partitionsUpdated":%d,"queueName":"q","seekToEnd":%s,"success":true,"targetTimestamp":%s}`, group, n, end, target))
		}
		seek("g", `{"toEnd":true}`, 1)
		w.state("q", "p1|g|b|2|free")
		seek("g", `{"timestamp":"2020-01-01"}`, 1)
		w.state("q", "p1|g|-|0|free")
		// Who has never popped is moved everywhere: what it asks for would be in vain else.
		seek("stranger", `{"toEnd":true}`, 3)
		w.state("q", "Default|stranger|-|0|free", "p1|g|-|0|free", "p1|stranger|b|2|free", "p2|stranger|c|1|free")
		seek("stranger", `{"timestamp":"2020-01-01"}`, 3)
		w.state("q", "Default|stranger|-|0|free", "p1|g|-|0|free", "p1|stranger|-|0|free", "p2|stranger|-|0|free")
		seek("late", `{"timestamp":"2100-01-01"}`, 3)
		w.state("q", "Default|late|-|0|free", "Default|stranger|-|0|free", "p1|g|-|0|free", "p1|late|b|2|free", "p1|stranger|-|0|free", "p2|late|c|1|free", "p2|stranger|-|0|free")
		w.sql(`DELETE FROM queen.partition_consumers WHERE consumer_group <> 'g'`)
		w.says("POST", "/api/v1/consumer-groups/stranger/queues/q/partitions/p2/seek", ``, 200, `{"consumerGroup":"stranger","cursorMovedTo":T,"partitionName":"p2","queueName":"q","success":true,"updated":false}`)
		w.state("q", "p1|g|-|0|free")
		w.changed = nil
		w.says("POST", "/api/v1/consumer-groups/g/queues/q/partitions/p2/seek", ``, 200, `{"consumerGroup":"g","cursorMovedTo":T,"partitionName":"p2","queueName":"q","success":true,"updated":false}`)
		w.says("POST", "/api/v1/consumer-groups/g/queues/q/partitions/Default/seek", ``, 200, `{"consumerGroup":"g","cursorMovedTo":null,"partitionName":"Default","queueName":"q","success":true,"updated":false}`)
		w.heard()
		w.state("q", "p1|g|-|0|free")
		w.sql(`INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, partition_name, subscription_mode, subscription_timestamp)
			VALUES ('g', 'q', '', 'new', now()), ('one', 'q', 'p2', 'new', now()), ('one', 'r', '', 'new', now())`)
		seek("g", `{"toEnd":true}`, 3)
		seek("one", `{"toEnd":true}`, 1)
		w.state("q", "Default|g|-|0|free", "p1|g|b|2|free", "p2|g|c|1|free", "p2|one|c|1|free")
		w.sql(`DELETE FROM queen.partition_consumers`)
		seek("g", `{"timestamp":"2020-01-01"}`, 3)
		w.state("q", "Default|g|-|0|free", "p1|g|-|0|free", "p2|g|-|0|free")
	})
}

// A queue whose idle partitions were all removed is there still, with nothing to move.
func TestASeekInAQueueWithoutPartitionsMovesNothing(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q"}`)
		w.sql(`DELETE FROM queen.partitions`)
		w.says("POST", "/api/v1/consumer-groups/g/queues/q/seek", `{"toEnd":true}`, 200, `{"consumerGroup":"g","partitionsUpdated":0,"queueName":"q","seekToEnd":true,"success":true,"targetTimestamp":null}`)
		w.says("POST", "/api/v1/consumer-groups/g/queues/q/seek", `{"timestamp":"2020-01-01"}`, 200, `{"consumerGroup":"g","partitionsUpdated":0,"queueName":"q","seekToEnd":false,"success":true,"targetTimestamp":T}`)
		w.says("POST", "/api/v1/consumer-groups/g/queues/r/seek", `{"toEnd":true}`, 404, `{"error":"Queue not found"}`)
	})
}

// A group that is told where to begin in a namespace has a beginning in each of its queues:
// there a seek is as good as in one that it was told of by name.
func TestASeekGoesBeforeWhatANamespaceSays(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p1", "a")
		w.push("", "p2", "b")
		w.sql(`UPDATE queen.queues SET namespace = 'n' WHERE name = 'q'`)
		w.sql(`INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, partition_name, namespace, task, subscription_mode, subscription_timestamp)
			VALUES ('g', '', '', 'n', '', 'new', '2100-01-01'), ('all', '', '*', '*', '*', 'new', '2100-01-01'), ('other', '', '', 'm', '', 'new', '2100-01-01')`)
		seek := func(group, queue, body string, n int) {
			t.Helper()
			x := w.ask("POST", "/api/v1/consumer-groups/"+group+"/queues/"+queue+"/seek", body)
			if want := fmt.Sprintf(`"partitionsUpdated":%d,`, n); x.status != 200 || !strings.Contains(x.body, want) {
				t.Errorf("%s in %q: %s", group, queue, x.body)
			}
		}
		for _, group := range []string{"g", "all"} {
			seek(group, "q", `{"toEnd":true}`, 1)
			seek(group, "q", `{"timestamp":"2020-01-01"}`, 1)
		}
		w.sql(`INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT id, g FROM queen.partitions, unnest(ARRAY['other', 'g']) g WHERE name = 'p1' OR name = 'p2' AND g = 'g' ON CONFLICT DO NOTHING`)
		w.push("q", "p3", "c")
		w.push("", "p4", "d")
		seek("g", "q", `{"timestamp":"2020-01-01"}`, 2)
		seek("other", "q", `{"timestamp":"2020-01-01"}`, 1)
		seek("g", "", `{"timestamp":"2020-01-01"}`, 1)
		w.holds(`SELECT consumer_group, queue_name, namespace, date(subscription_timestamp) FROM queen.consumer_groups_metadata WHERE consumer_group IN ('g', 'all', 'other') ORDER BY 1, 2`,
			"all||*|2100-01-01", "all|q||2020-01-01", "g||n|2100-01-01", "g|q||2020-01-01", "other||m|2100-01-01")
		w.ask("DELETE", "/api/v1/consumer-groups/g/queues/", "")
		w.holds(`SELECT count(*) FROM queen.consumer_groups_metadata WHERE consumer_group = 'g'`, "2")
	})
}

func TestAGroupSeeksToATime(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q"}`)
		w.push("q", "p1", "a", "b", "c")
		w.push("q", "p2", "d")
		w.sql(`UPDATE queen.messages SET created_at = '2026-01-01 00:00:00+00'::timestamptz + seq * interval '1 hour' WHERE transaction_id IN ('a', 'b', 'c')`)
		w.sql(`UPDATE queen.messages SET created_at = '2026-01-01 02:30:00+00' WHERE transaction_id = 'd'`)
		p1 := w.partition("q", "p1")
		w.consume(p1, "g", "c")
		w.lease(p1, "g")
		w.sql(`INSERT INTO queen.consumer_watermarks (queue_name, consumer_group) VALUES ('q', 'g'), ('other', 'g'), ('q', 'h')`)
		w.sql(`INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, subscription_mode, subscription_timestamp) VALUES ('g', 'q', 'new', '2027-01-01'), ('g', 'x', 'new', '2027-01-01'), ('h', 'q', 'new', '2027-01-01')`)
		w.changed = nil
		seek := func(timestamp, target string, want ...string) {
			t.Helper()
			x := w.ask("POST", "/api/v1/consumer-groups/g/queues/q/seek", `{"timestamp":"`+timestamp+`"}`)
			answer := `{"consumerGroup":"g","partitionsUpdated":3,"queueName":"q","seekToEnd":false,"success":true,"targetTimestamp":"` + target + `"}`
			if x.status != 200 || x.body != answer {
				t.Errorf("%s: %d %s", timestamp, x.status, x.body)
			}
			w.state("q", want...)
			w.heard("q")
		}
		seek("2026-01-01T02:00:00.000Z", "2026-01-01T02:00:00.000Z", "Default|g|-|0|free", "p1|g|b|2|free", "p2|g|-|0|free")
		seek("2026-01-01T04:29:59+02:00", "2026-01-01T02:29:59.000Z", "Default|g|-|0|free", "p1|g|b|2|free", "p2|g|-|0|free")
		seek("2026-01-01 02:30:00", "2026-01-01T02:30:00.000Z", "Default|g|-|0|free", "p1|g|b|2|free", "p2|g|d|1|free")
		seek("2100-01-01T00:00:00Z", "2100-01-01T00:00:00.000Z", "Default|g|-|0|free", "p1|g|c|3|free", "p2|g|d|1|free")
		// It begins no later than now in partitions that are to come.
		w.holds(`SELECT subscription_timestamp <= now() FROM queen.consumer_groups_metadata WHERE consumer_group = 'g' AND queue_name = 'q'`, "t")
		seek("2020-01-01T00:00:00.000Z", "2020-01-01T00:00:00.000Z", "Default|g|-|0|free", "p1|g|-|0|free", "p2|g|-|0|free")
		// What is known of an empty queue is forgotten, and where the group begins moves along.
		w.holds(`SELECT queue_name, consumer_group FROM queen.consumer_watermarks WHERE consumer_group IN ('g', 'h') ORDER BY 1, 2`, "other|g", "q|h")
		w.holds(`SELECT consumer_group, queue_name, subscription_timestamp FROM queen.consumer_groups_metadata WHERE consumer_group IN ('g', 'h') ORDER BY 1, 2`,
			"g|q|2020-01-01 00:00:00+00", "g|x|2027-01-01 00:00:00+00", "h|q|2027-01-01 00:00:00+00")
		// toEnd wins over a timestamp; toEnd that is not true does not count.
		w.says("POST", "/api/v1/consumer-groups/g/queues/q/seek", `{"toEnd":true,"timestamp":"2020-01-01"}`, 200,
			`{"consumerGroup":"g","partitionsUpdated":3,"queueName":"q","seekToEnd":true,"success":true,"targetTimestamp":null}`)
		w.says("POST", "/api/v1/consumer-groups/g/queues/q/seek", `{"toEnd":false,"timestamp":"2020-01-01"}`, 200,
			`{"consumerGroup":"g","partitionsUpdated":3,"queueName":"q","seekToEnd":false,"success":true,"targetTimestamp":T}`)
	})
}

// Queen's messages, before the migration has numbered them.
func TestASeekCountsWhatHasNoNumberYet(t *testing.T) {
	w := newAdminWorld(t, true)
	row := strings.Split(w.one(`SELECT m.partition_id, q.name, m.created_at, max(m.seq) FROM queen.messages m JOIN queen.partition_lookup h USING (partition_id)
		JOIN queen.partitions p ON p.id = m.partition_id JOIN queen.queues q ON q.id = p.queue_id
		GROUP BY 1, 2, 3, h.seq, h.tail_seq HAVING max(m.seq) BETWEEN h.tail_seq + 2 AND h.seq - 2 ORDER BY 1, 3 LIMIT 1`), "|")
	partition, name, at, seq := row[0], row[1], row[2], row[3]
	w.sql(`INSERT INTO queen.unnumbered (partition_id, before_created_at, before_id, seq, base_seq) SELECT $1, last_message_created_at + interval '1 microsecond', last_message_id, seq, tail_seq FROM queen.partition_lookup WHERE partition_id = $1`, partition)
	w.sql(`UPDATE queen.messages SET seq = NULL WHERE partition_id = $1`, partition)
	w.sql(`INSERT INTO queen.partition_consumers (partition_id, consumer_group) VALUES ($1, 'g')`, partition)
	x := w.ask("POST", "/api/v1/consumer-groups/g/queues/"+strings.ReplaceAll(name, "/", "%2F")+"/seek", `{"timestamp":"`+at+`"}`)
	if x.status != 200 {
		t.Fatal(x.body)
	}
	w.holds(`SELECT last_seq, last_consumed_created_at FROM queen.partition_consumers WHERE consumer_group = 'g' AND partition_id = '`+partition+`'`, seq+"|"+at)
}

func TestASeekMakesSenseOrIsRefused(t *testing.T) {
	w := onFresh(t)
	w.push("q", "p", "a")
	w.changed = nil
	f := func(target, body string, status int, answer string) {
		t.Helper()
		w.says("POST", "/api/v1/consumer-groups/"+target, body, status, answer)
	}
	neither := `{"error":"Must specify either 'toEnd': true or 'timestamp'"}`
	f("g/queues/q/seek", `{}`, 400, neither)
	f("g/queues/q/seek", `{"toEnd":false}`, 400, neither)
	f("g/queues/q/seek", `{"toEnd":"true"}`, 400, neither)
	f("g/queues/q/seek", `{"timestamp":5}`, 400, neither)
	f("g/queues/q/seek", `{"timestamp":""}`, 400, neither)
	f("g/queues/q/seek", ``, 400, `{"error":"Empty request body"}`)
	f("g/queues/q/seek", `{"timestamp":"then"}`, 400, `{"error":"invalid input syntax for type timestamp with time zone: \"then\""}`)
	f("g/queues/q/seek", `{"timestamp":" -Infinity"}`, 400, `{"error":"timestamp must be a time:  -Infinity is none; toEnd is for the end"}`)
	f("g/subscription", `{"subscriptionTimestamp":"infinity"}`, 400, `{"error":"subscriptionTimestamp must be a time: infinity is none"}`)
	f("g/queues/nothere/seek", `{"toEnd":true}`, 404, `{"error":"Queue not found"}`)
	f("g/queues/nothere/seek", `{"timestamp":"2020-01-01"}`, 404, `{"error":"Queue not found"}`)
	f(strings.Repeat("g", 256)+"/queues/q/seek", `{"toEnd":true}`, 400, `{"error":"value too long for type character varying(255)"}`)
	f("g/queues/q/partitions/nothere/seek", ``, 404, `{"error":"Partition not found","success":false}`)
	f("g/queues/nothere/partitions/p/seek", ``, 404, `{"error":"Partition not found","success":false}`)
	f("g/queues/q/partitions/p/seek", `{`, 400, `{"error":"Invalid JSON: unexpected end of JSON input"}`)
	w.state("q")
	w.heard()
}

func TestAGroupSeeksToTheEndOfOnePartition(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.ask("POST", "/api/v1/configure", `{"queue":"q"}`)
		w.push("q", "p/1", "a", "b")
		w.push("q", "p2", "c")
		w.lease(w.partition("q", "p/1"), "g")
		w.sql(`INSERT INTO queen.partition_consumers (partition_id, consumer_group) SELECT id, 'g' FROM queen.partitions WHERE name = 'Default'`)
		w.changed = nil
		w.says("POST", "/api/v1/consumer-groups/g/queues/q/partitions/p%2F1/seek", `{"toEnd":true}`, 200,
			`{"consumerGroup":"g","cursorMovedTo":T,"partitionName":"p/1","queueName":"q","success":true,"updated":true}`)
		w.heard("q")
		w.says("POST", "/api/v1/consumer-groups/g/queues/q/partitions/Default/seek", ``, 200,
			`{"consumerGroup":"g","cursorMovedTo":null,"partitionName":"Default","queueName":"q","success":true,"updated":true}`)
		w.state("q", "Default|g|-|0|free", "p/1|g|b|2|free")
	})
}

func TestAGroupIsForgotten(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.push("q", "p1", "a")
		w.push("q", "p2", "b")
		w.push("r", "p1", "c")
		fill := func() {
			for _, g := range []string{"g", "h"} {
				w.consume(w.partition("q", "p1"), g, "a")
				w.lease(w.partition("q", "p2"), g)
				w.consume(w.partition("r", "p1"), g, "c")
				w.sql(`INSERT INTO queen.consumer_watermarks (queue_name, consumer_group) VALUES ('q', $1), ('r', $1) ON CONFLICT DO NOTHING`, g)
				w.sql(`INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, subscription_mode, subscription_timestamp) VALUES ($1, 'q', 'new', now()), ($1, 'r', 'new', now()) ON CONFLICT DO NOTHING`, g)
			}
			w.changed = nil
		}
		left := func(rows, marks, metadata string) {
			t.Helper()
			w.holds(`SELECT (SELECT string_agg(q.name || p.name, ' ' ORDER BY q.name, p.name) FROM queen.partition_consumers c JOIN queen.partitions p ON p.id = c.partition_id JOIN queen.queues q ON q.id = p.queue_id WHERE c.consumer_group = 'g'),
				(SELECT string_agg(queue_name, ' ' ORDER BY queue_name) FROM queen.consumer_watermarks WHERE consumer_group = 'g'),
				(SELECT string_agg(queue_name, ' ' ORDER BY queue_name) FROM queen.consumer_groups_metadata WHERE consumer_group = 'g')`, rows+"|"+marks+"|"+metadata)
		}
		fill()
		w.says("DELETE", "/api/v1/consumer-groups/g/queues/q", "", 200, `{"consumerGroup":"g","deletedPartitions":2,"metadataDeleted":true,"queueName":"q","success":true}`)
		w.heard("q")
		left("rp1", "r", "r")
		w.says("DELETE", "/api/v1/consumer-groups/g/queues/q", "", 200, `{"consumerGroup":"g","deletedPartitions":0,"metadataDeleted":true,"queueName":"q","success":true}`)
		w.heard()
		fill()
		w.says("DELETE", "/api/v1/consumer-groups/g/queues/q?deleteMetadata=false", "", 200, `{"consumerGroup":"g","deletedPartitions":2,"metadataDeleted":false,"queueName":"q","success":true}`)
		left("rp1", "r", "q r")
		fill()
		w.says("DELETE", "/api/v1/consumer-groups/g?deleteMetadata=false", "", 200, `{"consumerGroup":"g","deletedPartitions":3,"metadataDeleted":false,"success":true}`)
		w.heard("q", "r")
		left("", "", "q r")
		fill()
		w.says("DELETE", "/api/v1/consumer-groups/g?deleteMetadata=true", "", 200, `{"consumerGroup":"g","deletedPartitions":3,"metadataDeleted":true,"success":true}`)
		left("", "", "")
		w.says("DELETE", "/api/v1/consumer-groups/", "", 400, `{"error":"the name of the group is missing; that of a queue's own consumers is __QUEUE_MODE__"}`)
		w.says("DELETE", "/api/v1/consumer-groups/none", "", 200, `{"consumerGroup":"none","deletedPartitions":0,"metadataDeleted":true,"success":true}`)
		// Where it begins may be all that there is of a group.
		told := func(row string) {
			t.Helper()
			w.sql(`INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, partition_name, namespace, task, subscription_mode, subscription_timestamp) VALUES (` + row + `, 'new', now())`)
		}
		told(`'told', 'q', '', '', ''`)
		told(`'told', 'q', 'p1', '', ''`)
		told(`'told', '', '', 'n', ''`)
		w.changed = nil
		w.says("DELETE", "/api/v1/consumer-groups/told/queues/q", "", 200, `{"consumerGroup":"told","deletedPartitions":0,"metadataDeleted":true,"queueName":"q","success":true}`)
		w.heard("q")
		w.says("POST", "/api/v1/consumer-groups/told/subscription", `{"subscriptionTimestamp":"2024-01-01"}`, 200, `{"consumerGroup":"told","newTimestamp":T,"rowsUpdated":1,"success":true}`)
		w.heard("*")
		w.says("DELETE", "/api/v1/consumer-groups/told", "", 200, `{"consumerGroup":"told","deletedPartitions":0,"metadataDeleted":true,"success":true}`)
		w.heard("*")
		w.says("DELETE", "/api/v1/consumer-groups/none/queues/nothere", "", 200, `{"consumerGroup":"none","deletedPartitions":0,"metadataDeleted":true,"queueName":"nothere","success":true}`)
		w.holds(`SELECT count(*) FROM queen.partition_consumers WHERE consumer_group = 'h'`, "3")
		w.holds(`SELECT (SELECT count(*) FROM queen.consumer_watermarks WHERE consumer_group = 'h'), (SELECT count(*) FROM queen.consumer_groups_metadata WHERE consumer_group = 'h')`, "2|2")
	})
}

func TestWhereAGroupBeginsIsChanged(t *testing.T) {
	onBoth(t, func(w *adminWorld) {
		w.sql(`INSERT INTO queen.consumer_groups_metadata (consumer_group, queue_name, partition_name, subscription_mode, subscription_timestamp)
			VALUES ('g', 'q', '', 'new', now()), ('g', 'q', 'p', 'new', now()), ('g', 'r', '', 'timestamp', now()), ('h', 'q', '', 'new', '2027-01-01')`)
		w.sql(`INSERT INTO queen.consumer_watermarks (queue_name, consumer_group) VALUES ('q', 'g'), ('q', 'h')`)
		x := w.ask("POST", "/api/v1/consumer-groups/g/subscription", `{"subscriptionTimestamp":"2024-01-01T02:00:00.1239+02:00"}`)
		if x.status != 200 || x.body != `{"consumerGroup":"g","newTimestamp":"2024-01-01T00:00:00.123Z","rowsUpdated":3,"success":true}` {
			t.Errorf("%d %s", x.status, x.body)
		}
		w.heard("q", "r")
		w.holds(`SELECT consumer_group, queue_name, partition_name, subscription_mode, subscription_timestamp FROM queen.consumer_groups_metadata WHERE consumer_group IN ('g', 'h') ORDER BY 1, 2, 3`,
			"g|q||new|2024-01-01 00:00:00.1239+00", "g|q|p|new|2024-01-01 00:00:00.1239+00", "g|r||timestamp|2024-01-01 00:00:00.1239+00", "h|q||new|2027-01-01 00:00:00+00")
		w.holds(`SELECT consumer_group FROM queen.consumer_watermarks WHERE consumer_group IN ('g', 'h')`, "h")
		w.says("POST", "/api/v1/consumer-groups/none/subscription", `{"subscriptionTimestamp":"2024-01-01T00:00:00.000Z"}`, 200, `{"consumerGroup":"none","newTimestamp":T,"rowsUpdated":0,"success":true}`)
		w.heard()
		missing := `{"error":"Missing subscriptionTimestamp in request body"}`
		w.says("POST", "/api/v1/consumer-groups/g/subscription", `{}`, 400, missing)
		w.says("POST", "/api/v1/consumer-groups/g/subscription", `{"subscriptionTimestamp":null}`, 400, missing)
		w.says("POST", "/api/v1/consumer-groups/g/subscription", `{"subscriptionTimestamp":""}`, 400, missing)
		w.says("POST", "/api/v1/consumer-groups/g/subscription", ``, 400, `{"error":"Empty request body"}`)
		w.says("POST", "/api/v1/consumer-groups/g/subscription", `{"subscriptionTimestamp":"x"}`, 400, `{"error":"invalid input syntax for type timestamp with time zone: \"x\""}`)
	})
}
