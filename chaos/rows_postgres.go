package main

import (
	"context"
	"fmt"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/chaos/history"
	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/proxy"
	"github.com/queend/queend/chaos/world"
)

func row1() *Row {
	return &Row{
		ID: "1", Title: "PostgreSQL is killed",
		What: "kill -9 of the postmaster and all backends, started again after 1 to 5 s, twice; 20 long polls wait through both",
		Pass: "I1-I8, I10; every push meanwhile is accepted, the first within 3 s, then p99 50 ms; /health tells within 2 s; the long polls get their messages; the buffer is empty within 5 s and 1 s for 10 000 messages",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{}, func(ctx context.Context) error {
				return t.sufferings(ctx, 2, func(int) error {
					return t.outage(ctx, "a kill of PostgreSQL", time.Duration(1000+t.rng.IntN(4000))*time.Millisecond,
						t.world.Postgres.Kill, func() error { return t.world.Postgres.Restart(ctx) })
				})
			})
		},
	}
}

func row2() *Row {
	return &Row{
		ID: "2", Title: "PostgreSQL is restarted",
		What: "a fast restart (SIGINT, then a start at once), three times, one of them after 1 s of a smart one (SIGTERM: nobody new is let in); 20 long polls wait through all",
		Pass: "as row 1; 57P01 and 57P03 never reach a client",
		Run: func(ctx context.Context, t *Trial) error {
			t.after = func(h *history.History) {
				for i := range h.Calls {
					if x := &h.Calls[i]; strings.HasPrefix(x.Route, "POST /api/v1/push") && strings.Contains(x.Why, "57P0") {
						t.broken("I10", "57P01 or 57P03 reached a client: %.200s", x.Why)
						return
					}
				}
			}
			return t.storm(ctx, Storm{}, func(ctx context.Context) error {
				smart := t.rng.IntN(3)
				return t.sufferings(ctx, 3, func(i int) error {
					name := "a fast restart"
					if i == smart {
						name = "a smart and a fast restart"
					}
					return t.outage(ctx, name, 0, func() error {
						if i == smart {
							if err := syscall.Kill(t.world.Postgres.Pid(), syscall.SIGTERM); err != nil {
								return err
							}
							wait(ctx, time.Second)
						}
						_ = t.world.Postgres.Stop() // after a smart one it may say that it had stopped already
						return nil
					}, func() error { return t.world.Postgres.Restart(ctx) })
				})
			})
		},
	}
}

// sufferings are outages with long polls that wait through all.
func (t *Trial) sufferings(ctx context.Context, n int, outage func(i int) error) error {
	parked, err := t.park(ctx, 20)
	if err != nil {
		return err
	}
	defer parked.close()
	t.Faults = fmt.Sprintf("%d outages", n)
	for i := range n {
		if !wait(ctx, time.Duration(200+t.rng.IntN(1500))*time.Millisecond) {
			return ctx.Err()
		}
		if err := outage(i); err != nil {
			return err
		}
	}
	if err := t.stored(ctx); err != nil {
		return err
	}
	parked.finish(ctx)
	return nil
}

// lasting is a storm around an outage that lasts. With a large load nobody pops: consumers
// would be at it long after the trial.
func (t *Trial) lasting(s Storm) Storm {
	if t.Size.Rate >= load.Sizes["large"].Rate {
		size := t.Size
		size.Consumers, size.Movers = 0, 0
		s.Size, s.PushOnly = &size, true
	}
	return s
}

// hold draws how long an outage of rows 3, 5 and 6 is; long is its long form.
func (t *Trial) hold(long time.Duration) time.Duration {
	if t.Long {
		return long
	}
	return time.Duration(5000+t.rng.IntN(25_000)) * time.Millisecond
}

// replayJudged is how many messages are enough to measure how fast they are delivered.
const replayJudged = 20_000

