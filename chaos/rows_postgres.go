package main

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"

	"github.com/queend/queend/chaos/load"
	"github.com/queend/queend/chaos/proxy"
	"github.com/queend/queend/chaos/world"
)

func row1() *Row {
	return &Row{
		ID: "1", Title: "PostgreSQL is killed",
		What: "kill -9 of the postmaster and all backends, started again after 1 to 5 s, twice; 20 long polls wait through both",
		Pass: "I1-I7, I8 (a request ends within 5 s, a push is stored within 2 s of the restart), I10; the long polls get their messages",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{}, func(ctx context.Context) error {
				return t.outages(ctx, 2, func() error {
					if err := t.world.Postgres.Kill(); err != nil {
						return err
					}
					wait(ctx, time.Duration(1000+t.rng.IntN(4000))*time.Millisecond)
					return t.world.Postgres.Restart(ctx)
				})
			})
		},
	}
}

func row2() *Row {
	return &Row{
		ID: "2", Title: "PostgreSQL is restarted",
		What: "a fast restart (SIGINT, then a start at once), three times; 20 long polls wait through all",
		Pass: "as row 1; 57P01 and 57P03 are nothing to a client but a 503",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{}, func(ctx context.Context) error {
				return t.outages(ctx, 3, func() error { return t.world.Postgres.Restart(ctx) })
			})
		},
	}
}

// outages makes some, with long polls that wait through them.
func (t *Trial) outages(ctx context.Context, n int, outage func() error) error {
	parked, err := t.park(ctx, 20)
	if err != nil {
		return err
	}
	defer parked.close()
	t.Faults = fmt.Sprintf("%d outages", n)
	for range n {
		if !wait(ctx, time.Duration(200+t.rng.IntN(1500))*time.Millisecond) {
			return ctx.Err()
		}
		if err := outage(); err != nil {
			return err
		}
	}
	if err := t.stored(ctx); err != nil {
		return err
	}
	parked.finish(ctx)
	return nil
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
		What: "SIGSTOP of all processes of PostgreSQL for 5 s, then SIGCONT: what was under way commits late",
		Pass: "I1-I7 after that, above all I2; I8 (5 s)",
		Run: func(ctx context.Context, t *Trial) error {
			return t.storm(ctx, Storm{}, func(ctx context.Context) error {
				t.Faults = "a stop of 5 s"
				wait(ctx, time.Duration(t.rng.IntN(1000))*time.Millisecond)
				if err := t.world.Postgres.Pause(); err != nil {
					return err
				}
				wait(ctx, 5*time.Second)
				return t.world.Postgres.Resume()
			})
		},
	}
}

func row8() *Row {
	return &Row{
		ID: "8", Title: "PostgreSQL says no",
		What: "under load, each for 1.5 s: 53300 (all connections taken), 25006 (read-only by ALTER SYSTEM), 40P01 (heads locked in the opposite order), 40001, 55P03 and 53100 (raised by a trigger), the schema renamed away",
		Pass: "I1-I7, I10: 503 or success, nothing lost, nothing doubled",
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
