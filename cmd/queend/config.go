package main

import (
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"reflect"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/alecthomas/kong"
	"github.com/jackc/pgx/v5/pgconn"
)

// Config is every flag and environment name that queend reads; nothing else in
// the program looks at either. The names and defaults are Queen's where Queen has
// them; what is ours alone begins with QUEEND_.
type Config struct {
	Serve   ServeCommand   `cmd:"" default:"withargs" help:"Run the server (the default)."`
	Migrate MigrateCommand `cmd:"" help:"Bring the database's schema up to date, or show what would be done."`
	Check   CheckCommand   `cmd:"" help:"Look for contradictions in the database; change nothing."`
	Buffer  BufferCommand  `cmd:"" help:"Look at the file buffer, where pushes wait while PostgreSQL is away; change nothing."`
	Version VersionCommand `cmd:"" help:"Print the version and stop."`
}

// Database says where PostgreSQL is.
type Database struct {
	URL      string `name:"database-url" env:"DATABASE_URL" placeholder:"URL" help:"Connection string, as a URL or in key=value form, with the options of libpq (several hosts, target_session_attrs, sslmode, …); the few that cannot be honoured are refused. Wins over the PG_ settings."`
	Host     string `name:"pg-host" env:"PG_HOST" default:"localhost" help:"Host, or the directory of a unix socket."`
	Port     Int    `name:"pg-port" env:"PG_PORT" default:"5432" help:"Port."`
	Name     string `name:"pg-db" env:"PG_DATABASE,PG_DB" default:"postgres" help:"Database."`
	User     string `name:"pg-user" env:"PG_USER" default:"postgres" help:"Role."`
	Password string `name:"pg-password" env:"PG_PASSWORD" default:"postgres" help:"Password. Prefer the environment, or a systemd credential named pg-password: arguments are visible to other users of the machine."`
	UseSSL   Bool   `name:"pg-use-ssl" env:"PG_USE_SSL" default:"false" help:"Encrypt the connection (sslmode=require). For certificate checks give sslmode=verify-full in DATABASE_URL."`
	Reject   Bool   `name:"pg-ssl-reject-unauthorized" env:"PG_SSL_REJECT_UNAUTHORIZED" default:"true" help:"With PG_USE_SSL: false allows an unencrypted connection if the server has no TLS (sslmode=prefer)."`
	Connect  Millis `name:"db-connection-timeout" env:"DB_CONNECTION_TIMEOUT" default:"2000" help:"Time to connect, in ms. A server that was reached and is silent is waited for longer while there is no other connection; connect_timeout in DATABASE_URL bounds that too."`
}

