package asyncdb

import (
	"crypto/tls"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"
)

// Config is what a Database is told once. The zero value of a field takes its
// default.
type Config struct {
	// ConnString is a libpq connection string, as keywords or as a URL (manual, chapter
	// "Connection Strings"): several hosts, target_session_attrs, sslmode and what belongs
	// to it, options, and so on; what it does not say comes from libpq's environment
	// variables. It is never logged.
	ConnString string

	// Conn is used in place of ConnString when it is not nil; it must come from
	// pgconn.ParseConfig. It is copied.
	Conn *pgconn.Config

	// FailoverTimeout is the one deadline of an op, from acceptance to answer. The
	// time-outs below that guard a step stay below it: a longer one is lowered, with a line
	// in the log.
	FailoverTimeout time.Duration // FailoverTimeoutDefault

	// StatementTimeout, LockTimeout and IdleInTransactionTimeout are PostgreSQL's settings
	// of the same names, so that the server itself ends what takes too long.
	StatementTimeout         time.Duration // three quarters of FailoverTimeout
	LockTimeout              time.Duration // a quarter
	IdleInTransactionTimeout time.Duration // three quarters

	// HungAfter is how long a step may stay unanswered. Then the server is hung or the way
	// to it is broken, and the connection is closed. A large request is given more time, of
	// this and of StatementTimeout (queue.Allowance).
	HungAfter time.Duration // seven eighths of FailoverTimeout

	// ConnectTimeout bounds an attempt to connect to one host, and once more what is set up
	// on the new connection. While no lane has a connection, a single server that was reached
	// and is silent is waited for longer (silentMax). It may be longer than FailoverTimeout:
	// ops do not wait for it. A connect_timeout in the connection string wins.
	ConnectTimeout time.Duration // ConnectTimeoutDefault

	// ProbeAfter is how long a lane may be silent, or up to a third less, before an empty
	// Sync asks whether the server is still there.
	ProbeAfter time.Duration // ProbeAfterDefault

	// KeepaliveIdle, KeepaliveInterval, KeepaliveCount and UserTimeout are TCP's own guards
	// (tcp(7)); keepalives_idle, keepalives_interval, keepalives_count and tcp_user_timeout
	// in the connection string win.
	KeepaliveIdle     time.Duration // KeepaliveIdleDefault
	KeepaliveInterval time.Duration // KeepaliveIntervalDefault
	KeepaliveCount    int           // KeepaliveCountDefault
	UserTimeout       time.Duration // UserTimeoutDefault

	keepaliveOff bool // keepalives=0 in the connection string
	impatient    bool // connect_timeout is there

	Limits

	// Log hears of starts, stops, outages and surprises; nothing per op. Any goroutine.
	Log zerolog.Logger
}

// Limits are the bounds of one store, that is of one loop.
type Limits struct {
	// BacklogBytesMax bounds the cost of all ops that were accepted and are not completed.
	// Beyond it an op is refused at once as Overloaded; a single op that is larger is taken
	// when nothing else is there.
	BacklogBytesMax int // BacklogBytesMaxDefault

	// BatchRowsMax and BatchBytesMax bound one batch; a single op that is larger goes alone.
	BatchRowsMax  int // BatchRowsMaxDefault
	BatchBytesMax int // BatchBytesMaxDefault
}

// Defaults of Config.
const (
	FailoverTimeoutDefault   = 2 * time.Second
	ConnectTimeoutDefault    = 2 * time.Second
	ProbeAfterDefault        = 3 * time.Second
	KeepaliveIdleDefault     = 60 * time.Second
	KeepaliveIntervalDefault = 10 * time.Second
	KeepaliveCountDefault    = 3
	UserTimeoutDefault       = 30 * time.Second
	BacklogBytesMaxDefault   = 32 << 20
	BatchRowsMaxDefault      = 1000
	BatchBytesMaxDefault     = 1 << 20
)

// complete fills in defaults and lowers what must stay below FailoverTimeout.
func (c *Config) complete() {
	f := or(c.FailoverTimeout, FailoverTimeoutDefault)
	c.FailoverTimeout = f
	c.StatementTimeout = c.below("statement time-out", c.StatementTimeout, f*3/4)
	c.LockTimeout = c.below("lock time-out", c.LockTimeout, f/4)
	c.IdleInTransactionTimeout = c.below("idle-in-transaction time-out", c.IdleInTransactionTimeout, f*3/4)
	c.HungAfter = c.below("in-flight deadline", c.HungAfter, f*7/8)
	c.ConnectTimeout = or(c.ConnectTimeout, ConnectTimeoutDefault)
	c.ProbeAfter = or(c.ProbeAfter, ProbeAfterDefault)
	c.KeepaliveIdle = or(c.KeepaliveIdle, KeepaliveIdleDefault)
	c.KeepaliveInterval = or(c.KeepaliveInterval, KeepaliveIntervalDefault)
	c.KeepaliveCount = or(c.KeepaliveCount, KeepaliveCountDefault)
	c.UserTimeout = or(c.UserTimeout, UserTimeoutDefault)
	c.BacklogBytesMax = or(c.BacklogBytesMax, BacklogBytesMaxDefault)
	c.BatchRowsMax = or(c.BatchRowsMax, BatchRowsMaxDefault)
	c.BatchBytesMax = or(c.BatchBytesMax, BatchBytesMaxDefault)
}

func or[T comparable](v, otherwise T) T {
	var zero T
	if v == zero {
		return otherwise
	}
	return v
}

