package maintain

import (
	"context"
	"time"
)

// metrics deletes old rows of the tables that only statistics read.
type metrics struct {
	breathe
	age  time.Duration
	rows int
}

func (m *metrics) step(ctx context.Context, t *turn) (outcome, error) {
	o := idle
	for _, name := range []string{"maintain_consumed", "maintain_retained"} {
		n, err := t.exec(ctx, name, t.now.Add(-m.age), m.rows)
		if err != nil {
			return idle, err
		}
		t.rows += n
		if n >= int64(m.rows) {
			o = more
		}
	}
	return o, nil
}
