package asyncdb

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"golang.org/x/sys/unix"
)

// link is a connection that was dialed and set up, before its loop has it.
type link struct {
	nc       net.Conn  // a socket that a loop can poll: TCP, or one end of a Unix pair
	about    string    // for the log: where it leads
	inline   bool      // statements cannot be prepared here
	lax      bool      // sessions do not wait for their commits to reach the disk
	instance *instance // the server that it leads to
}

// dial begins an attempt to connect. It runs on the loop.
func (s *Store) dial(now time.Duration) {
	s.dialing, s.dialAt = true, now
	s.attempts++
	s.db.dials.begin(now)
	ctx, cancel := context.WithCancel(context.Background())
	s.stopDial = cancel
	s.dialFn(ctx)
}

// connectAndAttach connects on a goroutine of its own, since looking up names, TLS and
// passwords may block, and hands the connection to the loop.
func (s *Store) connectAndAttach(ctx context.Context) {
	s.helpers.Add(1)
	go func() {
		defer s.helpers.Done()
		l, err := s.connect(ctx)
		if err != nil {
			s.sv.Post(func() { s.dialFailed(err) })
			return
		}
		c := &conn{store: s, link: l, cut: cutter{bytesMax: s.work.FrameBytesMax}}
		s.sv.Attach(l.nc, c.opened, c.data, c.closedBy)
	}()
}

// connect makes a connection that is ready for a lane.
func (s *Store) connect(ctx context.Context) (l link, err error) {
	pc, late, err := s.db.start(ctx)
	if err != nil {
		return link{}, err
	}
	s.db.dials.answered()
	ctx, cancel := context.WithTimeout(ctx, s.db.conn.ConnectTimeout)
	defer cancel()
	l, err = s.equip(ctx, pc.PgConn, late)
	if err != nil {
		closeNow(pc.PgConn)
	}
	return l, err
}

// equip sets up a new connection and takes it out of pgconn's hands.
func (s *Store) equip(ctx context.Context, pc *pgconn.PgConn, late map[string]string) (l link, err error) {
	if l.lax, l.instance, err = s.db.setUp(ctx, pc, late); err != nil {
		return link{}, err
	}
	if l.inline, err = s.db.prepare(ctx, pc, s.work.Prepare); err != nil {
		return link{}, err
	}
	if err := pc.SyncConn(ctx); err != nil {
		return link{}, fmt.Errorf("cannot settle the new connection: %w", err)
	}
	if pc.ParameterStatus("default_transaction_read_only") == "on" || pc.ParameterStatus("in_hot_standby") == "on" {
		return link{}, errReadOnly // it has said so since it was asked
	}
	l.about = about(pc)
	h, err := pc.Hijack()
	if err != nil {
		return link{}, fmt.Errorf("cannot take over the new connection: %w", err)
	}
	l.nc = h.Conn
	if secure, ok := h.Conn.(*tls.Conn); ok {
		if l.nc, err = s.relay(secure); err != nil {
			return link{}, fmt.Errorf("cannot make a socket pair: %w", err)
		}
	}
	return l, nil
}

// pgConn is a connection of pgconn and the settings that it was made with.
type pgConn struct {
	*pgconn.PgConn
	config *pgconn.Config
}

// start connects and authenticates. late are the settings that were not given at
// start-up and must be made now: PgBouncer refuses start-up parameters that it does not
// know, so with those refused once they are made later, on this and every further
// connection.
func (db *Database) start(ctx context.Context) (pc pgConn, late map[string]string, err error) {
	for {
		pc.config = db.conn.Copy()
		db.bePatient(pc.config)
		asked := db.lateSettings.Load()
		if asked {
			late = splitSettings(pc.config.RuntimeParams)
		}
		pc.PgConn, err = connectConfig(ctx, pc.config)
		if err == nil {
			return pc, late, nil
		}
		if asked || sqlState(err) != protocolViolation {
			return pgConn{}, nil, fmt.Errorf("cannot connect to PostgreSQL: %w", err)
		}
		db.lateSettings.Store(true)
	}
}

// isSilence says whether an attempt has failed because nobody answered.
func isSilence(why error) bool {
	return pgconn.Timeout(why) || errors.Is(why, context.DeadlineExceeded) || errors.Is(why, context.Canceled)
}

