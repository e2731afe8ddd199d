package asyncdb

import (
	"crypto/rand"
	"fmt"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/queue"
	"github.com/queend/queend/pkg/schema"
)

// Database is one PostgreSQL as all stores of a process see it: how to connect, what
// was said about it, and how it is. An outage is two lines in the log, however many
// loops notice it. Its methods are for any goroutine; the lock is taken when a
// connection comes or goes, never for an op.
type Database struct {
	config Config
	conn   *pgconn.Config

	manyHosts bool   // conn leads to more than one
	nonce     string // this process among all

	// statement gives the SQL of a name.
	statement func(name string) string

	// lateSettings: start-up parameters were refused once, settings are made after.
	lateSettings atomic.Bool

	// silentAt is when a lane last found its server hung, by the loops' clock.
	silentAt atomic.Int64

	dials   dials    // of all lanes
	turns   turns    // of push lanes
	primary primary  // the server that connections lead to
	onMoved []func() // who else is to know when it is another

	mu     sync.Mutex
	stores []*Store // of lanes, by their numbers
	lanes  []lane
	warned map[string]bool // warnings that were said, once in the life of the process
	said   map[string]bool // set-up errors that were said in this outage
	lockAt time.Time       // when the log last said that work waits for a lock
	since  time.Time       // the present state holds since then
	last   error           // the last error
	lastAt time.Time
	up     bool // every lane is connected
}

// lane is a store's connection in the eyes of the database.
type lane uint8

const (
	laneNew       lane = iota // not connected yet
	laneConnected             // and it works
	laneLost                  // or never there
	laneLeft                  // its store was closed
	laneAside                 // a helper's: nothing is missing without it
)

// Open checks the configuration. It does not connect: stores do.
func Open(c Config) (*Database, error) {
	c.complete()
	conn, err := c.connection()
	if err != nil {
		return nil, err
	}
	db := &Database{
		config: c, conn: conn, statement: schema.Statement, nonce: rand.Text(),
		warned: make(map[string]bool), said: make(map[string]bool), since: time.Now(),
	}
	for _, f := range conn.Fallbacks { // one without TLS leads to the same host
		db.manyHosts = db.manyHosts || f.Host != conn.Host || f.Port != conn.Port
	}
	return db, nil
}

// Connection returns the settings of a connection as stores make it, for those who
// connect to the same database in another way and must mean the same by it. The copy is
// the caller's; there may be a password in it.
func (db *Database) Connection() *pgconn.Config { return db.conn.Copy() }

// hung says that a lane's server did not answer in time; hungAt is when that was last so.
func (db *Database) hung(now time.Duration) { db.silentAt.Store(int64(now)) }
func (db *Database) hungAt() time.Duration  { return time.Duration(db.silentAt.Load()) }

// Health is how the database is.
type Health struct {
	Lanes       int       // stores that are open
	Connected   int       // of these: with a connection that works
	Since       time.Time // all are connected since then, or not all are since then
	LastError   string    // the last error of a connection; it may be over; "": none
	LastErrorAt time.Time
	SQLState    string // the last error's, "" if it did not come from PostgreSQL
}

// OK says that every store can reach PostgreSQL.
func (h Health) OK() bool { return h.Connected == h.Lanes }

// Health returns how the database is now.
func (db *Database) Health() Health {
	db.mu.Lock()
	defer db.mu.Unlock()
	h := Health{Since: db.since, LastErrorAt: db.lastAt}
	h.Lanes, h.Connected = db.count()
	if db.last != nil {
		h.LastError, h.SQLState = brief(db.last.Error()), sqlState(db.last)
	}
	return h
}

func (db *Database) count() (open, connected int) {
	for _, l := range db.lanes {
		if l != laneLeft && l != laneAside {
			open++
		}
		if l == laneConnected {
			connected++
		}
	}
	return open, connected
}

// isConnected says whether any lane has a connection that works.
func (db *Database) isConnected() bool {
	db.mu.Lock()
	defer db.mu.Unlock()
	_, connected := db.count()
	return connected > 0
}

// enlist gives a new store its number.
func (db *Database) enlist(s *Store) int {
	db.mu.Lock()
	defer db.mu.Unlock()
	l := laneNew
	if s.owner != nil {
		l = laneAside
	}
	db.lanes = append(db.lanes, l)
	db.stores = append(db.stores, s)
	return len(db.lanes) - 1
}

// reachable has the stores that wait for their next attempt to connect make it now: one of
// them has come through.
func (db *Database) reachable() {
	db.mu.Lock()
	defer db.mu.Unlock()
	for id, s := range db.stores {
		if db.lanes[id] == laneLost {
			s.sv.Post(s.dialSoonFn)
		}
	}
}

