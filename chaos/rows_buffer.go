package main

import (
	"context"
	"encoding/binary"
	"fmt"
	"hash/crc32"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/world"
)

// The rows of this file harm the directory of the file buffer. Segments are small there, so
// that the moments in which one is made, closed and removed are met often.

const (
	segmentBytes  = 64 << 10
	segmentSuffix = ".queend"
)

var smallSegments = fmt.Sprintf("QUEEND_FILE_BUFFER_SEGMENT_BYTES=%d", segmentBytes)

// diskBytes is the size of row 10's disk.
const diskBytes = 1 << 20

// refusedMax is how long a push may take to hear that the disk is full.
const refusedMax = 100 * time.Millisecond

func row10() *Row {
	return &Row{
		ID: "10", Title: "the disk of the buffer is full",
		What: "a disk of 1 MiB (tmpfs) fills up while PostgreSQL is down: to the buffer's own bound, or to the last byte; in half of the trials queend is killed then; there is space again by a larger disk, or by PostgreSQL",
		Pass: "503 with Retry-After within 100 ms and no crash; accepted again within 2 s when there is space; nothing that was accepted is lost (I1-I7)",
		Run: func(ctx context.Context, t *Trial) error {
			disk, err := t.world.MakeDisk(diskBytes)
			if err != nil {
				return err
			}
			t.atEnd = append(t.atEnd, disk.Remove)
			size := t.Size
			size.Pad = 4000 // it fills up soon
			bound := t.rng.IntN(2) == 0
			storm := Storm{Queends: 1, Size: &size, Buffers: []string{filepath.Join(disk.Dir, "buffer")}, Env: []string{smallSegments}}
			if !bound {
				storm.Env = append(storm.Env, fmt.Sprintf("FILE_BUFFER_MAX_BYTES=%d", 1<<30))
			}
			var full span
			t.after = func(h *history.History) { t.refusedSoon(h, full) }
			return t.storm(ctx, storm, func(ctx context.Context) (err error) {
				full, err = t.fill(ctx, disk, bound)
				return err
			})
		},
	}
}

// fill fills the disk and makes space again. The span is when it was full.
func (t *Trial) fill(ctx context.Context, disk *world.Disk, bound bool) (full span, err error) {
	t.Faults = "a full disk"
	if bound {
		t.Faults = "a full buffer"
	}
	were := t.load.Buffered() // the disk may be full before PostgreSQL has stopped
	if err := t.world.Postgres.Stop(); err != nil {
		return full, err
	}
	if err := t.bufferedSince(ctx, were); err != nil {
		return full, err
	}
	c := t.client("fill")
	defer c.Close()
	if err := t.until(ctx, "the disk is full", func() (bool, error) {
		m := c.Message(load.Work, fmt.Sprint(t.rng.IntN(t.Size.Partitions)))
		status, _ := c.PushRaw(fmt.Sprintf(`{"items":[{"queue":%q,"partition":%q,"transactionId":%q,"payload":%s}]}`, m.Queue, m.Partition, m.Key, m.Payload), m)
		return status == 503, nil
	}); err != nil {
		return full, err
	}
	full.from = t.clock.Now()
	if !wait(ctx, time.Second) {
		return full, ctx.Err()
	}
	full.to = t.clock.Now()
	if t.rng.IntN(2) == 0 {
		t.Faults += " and a kill"
		if _, err := t.kill(ctx, false); err != nil { // without PostgreSQL and without space it is not ready
			return full, err
		}
	}
	if !bound {
		began := t.clock.Now()
		if err := disk.Resize(4 * diskBytes); err != nil {
			return full, err
		}
		if err := t.buffering(ctx); err != nil {
			t.broken("I8", "there is space again, and %v", err)
		} else if took := t.clock.Now() - began; took > 2*time.Second {
			t.late("there was space again, and a push was accepted after %v", took)
		}
	}
	if err := t.world.Postgres.Restart(ctx); err != nil {
		return full, err
	}
	return full, t.buffersEmpty(ctx)
}