// bePatient has an attempt wait longer for a server than for the way to it, and tells the
// others that it has reached one: while no lane has a connection, since then it is the server
// that hangs and not what is in between; where there is one host with one address, or the
// next may be better; and unless connect_timeout was said, which means all of it.
func (db *Database) bePatient(c *pgconn.Config) {
	if db.manyHosts || db.config.impatient || db.isConnected() {
		return
	}
	dial, lookUp, timeout := c.DialFunc, c.LookupFunc, c.ConnectTimeout
	c.ConnectTimeout = max(timeout, silentMax)
	if strings.HasPrefix(c.Host, "/") {
		c.ConnectTimeout = max(timeout, silentUnixMax)
	}
	c.LookupFunc = func(ctx context.Context, host string) ([]string, error) {
		all, err := lookUp(ctx, host)
		if len(all) > 1 && !areLoopback(all) {
			c.ConnectTimeout = timeout // of each; it is looked at after this
		}
		return all, err
	}
	c.DialFunc = func(ctx context.Context, network, address string) (net.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, timeout)
		defer cancel()
		nc, err := dial(ctx, network, address)
		if err == nil && c.ConnectTimeout > timeout {
			db.dials.reach()
		}
		return nc, err
	}
}

// areLoopback says whether addresses are this machine's own, as localhost's two are.
func areLoopback(all []string) bool {
	for _, address := range all {
		if host, _, err := net.SplitHostPort(address); err == nil {
			address = host
		}
		if ip := net.ParseIP(address); ip == nil || !ip.IsLoopback() {
			return false
		}
	}
	return true
}

// connectConfig is pgconn.ConnectConfig without its panics: target_session_attrs is
// checked by indexing what the server sends, and a stranger on the port must not end
// the process.
func connectConfig(ctx context.Context, config *pgconn.Config) (pc *pgconn.PgConn, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("cannot make sense of what the server sent: %v", p)
		}
	}()
	return pgconn.ConnectConfig(ctx, config)
}

// poolerSettings are the start-up parameters that PgBouncer takes.
var poolerSettings = []string{"client_encoding", "timezone", "datestyle", "standard_conforming_strings", "application_name", "options"}

// splitSettings moves all others out of params.
func splitSettings(params map[string]string) (late map[string]string) {
	late = make(map[string]string)
next:
	for name, value := range params {
		for _, known := range poolerSettings {
			if strings.EqualFold(name, known) {
				continue next
			}
		}
		late[name] = value
		delete(params, name)
	}
	return late
}

// durable makes a transaction wait until its commit has reached the disk, because a 2xx
// means durable. It is put before the statements of each step where that is not the
// default: for the one transaction, since behind a pooler the session of the next one
// may be another.
const durable = `SELECT set_config('synchronous_commit', 'on', true)`

// patient gives one transaction more time ($1, in ms), for the same reason.
const patient = `SELECT set_config('statement_timeout', $1, true)`

// stay keeps a session as durable as it began, whatever is written into the server's
// configuration afterwards: a reload to off would be seen by nobody.
const stay = `SELECT set_config('synchronous_commit', current_setting('synchronous_commit'), false) WHERE current_setting('synchronous_commit') <> 'off'`

// What is asked for on each new connection. Noticing a client that is gone while a
// statement runs (PostgreSQL 14) frees the locks of a step that we gave up.
const (
	watch = `SELECT set_config('client_connection_check_interval', '500ms', false) WHERE current_setting('client_connection_check_interval', true) IS NOT NULL`
	check = `SELECT current_setting('transaction_read_only'), current_setting('server_encoding'), current_setting('fsync'), current_setting('synchronous_commit'), extract(epoch FROM pg_postmaster_start_time())::text`
)

// errReadOnly is the server that cannot be written to: a standby, or one that is set
// read-only.
var errReadOnly = &readOnlyError{}

type readOnlyError struct{}

func (*readOnlyError) Error() string    { return "the server is read-only" }
func (*readOnlyError) SQLState() string { return readOnly }