// leave is called when a store has ended.
func (db *Database) leave(id int) {
	db.mu.Lock()
	defer db.mu.Unlock()
	db.lanes[id], db.stores[id] = laneLeft, nil
}

// laneUp is called when a store has a connection that works.
func (db *Database) laneUp(id int, about string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.lanes[id] == laneAside {
		db.config.Log.Debug().Int("lane", id).Msg(about)
		return
	}
	first := db.lanes[id] == laneNew
	db.lanes[id] = laneConnected
	db.config.Log.Debug().Int("lane", id).Msg(about)
	open, connected := db.count()
	if connected < open {
		return
	}
	out := time.Since(db.since)
	said := db.last != nil && !db.up
	db.up, db.since = true, time.Now()
	switch {
	case said:
		clear(db.said)
		db.config.Log.Info().Stringer("after", out.Round(time.Millisecond)).Msg("PostgreSQL is back: " + about)
	case first:
		db.config.Log.Info().Int("lanes", open).Msg("connected: " + about)
	}
}

// laneDown is called when a store's connection is lost and when an attempt to make one
// fails.
func (db *Database) laneDown(id int, why error) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if db.lanes[id] == laneAside {
		db.config.Log.Debug().Int("lane", id).Str("error", brief(why.Error())).Msg("there is no connection by which large pushes are stored early")
		return
	}
	silent := db.last != nil && !db.up // this outage was said
	db.lanes[id] = laneLost
	db.last, db.lastAt = why, time.Now()
	wasUp := db.up
	if db.up {
		db.up, db.since = false, time.Now()
	}
	log := db.config.Log
	text := brief(why.Error())
	if advice := remedy(sqlState(why)); advice != "" && !db.said[sqlState(why)] {
		db.said[sqlState(why)] = true
		log.Error().Str("sqlstate", sqlState(why)).Str("error", text).Msg("PostgreSQL cannot be used as it is set up: " + advice)
		return
	}
	level, sentence := zerolog.WarnLevel, "the connection to PostgreSQL is lost"
	if !wasUp {
		sentence = "PostgreSQL cannot be reached"
	}
	if silent {
		level = zerolog.DebugLevel
	}
	log.WithLevel(level).Int("lane", id).Str("error", text).Msg(sentence)
}

// warnOnce says something once in the life of the process.
func (db *Database) warnOnce(what, sentence string) {
	db.mu.Lock()
	defer db.mu.Unlock()
	if !db.warned[what] {
		db.warned[what] = true
		db.config.Log.Warn().Msg(sentence)
	}
}

// lockEvery is how often the log says that work waits for somebody's lock.
const lockEvery = time.Minute

// warnOfLock says that work has waited for somebody's lock for as long as it may. A row that
// is busy has that now and then; a table that somebody has locked has it all the time, and
// then what the lane has hears 503 though PostgreSQL answers.
func (db *Database) warnOfLock(code string) {
	if code != lockNotAvailable && code != queryCanceled {
		return
	}
	db.mu.Lock()
	defer db.mu.Unlock()
	if now := time.Now(); db.lockAt.IsZero() || now.Sub(db.lockAt) >= lockEvery {
		db.lockAt = now
		db.config.Log.Warn().Str("sqlstate", code).Msg("work waits for a lock that another session has, or for a slow statement; it is tried again until its time is over, and then hears 503 (pg_locks and pg_stat_activity say who: a migration, VACUUM FULL, an open transaction)")
	}
}

// remedy is what to do about an error of set-up; "": it is no such error.
func remedy(code string) string {
	if queue.Classify(code) != queue.ClassSetup {
		return ""
	}
	switch code {
	case "28P01":
		return "the password is wrong; check PG_USER and PG_PASSWORD, or DATABASE_URL"
	case "3D000":
		return "the database does not exist; create it (createdb), or name another in PG_DB or DATABASE_URL"
	case "3F000", "42P01", "42P10", "42703", "42704", "42883":
		return "queend's tables are missing or old; run `queend migrate apply` on this database"
	case "42501":
		return "the role lacks a right on schema queen or its tables; grant it, or connect as their owner"
	}
	if strings.HasPrefix(code, "28") {
		return "the server does not let this role in from here; check its pg_hba.conf, and PG_USER and PG_USE_SSL"
	}
	return fmt.Sprintf("SQLSTATE %s; see PostgreSQL's manual, appendix \"PostgreSQL Error Codes\"", code)
}

// brief makes one line of an error, short enough for a log.
func brief(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	const bytesMax = 256
	if len(text) > bytesMax {
		text = strings.ToValidUTF8(text[:bytesMax], "") + "…"
	}
	return text
}