// refusedSoon looks at how soon pushes were refused.
func (t *Trial) refusedSoon(h *history.History, full span) {
	var took []time.Duration
	for i := range h.Calls {
		if x := &h.Calls[i]; strings.HasPrefix(x.Route, "POST /api/v1/push") && x.Status == 503 && x.Start >= full.from && x.Start < full.to {
			took = append(took, x.End-x.Start)
		}
	}
	p := percentile(took, 99)
	t.remark("%d refused while it was full, p99 %v", len(took), p.Round(100*time.Microsecond))
	if p > refusedMax {
		t.late("a push heard after %v that the disk is full", p)
	}
}

// failures are the system calls of the buffer and how they fail; the number of the call that
// does is drawn.
var failures = []string{
	"fdatasync:error=EIO", "fdatasync:error=ENOSPC", "pwrite64:error=EIO", "pwrite64:error=ENOSPC", "fallocate:error=ENOSPC", "openat:error=EMFILE",
	"openat:error=EIO", "renameat:error=EIO", "unlinkat:error=EIO", "fsync:error=EIO", "ftruncate:error=EIO", "fdatasync:delay_enter=300000",
	"fdatasync:signal=KILL", "pwrite64:signal=KILL", "renameat:signal=KILL", "unlinkat:signal=KILL",
}

func row11() *Row {
	return &Row{
		ID: "11", Title: "system calls of the buffer fail",
		What: fmt.Sprintf("each of %d failures (of fdatasync, pwrite64, fallocate, openat, renameat, unlinkat, fsync, ftruncate: EIO, ENOSPC, EMFILE, a delay, a kill) hits the real binary at a call that is drawn, by strace, half of them while PostgreSQL is down and half in the replay", len(failures)),
		Pass: "I1-I7, exactly: nothing that was refused is delivered, nothing that was accepted is lost",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Queends: 1, Env: []string{smallSegments}}, func(ctx context.Context) error { return t.failingCalls(ctx, failures) })
		},
	}
}

// failingCalls lets system calls fail, one kind after the other, in an order that is drawn.
func (t *Trial) failingCalls(ctx context.Context, kinds []string) error {
	q := t.queends[0]
	met := 0
	for i, which := range t.rng.Perm(len(kinds)) {
		rule := fmt.Sprintf("%s:when=%d+%d", kinds[which], 1+t.rng.IntN(8), 3+t.rng.IntN(20))
		if strings.Contains(rule, "signal") {
			rule = fmt.Sprintf("%s:when=%d", kinds[which], 1+t.rng.IntN(12))
		}
		down := i%2 == 0
		t.Say("%v: %s, PostgreSQL down %v", t.clock.Now().Round(time.Millisecond), rule, down)
		if err := t.world.Postgres.Stop(); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		if !down { // there is something to replay
			if err := t.backlog(ctx, 300); err != nil {
				return err
			}
		}
		end, err := world.Inject(q.Pid(), nil, rule)
		if err != nil {
			return err
		}
		if !down {
			err = t.world.Postgres.Restart(ctx)
		}
		wait(ctx, time.Duration(300+t.rng.IntN(500))*time.Millisecond)
		end()
		if err != nil {
			return err
		}
		t.Kills++
		if q.Ended() != nil || t.rng.IntN(4) == 0 { // killed by the rule, or now
			met++
			q.Kill()
			if err := q.Launch(); err != nil {
				t.broken("I10", "it does not start again after %s: %v", rule, err)
				return nil
			}
		}
		if down {
			if err := t.world.Postgres.Restart(ctx); err != nil {
				return err
			}
		}
		if err := t.buffersEmpty(ctx); err != nil {
			t.broken("I8", "after %s: %v", rule, err)
			return nil
		}
	}
	t.Faults = fmt.Sprintf("%d failing calls, %d kills", t.Kills, met)
	return nil
}

func row12() *Row {
	return &Row{
		ID: "12", Title: "writes of the buffer are torn",
		What: "8 times the real binary may write its files only up to a length that is drawn (RLIMIT_FSIZE) while PostgreSQL is down; then it is killed, or may go on",
		Pass: "I1-I7: all whole records are recovered, and none that was refused",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Queends: 1, Env: []string{smallSegments}}, func(ctx context.Context) error { return t.tornWrites(ctx, 8) })
		},
	}
}