func row3() *Row {
	return &Row{
		ID: "3", Title: "PostgreSQL is stopped for a while",
		What: "stopped for 5 to 30 s (-long: 60 s), then started, under load all the time",
		Pass: "as row 1; the replay makes 10 000 messages a second (of 20 000 or more) while p99 of live pushes at most doubles",
		Slow: true,
		Run: func(ctx context.Context, t *Trial) error {
			var before span
			t.after = func(h *history.History) {
				o := t.outages[0]
				took := o.empty - o.healed
				if took > time.Second {
					t.compare(h, before, span{o.healed, o.empty})
				}
				if rate := float64(o.replayed) / took.Seconds(); o.replayed > replayJudged && rate < deliverRate {
					t.late("after %s %d messages a second were delivered", o.name, int(rate))
				}
			}
			return t.storm(ctx, t.lasting(Storm{}), func(ctx context.Context) error {
				before = t.calm(ctx)
				d := t.hold(time.Minute)
				t.Faults = fmt.Sprintf("a stop of %v", d.Round(time.Second))
				return t.outage(ctx, "a stop of PostgreSQL", d, t.world.Postgres.Stop, func() error { return t.world.Postgres.Restart(ctx) })
			})
		},
	}
}

// stored waits until a push is stored.
func (t *Trial) stored(ctx context.Context) error {
	from := t.clock.Now()
	err := t.until(ctx, "a push is stored", func() (bool, error) { _, last := t.load.Stored(); return last > from, nil })
	if took := t.clock.Now() - from; err == nil && took > 2*time.Second {
		t.late("after an outage it took %v until a push was stored", took)
	}
	return err
}

// cutsOfATrial is how often row 4 cuts.
const cutsOfATrial = 60

func row4() *Row {
	return &Row{
		ID: "4", Title: "connections to PostgreSQL are cut in the middle",
		What: fmt.Sprintf("%d cuts a trial of a connection that is in use, either direction, half of them between two messages of the protocol and half inside one (so also: committed, and the answer lost), by an end or by a reset", cutsOfATrial),
		Pass: "I1-I3 and I7, exactly, also without transactionIds; I4-I6",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Proxy: true}, func(ctx context.Context) error { return t.cuts(ctx, cutsOfATrial) })
		},
	}
}

// cuts cuts connections to PostgreSQL.
func (t *Trial) cuts(ctx context.Context, n int) error {
	boundaries := 0
	for range n {
		c := proxy.Cut{Way: proxy.Way(t.rng.IntN(2)), Messages: t.rng.IntN(12), Reset: t.rng.IntN(2) == 0}
		if t.rng.IntN(2) == 0 {
			c.Bytes = 1 + t.rng.IntN(300)
		}
		select {
		case <-t.proxy.Arm(c, t.rng):
			t.Kills++
			if c.Bytes == 0 {
				boundaries++
			}
		case <-time.After(3 * time.Second):
			t.proxy.Disarm() // that connection is not used any more
		case <-ctx.Done():
			return ctx.Err()
		}
		wait(ctx, time.Duration(t.rng.IntN(150))*time.Millisecond)
	}
	t.Faults = fmt.Sprintf("%d cuts, %d between messages", t.Kills, boundaries)
	return nil
}

func row5() *Row {
	return &Row{
		ID: "5", Title: "PostgreSQL hangs",
		What: "SIGSTOP of all processes of PostgreSQL for 5 to 30 s (-long: 120 s), then SIGCONT: what was under way commits late",
		Pass: "as row 1, above all I2: what commits late is not stored again by the replay",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, t.lasting(Storm{}), func(ctx context.Context) error {
				d := t.hold(2 * time.Minute)
				t.Faults = fmt.Sprintf("a stop of %v", d.Round(time.Second))
				wait(ctx, time.Duration(t.rng.IntN(1000))*time.Millisecond)
				return t.outage(ctx, "a hang of PostgreSQL", d, t.world.Postgres.Pause, t.world.Postgres.Resume)
			})
		},
	}
}