// setUp makes and checks the settings of a new connection, in one round trip. lax: its
// transactions need durable. at is the server that it leads to.
func (db *Database) setUp(ctx context.Context, pc *pgconn.PgConn, late map[string]string) (lax bool, at *instance, err error) {
	if encoding := pc.ParameterStatus("client_encoding"); encoding != "UTF8" {
		return false, nil, fmt.Errorf("the server does not speak UTF-8 with us but %q", encoding)
	}
	p := pc.StartPipeline(ctx)
	for name, value := range late {
		p.SendQueryParams(`SELECT set_config($1, $2, false)`, [][]byte{[]byte(name), []byte(value)}, nil, nil, nil)
	}
	p.SendQueryParams(watch, nil, nil, nil, nil)
	p.SendQueryParams(stay, nil, nil, nil, nil)
	p.SendQueryParams(check, nil, nil, nil, nil)
	rows, err := results(p)
	if err != nil {
		return false, nil, fmt.Errorf("cannot set up the new connection: %w", err)
	}
	last := len(late) + 2
	if len(rows) != last+1 || len(rows[last]) != 1 || len(rows[last][0]) != 5 {
		return false, nil, errors.New("cannot set up the new connection: the server answered something else")
	}
	state := rows[last][0]
	if string(state[0]) == "on" {
		return false, nil, errReadOnly
	}
	if encoding := string(state[1]); encoding != "UTF8" {
		db.warnOnce("server_encoding", "the database's encoding is "+encoding+" and not UTF8; messages with characters outside it will be refused")
	}
	if string(state[2]) == "off" {
		db.warnOnce("fsync", "fsync is off on the server: what is answered as stored does not survive a crash of its machine")
	}
	if lax = string(state[3]) == "off"; lax {
		db.warnOnce("synchronous_commit", "synchronous_commit is off on the server; it is switched on for each push, because an answered push must be durable")
	}
	return lax, &instance{id: string(state[4]), seen: time.Now()}, nil
}

// results reads all results of a pipeline with one Sync, which it sends.
func results(p *pgconn.Pipeline) (rows [][][][]byte, err error) {
	if err := p.Sync(); err != nil {
		return nil, err
	}
	for {
		r, e := p.GetResults()
		switch r := r.(type) {
		case *pgconn.ResultReader:
			read := r.Read()
			if e = read.Err; e == nil {
				rows = append(rows, read.Rows)
			}
		case nil:
			if e == nil {
				return rows, errors.Join(err, p.Close())
			}
		}
		if e != nil && err == nil {
			err = e
			var refused *pgconn.PgError
			if !errors.As(e, &refused) { // the connection, not a statement
				p.Close()
				return nil, err
			}
		}
	}
}

// prepare makes the statements known to a new connection, in one round trip. inline:
// the other end is a pooler that hands server connections around, on which somebody
// else has prepared them already.
func (db *Database) prepare(ctx context.Context, pc *pgconn.PgConn, names []string) (inline bool, err error) {
	p := pc.StartPipeline(ctx)
	for _, name := range names {
		p.SendPrepare(name, db.statement(name), nil)
	}
	_, err = results(p)
	if sqlState(err) == duplicatePrepared {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("cannot prepare queend's statements: %w", err)
	}
	return false, nil
}

// validateWritable chooses among several hosts the one that can be written to.
func validateWritable(ctx context.Context, pc *pgconn.PgConn) error {
	r := pc.ExecParams(ctx, check, nil, nil, nil, nil).Read()
	if r.Err != nil {
		return r.Err
	}
	if len(r.Rows) != 1 || len(r.Rows[0]) == 0 || string(r.Rows[0][0]) != "off" {
		return errReadOnly
	}
	return nil
}

// dialer makes TCP connections that notice a peer that is gone without a word.
func (c *Config) dialer() *net.Dialer {
	d := &net.Dialer{
		KeepAliveConfig: net.KeepAliveConfig{
			Enable: true,
			Idle:   c.KeepaliveIdle, Interval: c.KeepaliveInterval, Count: c.KeepaliveCount,
		},
		Control: func(network, _ string, raw syscall.RawConn) error {
			if !strings.HasPrefix(network, "tcp") {
				return nil
			}
			var err error
			if e := raw.Control(func(fd uintptr) {
				err = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(c.UserTimeout.Milliseconds()))
			}); e != nil {
				return e
			}
			return err
		},
	}
	if c.keepaliveOff {
		d.KeepAliveConfig, d.KeepAlive = net.KeepAliveConfig{}, -1 // zero would be Go's default
	}
	return d
}

// about says where a connection leads.
func about(pc *pgconn.PgConn) string {
	return fmt.Sprintf("PostgreSQL %s at %s, process %d", pc.ParameterStatus("server_version"), pc.Conn().RemoteAddr(), pc.PID())
}

// closeNow closes a connection that was not good, without waiting for the server.
func closeNow(pc *pgconn.PgConn) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	pc.Close(ctx)
}

// sqlState returns the SQLSTATE that an error carries, "" if none.
func sqlState(err error) string {
	var carrier interface{ SQLState() string }
	if errors.As(err, &carrier) {
		return carrier.SQLState()
	}
	return ""
}
