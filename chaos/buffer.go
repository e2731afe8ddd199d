package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/world"
)

// What a trial asks of file buffers: how much is in them, and what is left at the end.

// pending is how many messages wait in the buffer of a queend.
func pending(q *world.Queend) (int, error) {
	status, text := request(q, "GET", "/api/v1/status/buffers", "")
	if status != 200 {
		return 0, fmt.Errorf("%s says nothing of its buffer: %d %.200s", q.Name, status, text)
	}
	var answer struct{ Pending *int }
	if err := json.Unmarshal([]byte(text), &answer); err != nil || answer.Pending == nil {
		return 0, fmt.Errorf("%s says of its buffer %.200s", q.Name, text)
	}
	return *answer.Pending, nil
}

// pendingAll is pending of all that answer.
func (t *Trial) pendingAll() (n int) {
	for _, q := range t.queends {
		if one, err := pending(q); err == nil {
			n += one
		}
	}
	return n
}

// buffersEmpty waits until nothing is left to deliver.
func (t *Trial) buffersEmpty(ctx context.Context) error {
	for _, q := range t.queends {
		var last error
		if err := t.until(ctx, "the buffer of "+q.Name+" is empty", func() (bool, error) {
			n, err := pending(q)
			last = err
			return err == nil && n == 0, nil
		}); err != nil {
			return fmt.Errorf("%w (%v left, %v)", err, t.pendingAll(), last)
		}
	}
	return nil
}

// healthy waits until a queend says that PostgreSQL answers.
func (t *Trial) healthy(ctx context.Context, q *world.Queend) error {
	return t.until(ctx, q.Name+" is healthy", func() (bool, error) {
		status, _ := request(q, "GET", "/health", "")
		return status == 200, nil
	})
}

// backlog lets so many messages be accepted at once, for a buffer that is worth harming.
func (t *Trial) backlog(ctx context.Context, n int) error {
	const one = 100
	for i := 0; i < n; i += one {
		c := t.client("burst")
		accepted := c.Burst(load.Work, min(one, n-i))
		c.Close()
		if !accepted && !wait(ctx, 20*time.Millisecond) {
			return ctx.Err()
		}
	}
	return nil
}

// buffering waits until pushes are answered that they will be stored later.
func (t *Trial) buffering(ctx context.Context) error {
	return t.bufferedSince(ctx, t.load.Buffered())
}

// bufferedSince waits until more pushes were answered so than there were.
func (t *Trial) bufferedSince(ctx context.Context, were int64) error {
	return t.until(ctx, "pushes are buffered", func() (bool, error) { return t.load.Buffered() > were, nil })
}

// leftovers looks at what a stopped queend has left in its buffer directory: what it could
// not deliver, and what it found damaged.
func (t *Trial) leftovers(q *world.Queend, damaged bool) {
	poisoned, quarantined := leftIn(q.Buffer)
	if damaged {
		return
	}
	if poisoned > 0 {
		t.broken("I1", "%s has set %d messages aside as poison: %s", q.Name, poisoned, clip(read(q.Buffer, "poison.jsonl")))
	}
	if len(quarantined) > 0 {
		t.broken("I1", "%s has found damage that nobody has done: %v", q.Name, quarantined)
	}
}

// leftIn counts the poisoned messages in a buffer directory, and lists what is quarantined.
func leftIn(dir string) (poisoned int, quarantined []string) {
	poisoned = bytes.Count(read(dir, "poison.jsonl"), []byte("\n"))
	_ = filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		if err == nil && !entry.IsDir() && strings.Contains(strings.TrimPrefix(path, dir), "quarantine") {
			quarantined = append(quarantined, strings.TrimPrefix(path, dir+"/"))
		}
		return nil
	})
	return poisoned, quarantined
}

func read(dir, name string) []byte {
	text, _ := os.ReadFile(filepath.Join(dir, name))
	return text
}

func clip(text []byte) string { return fmt.Sprintf("%.300s", text) }