// ServeCommand is `queend serve`, and plain `queend`.
type ServeCommand struct {
	Listener struct {
		Host        string `name:"host" env:"HOST" default:"0.0.0.0" help:"Address to listen on."`
		Port        Int    `name:"port" env:"PORT" default:"6632" help:"Port to listen on; 0 takes a free one and logs it."`
		Workers     Int    `name:"num-workers" env:"NUM_WORKERS" default:"10" help:"Event loops. More than there are cores means what serves best: one a core, or one for two cores where PostgreSQL is on the same machine."`
		WorkerID    string `name:"worker-id" env:"WORKER_ID" default:"queend-1" help:"Name of this process in logs and metrics."`
		HandOver    Bool   `name:"hand-over" env:"QUEEND_HAND_OVER" default:"false" help:"Share the port with a queend that is being replaced. Without it a second process on the port is refused."`
		Connections Int    `name:"connections-max" env:"QUEEND_CONNECTIONS_MAX" default:"20000" help:"Client connections at once; further ones hear 503."`
		Body        Int    `name:"body-bytes-max" env:"QUEEND_BODY_BYTES_MAX" default:"67108864" help:"Largest request body, in bytes; a larger one hears 413."`
		Header      Int    `name:"header-bytes-max" env:"QUEEND_HEADER_BYTES_MAX" default:"65536" help:"Largest header block of a request, in bytes; a larger one hears 431."`
		Idle        Millis `name:"idle-timeout" env:"QUEEND_IDLE_TIMEOUT_MS" default:"60000" help:"An idle connection is closed after this time, in ms."`
	} `embed:"" group:"Listener"`

	Database `embed:"" group:"PostgreSQL"`

	Statements struct {
		Failover   Millis `name:"db-failover" env:"DB_FAILOVER_MS" default:"2000" help:"The one deadline of a push, in ms, from its last byte to its answer. The statement, lock and in-flight time-outs of pushes stay below it."`
		Statement  Millis `name:"db-statement-timeout" env:"DB_STATEMENT_TIMEOUT" default:"30000" help:"Longest statement, in ms; pushes use less, see DB_FAILOVER_MS."`
		Lock       Millis `name:"db-lock-timeout" env:"DB_LOCK_TIMEOUT" default:"10000" help:"Longest wait for a lock, in ms; pushes use less, see DB_FAILOVER_MS."`
		Idle       Millis `name:"db-idle-timeout" env:"DB_IDLE_TIMEOUT" default:"30000" help:"Longest idle transaction, in ms."`
		TCPTimeout Millis `name:"db-tcp-user-timeout" env:"DB_TCP_USER_TIMEOUT_MS" default:"30000" help:"Unacknowledged data older than this ends a connection to PostgreSQL, in ms."`
		KeepIdle   Int    `name:"db-keepalives-idle" env:"DB_KEEPALIVES_IDLE" default:"60" help:"Seconds of silence before TCP keep-alive probes start."`
		KeepEvery  Int    `name:"db-keepalives-interval" env:"DB_KEEPALIVES_INTERVAL" default:"10" help:"Seconds between probes."`
		KeepCount  Int    `name:"db-keepalives-count" env:"DB_KEEPALIVES_COUNT" default:"3" help:"Probes without an answer that end the connection."`
		RowsMax    Int    `name:"push-batch-rows-max" env:"QUEEN_PUSH_MAX_BATCH_SIZE" default:"1000" help:"Most messages that pushes of several requests share in one statement."`
		Backlog    Int    `name:"backlog-bytes-max" env:"QUEEND_BACKLOG_BYTES_MAX" default:"67108864" help:"Bytes of pushes that wait for PostgreSQL in this process; further ones hear 503."`
		LegacyPool Int    `name:"legacy-pool-size" env:"QUEEND_LEGACY_POOL_SIZE" default:"32" help:"Goroutines, each with one connection, of the push-legacy route."`
		Key        string `name:"encryption-key" env:"QUEEN_ENCRYPTION_KEY" placeholder:"HEX" help:"Key of encrypted queues: 64 hexadecimal digits. Prefer the environment."`
	} `embed:"" group:"Statements"`

	Buffer BufferSettings `embed:"" group:"File buffer"`

	Maintenance MaintenanceSettings `embed:"" group:"Maintenance"`

	Pops struct {
		Timeout      Millis `name:"default-timeout" env:"DEFAULT_TIMEOUT" default:"30000" help:"How long a pop with wait=true waits that does not say, in ms."`
		Batch        Int    `name:"default-batch-size" env:"DEFAULT_BATCH_SIZE" default:"1" help:"Most messages of a pop that does not say."`
		Subscription string `name:"default-subscription-mode" env:"DEFAULT_SUBSCRIPTION_MODE" help:"Where a new consumer group begins that does not say: empty (or all) at the beginning, new (or new-only) with what is pushed from then on."`
		Parked       Int    `name:"parked-pops-max" env:"QUEEND_PARKED_POPS_MAX" default:"100000" help:"Pops that may wait for messages at once; further ones are answered at once, with success:false."`
	} `embed:"" group:"Pops"`

	Local struct {
		Postgres Bool   `name:"local-postgres" env:"QUEEND_LOCAL_POSTGRES" default:"false" help:"Start and stop a private PostgreSQL; the settings of where PostgreSQL is are then not used."`
		Dir      string `name:"data-dir" env:"QUEEND_DATA_DIR" placeholder:"DIR" help:"Where the private PostgreSQL keeps its data (default: $STATE_DIRECTORY, /var/lib/queend as root, else ~/.local/share/queend)."`
	} `embed:"" group:"Private PostgreSQL"`

	Logs struct {
		Level string `name:"log-level" env:"LOG_LEVEL" default:"info" help:"trace, debug, info, warn or error. At debug each push logs where its time went."`
		Dev   bool   `name:"dev" help:"The same as --log-level debug."`
		Form  string `name:"log-format" env:"QUEEND_LOG_FORMAT" default:"auto" help:"json, text, or auto: text on a terminal, else json."`
		Pprof string `name:"pprof" env:"QUEEND_PPROF" placeholder:"HOST:PORT" help:"Serve Go's profiles on this loopback address."`
	} `embed:"" group:"Logs"`
}

