//go:build plant

package filebuffer

import (
	"os"
	"sync/atomic"

	"github.com/queend/queend/pkg/queue"
)

// planted counts the batches that a fault could have been planted in.
var planted atomic.Int64

// plant spoils about every third batch of the drain, as QUEEND_PLANT says: drop loses a
// message, twice delivers one twice, swap delivers two of a partition in the wrong order.
// It is in no binary that is not built for it.
func plant(items []queue.Item) []queue.Item {
	if len(items) == 0 || planted.Add(1)%3 != 1 {
		return items
	}
	switch os.Getenv("QUEEND_PLANT") {
	case "drop":
		return append([]queue.Item(nil), items[1:]...)
	case "twice":
		again := items[0]
		again.TransactionID = append([]byte("again-"), again.TransactionID...)
		again.ID[15] ^= 1
		return append(append([]queue.Item(nil), items...), again)
	case "swap":
		for i := range items {
			for j := i + 1; j < len(items); j++ {
				if same(&items[i], &items[j]) {
					items[i].ID, items[j].ID = items[j].ID, items[i].ID
					return items
				}
			}
		}
	}
	return items
}