func (t *Trial) tornWrites(ctx context.Context, n int) error {
	q := t.queends[0]
	for range n {
		if err := t.world.Postgres.Stop(); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		if err := world.LimitFiles(q.Pid(), int64(1+t.rng.IntN(segmentBytes))); err != nil {
			return err
		}
		wait(ctx, time.Duration(200+t.rng.IntN(500))*time.Millisecond)
		if err := q.Ended(); err != nil {
			t.broken("I10", "%v", err)
			return nil
		}
		t.Kills++
		if t.rng.IntN(2) == 0 {
			q.Kill()
			if err := q.Launch(); err != nil {
				t.broken("I10", "it does not start again: %v", err)
				return nil
			}
		} else if err := world.LimitFiles(q.Pid(), -1); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			t.broken("I8", "files may be written again, and %v", err)
			return nil
		}
		if err := t.world.Postgres.Restart(ctx); err != nil {
			return err
		}
		if err := t.buffersEmpty(ctx); err != nil {
			t.broken("I8", "after torn writes: %v", err)
			return nil
		}
	}
	t.Faults = fmt.Sprintf("%d limits of files", t.Kills)
	return nil
}

// flips is how many bits row 13 flips, and itemsMax how many messages a record of the load
// has at most.
const (
	flips    = 4
	itemsMax = 4
)

func row13() *Row {
	return &Row{
		ID: "13", Title: "a bit of the buffer flips",
		What: fmt.Sprintf("%d times: PostgreSQL is down, queend is killed, a bit of a segment is flipped, queend and PostgreSQL start", flips),
		Pass: "the damage is found and said, at most one record is lost for each bit, all others are delivered (I1-I7)",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Queends: 1, Env: []string{smallSegments}, LostMax: flips * itemsMax, Damaged: true}, func(ctx context.Context) error { return t.flipBits(ctx, flips) })
		},
	}
}

func (t *Trial) flipBits(ctx context.Context, n int) error {
	q := t.queends[0]
	for range n {
		if err := t.world.Postgres.Stop(); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		wait(ctx, time.Duration(500+t.rng.IntN(1000))*time.Millisecond)
		q.Kill()
		where, err := t.flip(q.Buffer)
		if err != nil {
			return err
		}
		t.Say("%v: flipped a bit of %s", t.clock.Now().Round(time.Millisecond), where)
		t.Kills++
		if err := q.Launch(); err != nil {
			t.broken("I10", "it does not start with damage in %s: %v", where, err)
			return nil
		}
		if err := t.world.Postgres.Restart(ctx); err != nil {
			return err
		}
		if err := t.buffersEmpty(ctx); err != nil {
			t.broken("I8", "with damage in %s: %v", where, err)
			return nil
		}
	}
	said := q.Logged("DAMAGE") + q.Logged("was not written whole")
	_, aside := leftIn(q.Buffer)
	t.Faults = fmt.Sprintf("%d flipped bits", n)
	t.remark("said %d times, %d files set aside", said, len(aside))
	if said == 0 {
		t.broken("I10", "%d bits were flipped, and nothing was said", n)
	}
	return nil
}

// flip flips a bit in one of the segments of a directory, somewhere in what is used of it.
func (t *Trial) flip(dir string) (where string, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(paths) == 0 {
		return "", fmt.Errorf("there is no segment in %s (%v)", dir, err)
	}
	path := paths[t.rng.IntN(len(paths))]
	text, err := os.ReadFile(path)
	if err != nil {
		return "", err
	}
	used := len(strings.TrimRight(string(text), "\x00"))
	if used == 0 {
		return "", fmt.Errorf("%s is empty", path)
	}
	at := t.rng.IntN(used)
	text[at] ^= 1 << t.rng.IntN(8)
	return fmt.Sprintf("%s at %d of %d", filepath.Base(path), at, used), os.WriteFile(path, text, 0o600)
}

// cutsOfPower is how often row 15 cuts the power at each of its moments.
const cutsOfPower = 2