// BufferSettings say where pushes wait while PostgreSQL is away (package filebuffer).
type BufferSettings struct {
	Dir      string `name:"file-buffer-dir" env:"FILE_BUFFER_DIR" placeholder:"DIR" help:"Directory of the file buffer, for one process alone; what Queen's server has left there is delivered (default: buffers beside the private PostgreSQL's data, or in $STATE_DIRECTORY, /var/lib/queen/buffers as root, else ~/.local/share/queend/buffers)."`
	MaxBytes string `name:"file-buffer-max-bytes" env:"FILE_BUFFER_MAX_BYTES" placeholder:"BYTES" help:"Bytes that the file buffer may take; beyond it pushes hear 503 and what is buffered stays (default: 80 % of what the file system has free at the start). 0: no buffer, pushes hear 503 while PostgreSQL is away."`
	Segment  Int    `name:"file-buffer-segment-bytes" env:"QUEEND_FILE_BUFFER_SEGMENT_BYTES" default:"16777216" help:"Size of the buffer's files; each is deleted when all in it is delivered."`
}

// MaintenanceSettings say when what is done off the loops (package maintain).
type MaintenanceSettings struct {
	RetentionInterval Millis `name:"retention-interval" env:"RETENTION_INTERVAL" default:"300000" help:"Time from one round of retention, and of cleaning up, to the next, in ms; 0 switches them off."`
	RetentionRows     Int    `name:"retention-batch-size" env:"RETENTION_BATCH_SIZE" default:"1000" help:"Most rows that one transaction of retention deletes; a round goes on until nothing is left."`
	PartitionDays     Int    `name:"partition-cleanup-days" env:"PARTITION_CLEANUP_DAYS" default:"30" help:"An empty partition that nobody used for so many days is deleted; 0 keeps it."`
	MetricsDays       Int    `name:"metrics-retention-days" env:"METRICS_RETENTION_DAYS" default:"90" help:"Days for which messages_consumed and retention_history are kept; 0 keeps them for ever."`
	EvictionInterval  Millis `name:"eviction-interval" env:"EVICTION_INTERVAL" default:"60000" help:"Time from one round of eviction (maxWaitTimeSeconds) to the next, in ms; 0 switches it off. Pops do not wait for it: they skip such messages."`
	EvictionRows      Int    `name:"eviction-batch-size" env:"EVICTION_BATCH_SIZE" default:"1000" help:"Most messages that one transaction of eviction deletes; a round goes on until nothing is left."`
	ReconcileInterval Millis `name:"partition-lookup-reconcile-interval" env:"PARTITION_LOOKUP_RECONCILE_INTERVAL_MS" default:"5000" help:"Messages that were inserted by hand are found within this time, in ms; 0 switches it off."`
}

// CheckCommand is `queend check`.
type CheckCommand struct {
	JSON     Bool `name:"json" default:"false" help:"Print the whole report as one JSON object."`
	Limit    Int  `name:"findings-max" default:"1000" help:"Findings of each kind that are printed; all are counted."`
	Quiet    Bool `name:"quiet" default:"false" help:"No progress on stderr."`
	Database `embed:"" group:"PostgreSQL"`
}

// Help is the manual of check.
func (CheckCommand) Help() string { return checkManual }

// MigrateCommand is `queend migrate plan|apply|print`.
type MigrateCommand struct {
	Plan  MigratePlan  `cmd:"" help:"Say what apply would do to this database; change nothing."`
	Apply MigrateApply `cmd:"" help:"Do it. Safe while other queends run or migrate; can be interrupted and run again."`
	Print MigratePrint `cmd:"" help:"Print the SQL of every migration, for reading; apply runs it with locks and records of its own. Needs no database."`
}

// MigratePlan is `queend migrate plan`.
type MigratePlan struct {
	Database `embed:"" group:"PostgreSQL"`
}

// MigrateApply is `queend migrate apply`.
type MigrateApply struct {
	Database `embed:"" group:"PostgreSQL"`
}

// MigratePrint is `queend migrate print`.
type MigratePrint struct{}

// VersionCommand is `queend version`.
type VersionCommand struct{}