// detectedMax is how long a way to PostgreSQL may lose everything before a queend says so.
const detectedMax = 5 * time.Second

// descriptorsSlack is how many more descriptors there may be after a fault than before.
const descriptorsSlack = 10

func row6() *Row {
	return &Row{
		ID: "6", Title: "the network to PostgreSQL loses everything",
		What: "for 5 to 30 s (-long: 60 s) packets are lost without a word: a veth pair whose far end is down; without network namespaces, a proxy that is silent",
		Pass: "as row 1; /health says so within 5 s; the descriptors are back within 60 s",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, t.lasting(Storm{Proxy: true, Wire: true, Recovery: 5 * time.Second}), func(ctx context.Context) error {
				return t.blackHole(ctx, t.hold(time.Minute))
			})
		},
	}
}

func (t *Trial) blackHole(ctx context.Context, d time.Duration) error {
	harm, heal, how := func() error { t.proxy.Hold(true); return nil }, func() error { t.proxy.Hold(false); return nil }, "silent proxy"
	if t.wire != nil {
		harm, heal, how = t.wire.Cut, t.wire.Mend, "veth"
	}
	t.Faults = fmt.Sprintf("a black hole of %v (%s)", d.Round(time.Second), how)
	before := make([]int, len(t.queends))
	for i, q := range t.queends {
		before[i] = world.Process(q.Pid()).Descriptors
	}
	noticed := make([]time.Duration, len(t.queends))
	err := t.outage(ctx, "a black hole", d, func() error {
		from := t.clock.Now()
		if err := harm(); err != nil {
			return err
		}
		for i, q := range t.queends {
			if err := t.until(ctx, q.Name+" notices the black hole", func() (bool, error) {
				status, _ := request(q, "GET", "/health", "")
				return status == 503, nil
			}); err != nil {
				t.broken("I10", "%v", err)
			}
			noticed[i] = t.clock.Now() - from
		}
		return nil
	}, heal)
	if err != nil {
		return err
	}
	o := t.outages[len(t.outages)-1]
	for i, took := range noticed {
		t.remark("queend-%d noticed it after %v", i+1, took.Round(10*time.Millisecond))
		if took > detectedMax {
			t.late("queend-%d noticed the black hole after %v", i+1, took)
		}
	}
	for i, q := range t.queends {
		if err := t.until(ctx, "the descriptors are back", func() (bool, error) {
			return world.Process(q.Pid()).Descriptors <= before[i]+descriptorsSlack, nil
		}); err != nil {
			t.broken("I9", "queend-%d: %v: %d before, %d now", i+1, err, before[i], world.Process(q.Pid()).Descriptors)
		}
	}
	if took := t.clock.Now() - o.healed; took > time.Minute {
		t.late("the descriptors were back after %v", took)
	}
	return nil
}

func row7() *Row {
	return &Row{
		ID: "7", Title: "another PostgreSQL takes over",
		What: "a synchronous standby is promoted: of a primary that was killed and comes back read-only, or of one that is made read-only while it runs; DATABASE_URL names both, target_session_attrs=read-write",
		Pass: "I1-I7; stored again within 5 s of the promotion; nothing is written to the old one after it",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{Pair: true, Recovery: 5 * time.Second}, t.failover)
		},
	}
}

