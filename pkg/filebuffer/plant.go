//go:build plant

package filebuffer

import (
	"os"

	"github.com/queend/queend/pkg/queue"
)

// plant spoils the batches of the drain, as QUEEND_PLANT says: drop loses every other
// message (one alone may be harmless: it is stored already, or buffered a second time),
// twice delivers the first of each batch twice, swap delivers the first and the last of each
// partition of a batch in the wrong order. It is in no binary that is not built for it.
func plant(b *Buffer, items []queue.Item) []queue.Item {
	if len(items) == 0 {
		return items
	}
	switch os.Getenv("QUEEND_PLANT") {
	case "drop":
		for i := 0; i < len(items); i += 2 {
			items[i].Status = queue.Queued // so that it is not sent
		}
	case "twice":
		again := items[0]
		again.TransactionID = append([]byte("again-"), again.TransactionID...)
		again.ID[15] ^= 1
		b.mu.Lock()
		b.gate.add([]queue.Item{again})
		b.mu.Unlock()
		b.stats.Pending.Add(1)
		return append(items, again)
	case "swap":
		swap(items)
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