// Bool is a boolean by Queen's rule, with its trap closed. Queen takes the exact
// text "true" and reads everything else as false, "TRUE" and "1" included; here
// what plainly says no is false too, and what Queen would silently read as the
// opposite of its meaning is refused.
type Bool bool

// Decode implements kong.MapperValue.
func (b *Bool) Decode(ctx *kong.DecodeContext) error {
	if ctx.Scan.Peek().Type != kong.FlagValueToken && ctx.Value.Flag != nil && !ctx.Scan.Peek().IsValue() {
		*b = true
		return nil
	}
	text, err := text(ctx)
	if err != nil {
		return err
	}
	switch {
	case text == "true":
		*b = true
	case text == "":
		*b = false
	case slices.Contains([]string{"false", "0", "no", "off"}, strings.ToLower(text)):
		*b = false
	default:
		return fmt.Errorf("%q is neither true nor false (only the exact text true switches it on)", text)
	}
	return nil
}

// IsBool lets kong take the flag without a value.
func (Bool) IsBool() bool { return true }

// Int is a whole number that is zero or more. Empty means the default, so that a
// set but empty environment name behaves as an unset one.
type Int int

// Decode implements kong.MapperValue.
func (i *Int) Decode(ctx *kong.DecodeContext) error {
	n, err := number(ctx)
	*i = Int(n)
	return err
}

// Millis is a time in whole milliseconds.
type Millis time.Duration

// Decode implements kong.MapperValue.
func (m *Millis) Decode(ctx *kong.DecodeContext) error {
	n, err := number(ctx)
	*m = Millis(time.Duration(n) * time.Millisecond)
	return err
}

func number(ctx *kong.DecodeContext) (int, error) {
	text, err := text(ctx)
	if err != nil {
		return 0, err
	}
	if text == "" {
		text = ctx.Value.Default
	}
	n, err := strconv.ParseInt(text, 10, 48)
	if err != nil || n < 0 {
		return 0, fmt.Errorf("%q is not a whole number of zero or more", text)
	}
	return int(n), nil
}

// dropEmpty unsets the names that are set and empty, so that they mean their
// defaults. An empty password is a password.
func dropEmpty() {
	known := map[string]bool{}
	collectNames(reflect.TypeFor[Config](), known)
	for name := range known {
		if value, set := os.LookupEnv(name); set && value == "" && name != "PG_PASSWORD" {
			_ = os.Unsetenv(name)
		}
	}
}

func text(ctx *kong.DecodeContext) (string, error) {
	token, err := ctx.Scan.PopValue("value")
	if err != nil {
		return "", err
	}
	return fmt.Sprint(token.Value), nil
}

const description = `queend is a message queue server: the HTTP API of Queen MQ, messages in PostgreSQL.

Every setting is a flag and an environment name; a flag wins. Booleans are true only for the exact text "true".`

// parse reads arguments and environment. It ends the process for --help and for
// settings that make no sense, with a sentence.
func parse(args []string) (*Config, *kong.Context, error) {
	c := &Config{}
	parser, err := kong.New(c,
		kong.Name("queend"),
		kong.Description(description),
		kong.UsageOnError(),
		kong.ExplicitGroups(groups("Listener", "PostgreSQL", "Statements", "File buffer", "Maintenance", "Pops", "Private PostgreSQL", "Logs")),
		kong.ConfigureHelp(kong.HelpOptions{WrapUpperBound: 100}),
		kong.Help(manual),
	)
	if err != nil {
		return nil, nil, err
	}
	ctx, err := parser.Parse(args)
	if err != nil {
		return nil, nil, err
	}
	return c, ctx, nil
}

func groups(titles ...string) (all []kong.Group) {
	for _, title := range titles {
		all = append(all, kong.Group{Key: title, Title: title})
	}
	return all
}

// manual prints what was asked for; `queend --help` alone is the whole manual, with
// every setting of the server.
func manual(options kong.HelpOptions, ctx *kong.Context) error {
	if err := kong.DefaultHelpPrinter(options, ctx); err != nil || ctx.Selected() != nil {
		return err
	}
	serve, err := kong.Trace(ctx.Kong, []string{"serve"})
	if err != nil {
		return err
	}
	fmt.Fprint(ctx.Stdout, "\n\n")
	return kong.DefaultHelpPrinter(options, serve)
}

