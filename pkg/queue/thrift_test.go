package queue

import (
	"fmt"
	"strings"
	"testing"
)

// An op that goes round under load keeps what its requests need, and not for ever what one
// of them has needed.
func TestALargeRequestsMemoryGoesWhenSmallOnesFollowForLong(t *testing.T) {
	op, ids := new(Op), NewIDs(wallMs)
	use := func(items int) (spare bool) {
		item := `{"queue":"q","payload":"` + strings.Repeat("x", 100) + `"},`
		body := fmt.Sprintf(`{"items":[%s]}`, strings.TrimSuffix(strings.Repeat(item, items), ","))
		if f := Decode(op, []byte(body), &Config{}, ids); f.Code != OK || len(op.Items) != items {
			t.Fatal(f)
		}
		return op.Reset()
	}
	kept := func() int { return cap(op.Items)*itemBytes + cap(op.body) + cap(op.made) }
	use(100)
	large := kept()
	for range 3 {
		for i := range thriftUses - 1 {
			if use(1) || kept() != large {
				t.Fatalf("%d bytes of %d are kept after %d small requests", kept(), large, i+1)
			}
		}
		if use(40) {
			t.Fatal("it was needed")
		}
	}
	for range thriftUses - 1 {
		use(1)
	}
	if !use(1) || kept() != 0 {
		t.Errorf("%d bytes of %d are kept", kept(), large)
	}
	// What small requests need is never thought to be too much.
	use(10)
	for range 3 * thriftUses {
		if use(1) || kept() == 0 {
			t.Fatal("memory of a small request was let go of")
		}
	}
}
