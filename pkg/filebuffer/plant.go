//go:build plant

package filebuffer

import (
	"os"
	"sync/atomic"

	"github.com/queend/queend/pkg/queue"
)

// planted counts the batches that a fault could have been planted in.
var planted atomic.Int64

// plant spoils batches of the drain, as QUEEND_PLANT says: drop loses a message of every
// third one, twice delivers one of every third twice, swap delivers the first and the last
// of each partition of a batch in the wrong order. It is in no binary that is not built
// for it.
func plant(b *Buffer, items []queue.Item) []queue.Item {
	if len(items) == 0 {
		return items
	}
	what := os.Getenv("QUEEND_PLANT")
	if what == "swap" {
		swap(items)
		return items
	}
	if planted.Add(1)%3 != 1 {
		return items
	}
	switch what {
	case "drop":
		items[0].Status = queue.Queued // so that it is not sent
	case "twice":
		again := items[0]
		again.TransactionID = append([]byte("again-"), again.TransactionID...)
		again.ID[15] ^= 1
		b.mu.Lock()
		b.gate.add([]queue.Item{again})
		b.mu.Unlock()
		b.stats.Pending.Add(1)
		return append(items, again)
	}
	return items
}

// swap exchanges ids, which are the order within a transaction.
func swap(items []queue.Item) {
	last := map[string]int{}
	for i := range items {
		last[string(items[i].Queue)+"\x00"+string(items[i].Partition)] = i
	}
	for i := range items {
		key := string(items[i].Queue) + "\x00" + string(items[i].Partition)
		if j := last[key]; j > i {
			items[i].ID, items[j].ID = items[j].ID, items[i].ID
		}
		delete(last, key)
	}
}