func row15() *Row {
	return &Row{
		ID: "15", Title: "the power of queend's machine is cut",
		What: fmt.Sprintf("the buffer is on an ext4 image; queend is stopped, the image is copied as it is on the disk, queend is killed and goes on with the copy: %d times each while pushes are buffered and while they are replayed; segments of 64 KiB, so that one is always being made or removed", cutsOfPower),
		Pass: "I1-I7 with the settings as they are: what was answered was on the disk",
		Run: func(ctx context.Context, t *Trial) error {
			image, err := t.world.MakeImage()
			if err != nil {
				return err
			}
			t.atEnd = append(t.atEnd, image.Remove)
			storm := Storm{Queends: 1, Proxy: t.rng.IntN(2) == 0, Buffers: []string{filepath.Join(image.Dir, "buffer")}, Env: []string{smallSegments}}
			return t.storm(ctx, storm, func(ctx context.Context) error { return t.powerCuts(ctx, image, cutsOfPower) })
		},
	}
}

func (t *Trial) powerCuts(ctx context.Context, image *world.Image, n int) error {
	for range n {
		if err := t.world.Postgres.Stop(); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		wait(ctx, time.Duration(t.rng.IntN(1000))*time.Millisecond)
		if err := t.cutPower(ctx, image); err != nil {
			return err
		}
		if err := t.buffering(ctx); err != nil {
			return err
		}
		if err := t.backlog(ctx, 1000); err != nil {
			return err
		}
		if t.proxy != nil {
			t.proxy.SetDelay(50 * time.Millisecond)
		}
		if err := t.world.Postgres.Restart(ctx); err != nil {
			return err
		}
		wait(ctx, time.Duration(t.rng.IntN(500))*time.Millisecond)
		if err := t.cutPower(ctx, image); err != nil {
			return err
		}
		if t.proxy != nil {
			t.proxy.SetDelay(0)
		}
		if err := t.buffersEmpty(ctx); err != nil {
			t.broken("I8", "after a cut of the power: %v", err)
			return nil
		}
	}
	t.Faults = fmt.Sprintf("%d cuts of the power", t.Kills)
	return nil
}

// cutPower cuts the power of the first queend and its disk, and switches both on again.
func (t *Trial) cutPower(ctx context.Context, image *world.Image) error {
	q := t.queends[0]
	if err := q.Ended(); err != nil {
		t.broken("I10", "%v", err)
		return err
	}
	from := t.clock.Now()
	if err := q.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	if err := world.StandsStill(q.Pid()); err != nil {
		return err
	}
	if err := image.Snapshot(); err != nil {
		return err
	}
	q.Kill()
	if err := image.Cut(); err != nil {
		return err
	}
	t.excused = append(t.excused, span{from, t.clock.Now()})
	t.Kills++
	if err := q.Launch(); err != nil {
		t.broken("I10", "it does not start after a cut of the power: %v", err)
		return err
	}
	return t.ready(ctx, q)
}

func row18() *Row {
	return &Row{
		ID: "18", Title: "two queends on one buffer directory",
		What: "a second queend is started on the directory of one that runs: with PostgreSQL up, with a backlog while it is down, and during the replay",
		Pass: "the second ends within 1 s, with an exit status that is not 0 and a sentence that names the directory; the first goes on as if nothing had been (I1-I7)",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Queends: 1}, t.intruders)
		},
	}
}