// Validate is called by kong; its sentence is what the user reads.
func (s *ServeCommand) Validate() error {
	if s.Listener.Port > 65535 {
		return fmt.Errorf("--port: %d is not a port (0 to 65535)", s.Listener.Port)
	}
	if s.Listener.Workers < 1 {
		return errors.New("--num-workers: at least one event loop is needed")
	}
	if s.Statements.Failover.Duration() < 100*time.Millisecond {
		return errors.New("--db-failover: less than 100 ms leaves no time for a commit")
	}
	if s.Statements.RowsMax < 1 || s.Statements.LegacyPool < 1 || s.Listener.Connections < 1 {
		return errors.New("--push-batch-rows-max, --legacy-pool-size and --connections-max: at least 1")
	}
	if s.Pops.Parked < 1 {
		return errors.New("--parked-pops-max: at least 1")
	}
	if s.Pops.Batch < 1 || s.Maintenance.RetentionRows < 1 || s.Maintenance.EvictionRows < 1 || s.Statements.Backlog < 1 {
		return errors.New("--default-batch-size, --retention-batch-size, --eviction-batch-size and --backlog-bytes-max: at least 1")
	}
	if n := s.Listener.Header; n < headerBytesLeast || n > headerBytesMost {
		return fmt.Errorf("--header-bytes-max: %d is not between %d and %d", n, headerBytesLeast, headerBytesMost)
	}
	if n := s.Listener.Body; n < bodyBytesLeast || n > bodyBytesMost {
		return fmt.Errorf("--body-bytes-max: %d is not between %d and %d", n, bodyBytesLeast, bodyBytesMost)
	}
	if s.Statements.Key != "" && !isKey(s.Statements.Key) {
		return errors.New("--encryption-key: 64 hexadecimal digits (32 bytes) are needed; make one with: openssl rand -hex 32")
	}
	if text := s.Buffer.MaxBytes; text != "" {
		if n, err := strconv.ParseInt(text, 10, 64); err != nil || n != 0 && n < bufferBytesLeast {
			return fmt.Errorf("--file-buffer-max-bytes: %q is neither 0 nor a whole number of at least %d", text, bufferBytesLeast)
		}
	}
	if n := s.Buffer.Segment; n < segmentBytesLeast || n > segmentBytesMost {
		return fmt.Errorf("--file-buffer-segment-bytes: %d is not between %d and %d", n, segmentBytesLeast, segmentBytesMost)
	}
	s.Logs.Level = strings.ToLower(s.Logs.Level)
	if s.Logs.Level == "warning" {
		s.Logs.Level = "warn"
	}
	if !slices.Contains([]string{"trace", "debug", "info", "warn", "error"}, s.Logs.Level) {
		return fmt.Errorf("--log-level: %q is none of trace, debug, info, warn, error", s.Logs.Level)
	}
	if !slices.Contains([]string{"auto", "json", "text"}, s.Logs.Form) {
		return fmt.Errorf("--log-format: %q is none of auto, json, text", s.Logs.Form)
	}
	if s.Logs.Pprof != "" {
		host, _, err := net.SplitHostPort(s.Logs.Pprof)
		if ip := net.ParseIP(host); err != nil || ip == nil || !ip.IsLoopback() {
			return fmt.Errorf("--pprof: %q is not a loopback address and port, such as 127.0.0.1:6060", s.Logs.Pprof)
		}
	}
	return nil
}

// What the limits on requests may be set to. A head must hold what ordinary clients
// send, and a body is kept in memory.
const (
	headerBytesLeast = 1 << 10
	headerBytesMost  = 1 << 20
	bodyBytesLeast   = 1 << 10
	bodyBytesMost    = 1 << 30
)

// What the file buffer may be set to.
const (
	bufferBytesLeast  = 64 << 10
	segmentBytesLeast = 4 << 10
	segmentBytesMost  = 1 << 30
)

// bufferBytesMax is the file buffer's bound; 0: by what is free.
func (s *ServeCommand) bufferBytesMax() int64 {
	n, _ := strconv.ParseInt(s.Buffer.MaxBytes, 10, 64) // Validate has seen it
	return n
}

// Duration is m as Go has it.
func (m Millis) Duration() time.Duration { return time.Duration(m) }