func (c *Config) below(name string, v, standard time.Duration) time.Duration {
	if v > 0 && v < c.FailoverTimeout {
		return v
	}
	if v != 0 {
		c.Log.Info().Stringer("configured", v).Stringer("used", standard).Stringer("deadline", c.FailoverTimeout).
			Msgf("the %s must stay below the deadline of a push; a shorter one is used", name)
	}
	return standard
}

// connection makes the connection settings: the user's, and ours where his say
// nothing.
func (c *Config) connection() (*pgconn.Config, error) {
	conn := c.Conn
	if conn == nil {
		var err error
		if conn, err = pgconn.ParseConfig(c.ConnString); err != nil {
			return nil, fmt.Errorf("cannot read the connection settings: %w", err)
		}
	}
	conn = conn.Copy()
	if err := c.takeLibpq(conn); err != nil {
		return nil, err
	}
	if c.impatient = conn.ConnectTimeout != 0; !c.impatient {
		conn.ConnectTimeout = c.ConnectTimeout
	}
	conn.DialFunc = c.dialer().DialContext
	if conn.MaxProtocolMessageBodyLen <= 0 || conn.MaxProtocolMessageBodyLen > FrameBytesMaxDefault {
		conn.MaxProtocolMessageBodyLen = FrameBytesMaxDefault // pgconn makes room for what a header promises
	}
	if conn.ValidateConnect == nil && len(conn.Fallbacks) > 0 {
		// A push must write. Of several hosts the one that can is wanted, also when the
		// connection string did not ask for it.
		conn.ValidateConnect = validateWritable
	}
	p := conn.RuntimeParams
	parameter(p, "timezone", "UTC")
	parameter(p, "client_encoding", "UTF8")
	parameter(p, "default_transaction_isolation", "read committed")
	parameter(p, "statement_timeout", milliseconds(c.StatementTimeout))
	parameter(p, "lock_timeout", milliseconds(c.LockTimeout))
	parameter(p, "idle_in_transaction_session_timeout", milliseconds(c.IdleInTransactionTimeout))
	if p["application_name"] == "" {
		p["application_name"] = "queend"
	}
	return conn, nil
}

// takeLibpq takes the settings out of the run-time parameters that libpq keeps for
// itself (manual, chapter "Parameter Key Words") and that pgconn would pass on to the
// server, which does not know them. What guards the connection and cannot be done here
// is refused rather than ignored.
func (c *Config) takeLibpq(conn *pgconn.Config) error {
	take := func(name string) string {
		v := strings.TrimSpace(conn.RuntimeParams[name])
		delete(conn.RuntimeParams, name)
		return v
	}
	number := func(name string, unit time.Duration, set func(d time.Duration)) error {
		v := take(name)
		if v == "" {
			return nil
		}
		n, err := strconv.Atoi(v)
		if err != nil {
			return fmt.Errorf("cannot use the connection settings: %s is no whole number", name)
		}
		if n > 0 {
			set(time.Duration(n) * unit)
		}
		return nil
	}
	err := errors.Join(
		number("keepalives_idle", time.Second, func(d time.Duration) { c.KeepaliveIdle = d }),
		number("keepalives_interval", time.Second, func(d time.Duration) { c.KeepaliveInterval = d }),
		number("keepalives_count", 1, func(n time.Duration) { c.KeepaliveCount = int(n) }),
		number("tcp_user_timeout", time.Millisecond, func(d time.Duration) { c.UserTimeout = d }),
	)
	if err != nil {
		return err
	}
	c.keepaliveOff = take("keepalives") == "0"
	for _, name := range []string{"hostaddr", "sslcrl", "sslcrldir", "requirepeer", "ssl_max_protocol_version", "replication"} {
		if take(name) != "" {
			return fmt.Errorf("cannot use the connection settings: %s is not supported", name)
		}
	}
	if take("gssencmode") == "require" {
		return errors.New("cannot use the connection settings: gssencmode=require is not supported")
	}
	if v := take("ssl_min_protocol_version"); v != "" {
		version, ok := tlsVersions[v]
		if !ok {
			return fmt.Errorf("cannot use the connection settings: ssl_min_protocol_version %q is not known", v)
		}
		requireTLS(conn.TLSConfig, version)
		for _, f := range conn.Fallbacks {
			requireTLS(f.TLSConfig, version)
		}
	}
	if name := take("fallback_application_name"); name != "" && conn.RuntimeParams["application_name"] == "" {
		conn.RuntimeParams["application_name"] = name
	}
	for _, name := range []string{"gsslib", "gssdelegation", "sslcompression", "sslkeylogfile", "load_balance_hosts"} {
		if take(name) != "" {
			c.Log.Info().Msgf("the connection setting %s has no effect here", name)
		}
	}
	return nil
}

var tlsVersions = map[string]uint16{
	"TLSv1": tls.VersionTLS10, "TLSv1.1": tls.VersionTLS11, "TLSv1.2": tls.VersionTLS12, "TLSv1.3": tls.VersionTLS13,
}

func requireTLS(c *tls.Config, version uint16) {
	if c != nil {
		c.MinVersion = version
	}
}

// parameter sets a run-time parameter over whatever spelling of it the user gave:
// PostgreSQL's names ignore case.
func parameter(params map[string]string, name, value string) {
	for given := range params {
		if strings.EqualFold(given, name) {
			delete(params, given)
		}
	}
	params[name] = value
}

func milliseconds(d time.Duration) string {
	return strconv.FormatInt(max(d.Milliseconds(), 1), 10)
}