func (t *Trial) failover(ctx context.Context) error {
	kill := t.rng.IntN(2) == 0
	name := "a switch-over"
	if kill {
		name = "a failover"
	}
	t.Faults = name
	if !wait(ctx, time.Duration(t.rng.IntN(1000))*time.Millisecond) {
		return ctx.Err()
	}
	promoted := time.Duration(0)
	err := t.outage(ctx, name, 0, func() error {
		if !kill {
			return t.pair.Demote(ctx, t.database)
		}
		err := t.pair.Primary.Kill()
		wait(ctx, time.Duration(t.rng.IntN(2000))*time.Millisecond)
		return err
	}, func() error {
		if err := t.pair.Promote(ctx); err != nil {
			return err
		}
		promoted = t.clock.Now()
		t.world.Postgres = t.pair.Standby
		_ = t.conn.Close(ctx)
		var err error
		if t.conn, err = t.world.Connect(ctx, t.database); err != nil {
			return err
		}
		if err := t.until(ctx, "a push is stored by the new primary", func() (bool, error) { return t.load.Direct() > promoted, nil }); err != nil {
			return err
		}
		if took := t.load.Direct() - promoted; took > 5*time.Second {
			t.late("the first push was stored %v after the promotion", took)
		} else {
			t.remark("stored %v after the promotion", took.Round(10*time.Millisecond))
		}
		if !kill {
			return nil
		}
		wait(ctx, time.Duration(t.rng.IntN(1000))*time.Millisecond)
		return t.pair.ReadOnly(ctx) // now two answer, and one of them must not be asked
	})
	if err != nil {
		return err
	}
	return t.untouched(ctx)
}

// untouched looks that nothing is written to the old primary any more, for as long as it
// takes to store something in the new one.
func (t *Trial) untouched(ctx context.Context) error {
	old, err := pgx.Connect(ctx, t.pair.Primary.ConnString(t.database))
	if err != nil {
		return err
	}
	defer old.Close(ctx)
	count := func() (n int, err error) {
		err = old.QueryRow(ctx, `SELECT count(*) FROM queen.messages`).Scan(&n)
		return n, err
	}
	was, err := count()
	if err != nil {
		return err
	}
	if err := t.stored(ctx); err != nil {
		return err
	}
	wait(ctx, 500*time.Millisecond)
	is, err := count()
	if err == nil && is != was {
		t.broken("I2", "the old primary has %d messages and had %d", is, was)
	}
	return err
}

func row8() *Row {
	return &Row{
		ID: "8", Title: "PostgreSQL says no",
		What: "under load, each for 1.5 s: 53300 (all connections taken), 25006 (read-only by ALTER SYSTEM), 40P01 (heads locked in the opposite order), 40001, 55P03 and 53100 (raised by a trigger), the schema renamed away",
		Pass: "I1-I7, I10: success, at once or buffered, or 503; nothing lost, nothing doubled",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{}, t.refusals)
		},
	}
}

// refusals goes through all of them, in an order that is drawn.
func (t *Trial) refusals(ctx context.Context) error {
	kinds := []struct {
		name string
		do   func(context.Context) error
	}{
		{"53300", t.noConnections}, {"25006", t.readOnly}, {"40P01", t.deadlocks},
		{"40001", t.raise("40001")}, {"55P03", t.raise("55P03")}, {"53100", t.raise("53100")}, {"no schema", t.noSchema},
	}
	t.rng.Shuffle(len(kinds), func(i, j int) { kinds[i], kinds[j] = kinds[j], kinds[i] })
	var names []string
	for _, kind := range kinds {
		t.Say("%v: %s", t.clock.Now().Round(time.Millisecond), kind.name)
		if err := kind.do(ctx); err != nil {
			return fmt.Errorf("%s: %w", kind.name, err)
		}
		names = append(names, kind.name)
		if err := t.stored(ctx); err != nil {
			t.broken("I8", "after %s: %v", kind.name, err)
			return nil
		}
	}
	t.Kills = len(kinds)
	t.Faults = strings.Join(names, ",")
	for _, q := range t.queends {
		heard := map[string]int{}
		for _, state := range []string{"53300", "25006", "53100", "3F000", "42P01"} {
			heard[state] = q.Logged("SQLSTATE " + state)
		}
		t.remark("%s logged %v", q.Name, heard)
	}
	return nil
}

const refusalTime = 1500 * time.Millisecond