func (t *Trial) intruders(ctx context.Context) error {
	intrude := func(when string) error {
		t.Kills++
		q := t.queends[0]
		second, err := t.world.Queend("intruder", t.Dir, "DATABASE_URL="+t.world.Postgres.ConnString(t.database))
		if err != nil {
			return err
		}
		if err := os.Remove(second.Buffer); err != nil {
			return err
		}
		second.Buffer = q.Buffer
		end, err := second.RunToEnd(10 * time.Second)
		if err != nil {
			t.broken("I10", "%s a second queend on the directory was not refused: %v", when, err)
			return nil
		}
		t.remark("%s refused in %v with %d", when, end.Took.Round(10*time.Millisecond), end.Status)
		if end.Status <= 0 {
			t.broken("I10", "%s a second queend on the directory ended with %d: %s", when, end.Status, end.Text)
		}
		if !strings.Contains(end.Text, q.Buffer) {
			t.broken("I10", "%s a second queend did not name the directory: %s", when, end.Text)
		}
		if end.Took > time.Second {
			t.late("%s a second queend was refused after %v", when, end.Took)
		}
		return nil
	}
	if err := intrude("with PostgreSQL up,"); err != nil {
		return err
	}
	if err := t.world.Postgres.Stop(); err != nil {
		return err
	}
	if err := t.buffering(ctx); err != nil {
		return err
	}
	if err := t.backlog(ctx, 500); err != nil {
		return err
	}
	if err := intrude("with a backlog,"); err != nil {
		return err
	}
	if err := t.world.Postgres.Restart(ctx); err != nil {
		return err
	}
	if err := intrude("during the replay,"); err != nil {
		return err
	}
	t.Faults = fmt.Sprintf("%d second queends", t.Kills)
	return t.buffersEmpty(ctx)
}

func row26() *Row {
	return &Row{
		ID: "26", Title: "buffers of other versions",
		What: "queend ends with a backlog, killed or stopped; a segment of a version that does not exist is put beside it, and taken away again; then it starts and PostgreSQL too; the buffers of earlier versions (testdata/buffers) are delivered",
		Pass: "it refuses the unknown version with a sentence, and neither changes nor removes it; its own and the earlier ones are read (I1-I7)",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Queends: 1}, t.otherVersions)
		},
	}
}

func (t *Trial) otherVersions(ctx context.Context) error {
	q := t.queends[0]
	if err := t.world.Postgres.Stop(); err != nil {
		return err
	}
	if err := t.buffering(ctx); err != nil {
		return err
	}
	if err := t.backlog(ctx, 300); err != nil {
		return err
	}
	t.Faults = "a stop with a backlog"
	if t.rng.IntN(2) == 0 {
		t.Faults = "a kill with a backlog"
		q.Kill()
	} else if end, err := q.Terminate(); err != nil || end.Status != 0 {
		t.broken("I10", "it did not stop well: %v %d %s", err, end.Status, end.Text)
	}
	path, text, err := foreign(q.Buffer)
	if err != nil {
		return err
	}
	t.Faults += " and a segment of another version"
	end, err := q.RunToEnd(10 * time.Second)
	switch {
	case err != nil:
		t.broken("I1", "a segment of an unknown version is not refused: %v", err)
	case end.Status <= 0 || !strings.Contains(end.Text, "version") || !strings.Contains(end.Text, filepath.Base(path)):
		t.broken("I10", "a segment of an unknown version was refused with %d: %s", end.Status, end.Text)
	}
	if now, err := os.ReadFile(path); err != nil || string(now) != string(text) {
		t.broken("I1", "a segment of an unknown version is not as it was (%d bytes, then %d, %v)", len(text), len(now), err)
	}
	if err := os.Remove(path); err != nil {
		return err
	}
	if err := q.Launch(); err != nil {
		t.broken("I10", "it does not start with its own buffer: %v", err)
		return nil
	}
	if err := t.world.Postgres.Restart(ctx); err != nil {
		return err
	}
	if err := t.buffersEmpty(ctx); err != nil {
		return err
	}
	return t.readOldBuffers(ctx)
}

// foreign puts a segment of a later version behind those of a directory. Where the version
// and the checksum are stays the same in all versions.
func foreign(dir string) (path string, text []byte, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*"+segmentSuffix))
	if err != nil || len(paths) == 0 {
		return "", nil, fmt.Errorf("there is no segment in %s (%v)", dir, err)
	}
	if text, err = os.ReadFile(paths[len(paths)-1]); err != nil {
		return "", nil, err
	}
	const base = 1 << 40
	binary.LittleEndian.PutUint32(text[8:], 1000)
	binary.LittleEndian.PutUint64(text[16:], base)
	binary.LittleEndian.PutUint32(text[28:], crc32.Checksum(text[:28], crc32.MakeTable(crc32.Castagnoli)))
	path = filepath.Join(dir, fmt.Sprintf("%020d%s", base, segmentSuffix))
	return path, text, os.WriteFile(path, text, 0o600)
}