func isKey(text string) bool {
	if len(text) != 64 {
		return false
	}
	return strings.Trim(text, "0123456789abcdefABCDEF") == ""
}

// Loops is the number of event loops: what was asked for, or, where that is more than there
// are cores, what serves best.
func (s *ServeCommand) Loops() int {
	return loopCount(int(s.Listener.Workers), runtime.GOMAXPROCS(0), bool(s.Local.Postgres) || isHere(s.ConnString()))
}

// loopCount is how many loops there are if so many are asked for. A loop without a core only
// makes the batches smaller; and PostgreSQL, if it is here, needs as many cores as the loops.
func loopCount(asked, cores int, postgresHere bool) int {
	switch {
	case asked <= cores:
		return asked
	case postgresHere:
		return max(cores/2, 1)
	}
	return cores
}

// isHere says whether all hosts that a connection string names are this machine, as far as
// their names tell: directories of unix sockets, and loopback.
func isHere(connString string) bool {
	c, err := pgconn.ParseConfig(connString)
	if err != nil {
		return false // it is refused when it is used
	}
	isHost := func(host string) bool { return strings.HasPrefix(host, "/") || isLoopback(host) }
	here := isHost(c.Host)
	for _, f := range c.Fallbacks {
		here = here && isHost(f.Host)
	}
	return here
}

// isLoopback says whether a host's name is this machine's own.
func isLoopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// backlogPerLoop is each loop's share of what may wait for PostgreSQL: at least twice
// the largest request, so that one such request does not turn everybody else away.
func (s *ServeCommand) backlogPerLoop() int {
	return max(int(s.Statements.Backlog)/s.Loops(), 2*int(s.Listener.Body))
}

// Address is where to listen.
func (s *ServeCommand) Address() string {
	return net.JoinHostPort(s.Listener.Host, strconv.Itoa(int(s.Listener.Port)))
}

// DataDir is where the private PostgreSQL lives.
func (s *ServeCommand) DataDir() (string, error) {
	dir := s.Local.Dir
	if dir == "" {
		// systemd gives a colon-separated list.
		dir, _, _ = strings.Cut(os.Getenv("STATE_DIRECTORY"), ":")
	}
	if dir == "" && os.Geteuid() == 0 {
		dir = "/var/lib/queend"
	}
	if dir == "" {
		home, err := os.UserHomeDir()
		if err != nil {
			return "", fmt.Errorf("cannot tell where to keep PostgreSQL's data, give --data-dir: %w", err)
		}
		dir = filepath.Join(home, ".local", "share", "queend")
	}
	dir, err := filepath.Abs(dir)
	if err != nil {
		return "", fmt.Errorf("cannot resolve --data-dir %q: %w", dir, err)
	}
	return filepath.Join(dir, "postgres"), nil
}