// noConnections takes all connections, those of queend too.
func (t *Trial) noConnections(ctx context.Context) error {
	var taken []*pgx.Conn
	defer func() {
		for _, c := range taken {
			_ = c.Close(ctx)
		}
	}()
	take := func() {
		for range world.ConnectionsMax {
			c, err := pgx.Connect(ctx, t.world.Postgres.ConnString("postgres"))
			if err != nil {
				return // that was the last one
			}
			taken = append(taken, c)
		}
	}
	take()
	for until := time.Now().Add(refusalTime); time.Now().Before(until); {
		// Each that queend loses is ours, if we are faster.
		_, err := t.conn.Exec(ctx, `SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`)
		if err != nil {
			return err
		}
		take()
		wait(ctx, 100*time.Millisecond)
	}
	var kept int
	if err := t.conn.QueryRow(ctx, `SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()`).Scan(&kept); err != nil {
		return err
	}
	t.remark("took %d connections and left %d to queend", len(taken), kept)
	return nil
}

func (t *Trial) readOnly(ctx context.Context) error {
	set := func(statement string) error {
		if _, err := t.conn.Exec(ctx, statement); err != nil {
			return err
		}
		_, err := t.conn.Exec(ctx, `SELECT pg_reload_conf()`)
		return err
	}
	if err := set(`ALTER SYSTEM SET default_transaction_read_only = on`); err != nil {
		return err
	}
	wait(ctx, refusalTime)
	return set(`ALTER SYSTEM RESET default_transaction_read_only`)
}

// deadlocks locks heads from the last to the first, while queend locks them from the first
// to the last.
func (t *Trial) deadlocks(ctx context.Context) error {
	conn, err := t.world.Connect(ctx, t.database)
	if err != nil {
		return err
	}
	defer conn.Close(ctx)
	rows, err := conn.Query(ctx, `SELECT partition_id FROM queen.partition_lookup WHERE queue_name = $1 ORDER BY partition_id DESC`, load.Work)
	if err != nil {
		return err
	}
	heads, err := pgx.CollectRows(rows, pgx.RowTo[[16]byte])
	if err != nil {
		return err
	}
	ours := 0
	for until := time.Now().Add(refusalTime); time.Now().Before(until); {
		err := pgx.BeginFunc(ctx, conn, func(tx pgx.Tx) error {
			for _, head := range heads {
				if _, err := tx.Exec(ctx, `SELECT 1 FROM queen.partition_lookup WHERE partition_id = $1 FOR UPDATE`, head); err != nil {
					return err
				}
				wait(ctx, 5*time.Millisecond)
			}
			return nil
		})
		if err != nil && !strings.Contains(err.Error(), "40P01") {
			return err
		}
		if err != nil {
			ours++
		}
	}
	// Ours are those in which PostgreSQL chose us to give up; queend lost the others.
	var all int
	if err := conn.QueryRow(ctx, `SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()`).Scan(&all); err != nil {
		return err
	}
	t.remark("deadlocks: at least %d, %d of them ended by us", max(all, ours), ours)
	return nil
}

// raise lets a trigger say no to half of all inserts.
func (t *Trial) raise(state string) func(context.Context) error {
	return func(ctx context.Context) error {
		// A trigger's arguments are no parameters; state is one of ours.
		_, err := t.conn.Exec(ctx, `CREATE TRIGGER chaos_says_no BEFORE INSERT ON queen.messages FOR EACH ROW EXECUTE FUNCTION chaos.say_no('`+state+`', '50')`)
		if err != nil {
			return err
		}
		wait(ctx, refusalTime)
		_, err = t.conn.Exec(ctx, `DROP TRIGGER chaos_says_no ON queen.messages`)
		return err
	}
}

func (t *Trial) noSchema(ctx context.Context) error {
	if _, err := t.conn.Exec(ctx, `ALTER SCHEMA queen RENAME TO queen_away`); err != nil {
		return err
	}
	wait(ctx, refusalTime)
	// queend may have made a new one meanwhile: that would be wrong, and is seen here.
	_, err := t.conn.Exec(ctx, `ALTER SCHEMA queen_away RENAME TO queen`)
	return err
}
