package queue_test

import (
	"fmt"
	"time"

	"github.com/queend/queend/pkg/queue"
)

// A request that cannot be stored is refused whole, with a sentence for the client.
func ExampleDecode() {
	var op queue.Op
	ids := queue.NewIDs(func() int64 { return time.Now().UnixMilli() })
	for _, body := range []string{
		`{"items":[{"queue":"orders","payload":{"n":1}}]}`,
		`{"items":[{"payload":{"n":1}}]}`,
		`{"items":[{"queue":"orders","traceId":"none"}]}`,
		`{"items":[{"queue":"orders"]}`,
	} {
		op.Reset()
		fault := queue.Decode(&op, []byte(body), &queue.Config{}, ids)
		fmt.Printf("%q\n", fault.Message)
	}
	// Output:
	// ""
	// "Queue must be a string"
	// "items[0].traceId is not a UUID"
	// "Invalid JSON: expected ',' or '}' after a value in an object; found ']' at line 1, column 28"
}

// What a store does with a batch, PostgreSQL being played by hand here.
func ExampleBatch() {
	var op queue.Op
	config := &queue.Config{}
	queue.Decode(&op, []byte(`{"items":[{"queue":"orders","transactionId":"tx-1"}]}`), config, queue.NewIDs(func() int64 { return 0 }))

	batch := queue.NewBatch(config, queue.NewHints(0, 0))
	batch.Add(&op)
	for step := batch.Step(0); step != nil; step = batch.Step(0) {
		for i, statement := range step {
			fmt.Println(statement.Name)
			switch statement.Name {
			case "push_ids": // one row: the first partition is number 7, and not encrypted
				batch.Row(i, [][]byte{{7: 1}, {15: 7}, {0}})
				batch.Tag(i, 1)
			case "push_insert": // one message was stored
				batch.Tag(i, 1)
			}
		}
		batch.StepDone(nil, 0)
	}
	fmt.Println(op.Items[0].Status == queue.Queued, op.Items[0].PartitionID)
	// Output:
	// push_queues
	// push_partitions
	// push_heads
	// push_ids
	// push_plan
	// push_insert
	// true 00000000-0000-0000-0000-000000000007
}