// ConnString is the connection string for pgconn: DATABASE_URL as it is, or one
// made of the PG_ settings.
func (d *Database) ConnString() string {
	if d.URL != "" {
		return d.URL
	}
	mode := "disable"
	if d.UseSSL && d.Reject {
		mode = "require"
	} else if d.UseSSL {
		mode = "prefer"
	}
	quote := strings.NewReplacer(`\`, `\\`, `'`, `\'`)
	var b strings.Builder
	password := d.Password
	if secret, ok := credential("pg-password"); ok {
		password = secret
	}
	for _, part := range [][2]string{
		{"host", d.Host}, {"port", strconv.Itoa(int(d.Port))}, {"dbname", d.Name},
		{"user", d.User}, {"password", password}, {"sslmode", mode},
	} {
		fmt.Fprintf(&b, "%s='%s' ", part[0], quote.Replace(part[1]))
	}
	return strings.TrimSpace(b.String())
}

// credential reads a secret that systemd keeps for the service (systemd.exec(5),
// LoadCredential=).
func credential(name string) (string, bool) {
	dir := os.Getenv("CREDENTIALS_DIRECTORY")
	if dir == "" {
		return "", false
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	return strings.TrimRight(string(text), "\r\n"), err == nil
}

// Where names the database for logs: never with a password in it.
func (d *Database) Where() string {
	if d.URL == "" {
		return fmt.Sprintf("%s:%d/%s", d.Host, d.Port, d.Name)
	}
	u, err := url.Parse(d.URL)
	if err != nil || u.Host == "" {
		return "DATABASE_URL"
	}
	return u.Host + u.Path
}

// ignoredNames are the environment names of Queen that mean nothing here: what
// they tune does not exist, or not yet. They are accepted and logged once.
var ignoredNames = strings.Fields(`
	DB_POOL_SIZE SIDECAR_POOL_SIZE
	LIBQUEEN_INFLIGHT_DEADLINE_MS
	POP_WAIT_INITIAL_INTERVAL_MS POP_WAIT_BACKOFF_THRESHOLD POP_WAIT_BACKOFF_MULTIPLIER POP_WAIT_MAX_INTERVAL_MS
	SIDECAR_MICRO_BATCH_WAIT_MS QUEEN_CONCURRENCY_MODE
	FILE_BUFFER_FLUSH_MS FILE_BUFFER_MAX_BATCH FILE_BUFFER_EVENTS_PER_FILE
	PARTITION_LOOKUP_RECONCILE_LOOKBACK_SECONDS
	QUEEN_UDP_PEERS QUEEN_UDP_NOTIFY_PORT QUEEN_SYNC_ENABLED QUEEN_SYNC_SECRET QUEEN_CACHE_REFRESH_INTERVAL_MS
	QUEEN_SYNC_HEARTBEAT_MS QUEEN_SYNC_DEAD_THRESHOLD_MS QUEEN_SYNC_RECV_BUFFER_MB WEBAPP_ROOT
	SIDECAR_MAX_ITEMS_PER_TX SIDECAR_MAX_BATCH_SIZE SIDECAR_MAX_PENDING_COUNT QUEUE_BACKOFF_CLEANUP_THRESHOLD
	MAX_PARTITION_CANDIDATES PG_SCHEMA DB_QUERY_TIMEOUT DB_POOL_ACQUISITION_TIMEOUT MAX_TIMEOUT`)

// ignoredPrefixes are families of such names.
var ignoredPrefixes = []string{
	"QUEEN_VEGAS_", "QUEEN_PUSH_", "QUEEN_POP_", "QUEEN_ACK_", "QUEEN_TRANSACTION_", "QUEEN_RENEW_LEASE_", "QUEEN_CUSTOM_",
	"QUEEN_CACHE_PARTITION_", "BATCH_PUSH_", "POLL_", "QUEUE_POLL_", "DEFAULT_", "JWT_",
}

// ignored lists the set environment names that are Queen's and mean nothing
// here, and those that begin with QUEEND_ and are not known at all (a typo would
// otherwise stay unseen).
func ignored(environ []string) (queens, unknown []string) {
	known := map[string]bool{}
	collectNames(reflect.TypeFor[Config](), known)
	for _, pair := range environ {
		name, _, _ := strings.Cut(pair, "=")
		switch {
		case known[name]:
		case strings.HasPrefix(name, "QUEEND_") && !strings.HasPrefix(name, "QUEEND_TEST_") && name != "QUEEND_POSTGRES_BIN":
			unknown = append(unknown, name)
		case slices.Contains(ignoredNames, name) || slices.ContainsFunc(ignoredPrefixes, func(p string) bool { return strings.HasPrefix(name, p) }):
			queens = append(queens, name)
		}
	}
	slices.Sort(queens)
	slices.Sort(unknown)
	return queens, unknown
}

// collectNames gathers the env names of every field.
func collectNames(t reflect.Type, into map[string]bool) {
	if t.Kind() != reflect.Struct {
		return
	}
	for field := range fields(t) {
		for _, name := range strings.Split(field.Tag.Get("env"), ",") {
			into[name] = true
		}
		collectNames(field.Type, into)
	}
}

func fields(t reflect.Type) func(func(reflect.StructField) bool) {
	return func(yield func(reflect.StructField) bool) {
		for i := range t.NumField() {
			if !yield(t.Field(i)) {
				return
			}
		}
	}
}

// refused is a setting that would be dangerous to ignore: somebody who switched
// authentication on must not find the door open.
func refused(getenv func(string) string) error {
	switch value := getenv("JWT_ENABLED"); strings.ToLower(value) {
	case "", "false", "0", "no", "off":
	default: // also what Queen would read as false: it was not meant so
		return errors.New("JWT_ENABLED=" + value + ": this version cannot check tokens, and will not run unprotected where protection was asked for; put a proxy that checks them in front and unset JWT_ENABLED")
	}
	return nil
}
