package main

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/http/pprof"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/rs/zerolog"

	"github.com/queend/queend/pkg/admindb"
	"github.com/queend/queend/pkg/api"
	"github.com/queend/queend/pkg/asyncdb"
	"github.com/queend/queend/pkg/filebuffer"
	"github.com/queend/queend/pkg/httpparse"
	"github.com/queend/queend/pkg/longpoll"
	"github.com/queend/queend/pkg/loop"
	"github.com/queend/queend/pkg/maintain"
	"github.com/queend/queend/pkg/metrics"
	"github.com/queend/queend/pkg/pooldb"
	"github.com/queend/queend/pkg/postgres"
	"github.com/queend/queend/pkg/queue"
	"github.com/queend/queend/pkg/schema"
)

// DrainTimeout is how long a stop waits for the answers that clients wait for, and for what
// PostgreSQL has begun.
const DrainTimeout = 8 * time.Second

// localDatabase is the database in the private PostgreSQL.
const localDatabase = "queend"

// server is everything that runs. Its parts are made by start in the order of the
// fields, and ended by stop in reverse.
type server struct {
	config  *ServeCommand
	log     zerolog.Logger
	sealer  *queue.Sealer    // nil: no key was given
	local   *postgres.Server // nil without --local-postgres
	loops   *loop.Server
	buffer  *filebuffer.Buffer // nil: there is none
	routers []*api.Router      // one per loop
	late    []*lateLanes       // one per loop
	set     *metrics.Set
	told    sync.Once // systemd, that the start is complete

	pushesStopped, popsStopped atomic.Bool // the maintenance flags as they were said last

	database   atomic.Pointer[asyncdb.Database] // nil until the schema is known
	pool       atomic.Pointer[pooldb.Pool]
	maintainer atomic.Pointer[maintain.Maintainer]
	admin      atomic.Pointer[admindb.Pool]
	trimmer    *trimmer
	board      *longpoll.Board
	lanes      []*lanes // one each per loop, once there is a database
	polls      []*longpoll.Store
	legacy     []queue.Store // the way into the pool, one per loop
	ids        []*queue.IDs  // likewise
}

// serve runs the server until ctx ends.
func serve(ctx context.Context, c *ServeCommand) error {
	if err := refused(os.Getenv); err != nil {
		return err
	}
	s := &server{config: c, log: newLog(c)}
	s.greet()
	err := s.start(ctx)
	if err == nil {
		<-ctx.Done()
	}
	s.log.Info().Msg("stopping: answering what is in flight")
	s.stop()
	if errors.Is(err, errStopped) {
		return nil
	}
	return err
}

// greet says what runs and what was set in vain.
func (s *server) greet() {
	c := s.config
	asked, loops := int(c.Listener.Workers), c.Loops()
	s.log.Info().Str("version", versionText()).Str("worker", c.Listener.WorkerID).Int("loops", loops).Int("pid", os.Getpid()).Msg("queend starts")
	switch {
	case loops < asked && loops < runtime.GOMAXPROCS(0):
		s.log.Info().Int("asked", asked).Int("loops", loops).Msg("fewer loops than NUM_WORKERS: PostgreSQL is on this machine and shares its cores; NUM_WORKERS of no more than the cores is taken as it is")
	case loops < asked:
		s.log.Info().Int("asked", asked).Int("loops", loops).Msg("fewer loops than NUM_WORKERS: more than one a core would only make the batches smaller")
	}
	queens, unknown := ignored(os.Environ())
	if len(queens) > 0 {
		s.log.Info().Strs("names", queens).Msg("these settings mean nothing here and are ignored")
	}
	if len(unknown) > 0 {
		s.log.Warn().Strs("names", unknown).Msg("no setting has these names; see queend --help")
	}
	if mode := c.Pops.Subscription; !slices.Contains([]string{"", "all", "new", "new-only"}, mode) {
		s.log.Warn().Str("mode", mode).Msg("DEFAULT_SUBSCRIPTION_MODE is neither new nor all: new consumer groups begin with all that is there")
	}
	if !isLoopback(c.Listener.Host) {
		s.log.Warn().Str("host", c.Listener.Host).Msg("anyone who reaches this address may push: there is no authentication; listen on 127.0.0.1 or put a proxy in front")
	}
}

func (s *server) start(ctx context.Context) error {
	if err := s.readKey(); err != nil {
		return err
	}
	if err := s.startLocal(ctx); err != nil {
		return err
	}
	if err := s.startLoops(); err != nil {
		return err
	}
	if err := s.startProfiles(ctx); err != nil {
		return err
	}
	go s.trimmer.run(ctx)
	starting, started := context.WithCancel(ctx)
	defer started()
	go s.patience(starting)
	db, err := s.openDatabase()
	if err != nil {
		return err
	}
	jsonb, err := s.migrate(ctx, db.Connection())
	if err != nil {
		return err
	}
	if err := s.open(ctx, db, jsonb); err != nil {
		return err
	}
	if err := s.startMaintenance(db.Connection(), func(name string, partition [16]byte) { s.board.Moved(name, partition) }); err != nil {
		return err
	}
	if err := s.connected(ctx); err != nil {
		return err
	}
	started()
	s.ready(ctx)
	return nil
}

// readKey makes the sealer of QUEEN_ENCRYPTION_KEY.
func (s *server) readKey() (err error) {
	if key := s.config.Statements.Key; key != "" {
		s.sealer, err = queue.NewSealer(key)
	}
	return err
}

// bufferedStart is how long a start waits for PostgreSQL before it is complete without it,
// if there is a file buffer.
const bufferedStart = 400 * time.Millisecond

// patience tells systemd how a start goes that takes long: it is complete when pushes are
// written to disk meanwhile, and else needs more time (sd_notify(3)).
func (s *server) patience(ctx context.Context) {
	wait := bufferedStart
	for {
		select {
		case <-ctx.Done():
			return
		case <-time.After(wait):
		}
		if s.buffer != nil && s.buffer.Usable() {
			s.log.Warn().Stringer("address", s.loops.Addr()).Msg("listening without PostgreSQL: pushes are written to disk, and stored when it answers")
			s.tell(ctx)
			return
		}
		extend()
		wait = extension / 3
	}
}

// extension is how much more time systemd is asked for at once.
const extension = 30 * time.Second

func extend() {
	_, _ = daemon.SdNotify(false, fmt.Sprintf("EXTEND_TIMEOUT_USEC=%d", extension.Microseconds()))
}

// startLocal starts the private PostgreSQL, if one is asked for.
func (s *server) startLocal(ctx context.Context) error {
	if !s.config.Local.Postgres {
		return nil
	}
	dir, err := s.config.DataDir()
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(dir), 0o755); err != nil {
		return fmt.Errorf("cannot make the data directory: %w", err)
	}
	s.log.Info().Str("dir", dir).Msg("starting a private PostgreSQL")
	s.local, err = postgres.Start(ctx, postgres.Options{Dir: dir, Log: func(sentence string) { s.log.Info().Msg("PostgreSQL: " + sentence) }})
	if err != nil {
		return err
	}
	return s.local.CreateDatabase(ctx, localDatabase)
}

// startLoops binds the port, takes the file buffer and starts the loops with a router
// each. The port comes first: while Queen's server has it, its buffer's files are not ours
// to take. Clients that come meanwhile wait in the kernel's queue. When it returns requests
// are answered: until PostgreSQL's tables are known pushes are written to disk.
func (s *server) startLoops() error {
	c := s.config
	limits := httpparse.DefaultLimits()
	limits.HeaderBytesMax = int(c.Listener.Header)
	limits.BodyBytesMax = int64(c.Listener.Body)
	var err error
	s.loops, err = loop.New(loop.Options{
		Handler: func(x *loop.Exchange) { s.routers[x.Loop().Index()].Serve(x) },
		Loops:   c.Loops(), Header: api.CommonHeader, Limits: limits, Log: s.log,
		HandOver: bool(c.Listener.HandOver), ConnsMax: int(c.Listener.Connections), IdleTimeout: c.Listener.Idle.Duration(),
	})
	if err != nil {
		return err
	}
	if err := s.loops.Listen(c.Address()); err != nil {
		return err
	}
	if err := s.openBuffer(); err != nil {
		return err
	}
	s.board = newBoard(s.config)
	// Whether payloads are jsonb is not known yet: what one could not hold is refused.
	strict := &queue.Config{PayloadJSONB: true, Sealer: s.sealer}
	for i, l := range s.loops.Loops() {
		s.routers = append(s.routers, api.NewRouter(s.services(l)))
		late := newLateLanes()
		poll := s.longPoll(l, late)
		s.late, s.polls = append(s.late, late), append(s.polls, poll)
		s.legacy, s.ids = append(s.legacy, s.buffered(l, &late.legacy)), append(s.ids, newIDs())
		stores := s.stores(i, strict)
		l.Post(func() { s.routers[i].Open(stores) })
	}
	s.trimmer = newTrimmer(s.forget)
	s.set = metrics.NewSet()
	s.set.Gauge("queend_build_info", "Always 1; which queend this is.", func() float64 { return 1 }, "version", versionText(), "worker", c.Listener.WorkerID)
	api.Export(s.set, s.routers)
	exportLoops(s.set, s.loops)
	exportDatabase(s.set, &s.database, func() []*lanes { return s.lanes })
	exportLongPoll(s.set, s.board)
	exportBuffer(s.set, s.buffer)
	exportAdmin(s.set, &s.admin)
	exportMaintenance(s.set, &s.maintainer)
	s.set.Counter("queend_memory_trims_total", "Times that memory was given back to the system after a burst.", func() float64 { return float64(s.trimmer.n.Load()) })
	s.set.Seal()
	if err := s.loops.Start(); err != nil {
		return err
	}
	s.log.Info().Stringer("address", s.loops.Addr()).Msg("listening")
	return nil
}

// services is what the router of one loop is given.
func (s *server) services(l *loop.Loop) api.Services {
	services := api.Services{
		Now: l.Now,
		Offload: func(work func() []byte, then func([]byte)) {
			go func() {
				result := work()
				l.Post(func() { then(result) })
			}()
		},
		Deadline: s.config.Statements.Failover.Duration(),
		Pop: api.PopDefaults{
			Timeout: max(s.config.Pops.Timeout.Duration(), time.Nanosecond), // 0 would be the default
			Batch:   int(s.config.Pops.Batch), Subscription: s.config.Pops.Subscription,
		},
		Database: s.databaseUp, Buffered: s.bufferUsable,
		Maintenance:    func() (push, pop bool) { return s.board.Flags() },
		SetMaintenance: func(push, pop *bool) { s.board.SetFlags(push, pop) },
		Buffer:         s.bufferStatus,
		Metrics: func() ([]byte, error) {
			text, err := s.set.Exposition()
			if err != nil {
				s.log.Error().Err(err).Msg("cannot expose metrics")
			}
			return text, err
		},
		Version:  versionText(),
		WorkerID: l.Index(),
	}
	if s.log.GetLevel() <= zerolog.DebugLevel {
		services.Timing = s.logTiming
	}
	return services
}

// databaseUp says whether every lane can reach PostgreSQL.
func (s *server) databaseUp() bool {
	db := s.database.Load()
	return db != nil && db.Health().OK()
}

func (s *server) logTiming(t api.PushTiming) {
	s.log.Debug().Bytes("request", t.RequestID).Int("items", t.Items).Int("status", t.Status).
		Dur("parse", t.Parse).Dur("wait", t.Wait).Dur("database", t.Database).Dur("total", t.Total).Msg("push")
}

// startProfiles serves Go's profiles, if asked to, on a loopback address.
func (s *server) startProfiles(ctx context.Context) error {
	if s.config.Logs.Pprof == "" {
		return nil
	}
	listener, err := net.Listen("tcp", s.config.Logs.Pprof)
	if err != nil {
		return fmt.Errorf("cannot serve profiles: %w", err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/debug/pprof/", pprof.Index)
	mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
	mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	profiles := &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second}
	go func() { _ = profiles.Serve(listener) }()
	context.AfterFunc(ctx, func() { _ = profiles.Close() })
	s.log.Info().Stringer("address", listener.Addr()).Msg("serving profiles under /debug/pprof/")
	return nil
}

// openDatabase reads where PostgreSQL is and how to speak to it, once for all who do.
// It does not connect.
func (s *server) openDatabase() (*asyncdb.Database, error) {
	c := s.config
	text := c.ConnString()
	if s.local != nil {
		text = s.local.ConnString(localDatabase)
	}
	conn, err := pgconn.ParseConfig(text)
	if err != nil {
		// pgconn's error leaves the password out.
		return nil, fmt.Errorf("cannot read where PostgreSQL is: %w", err)
	}
	failover := c.Statements.Failover
	db, err := asyncdb.Open(asyncdb.Config{
		Conn: conn, FailoverTimeout: failover.Duration(), ConnectTimeout: c.Connect.Duration(),
		StatementTimeout: below(c.Statements.Statement, failover), LockTimeout: below(c.Statements.Lock, failover),
		IdleInTransactionTimeout: below(c.Statements.Idle, failover),
		KeepaliveIdle:            time.Duration(c.Statements.KeepIdle) * time.Second, KeepaliveInterval: time.Duration(c.Statements.KeepEvery) * time.Second,
		KeepaliveCount: int(c.Statements.KeepCount), UserTimeout: c.Statements.TCPTimeout.Duration(),
		Limits: asyncdb.Limits{BacklogBytesMax: c.backlogPerLoop(), BatchRowsMax: int(c.Statements.RowsMax)},
		Log:    s.log,
	})
	if err != nil {
		return nil, err
	}
	db.OnMoved(s.reconnect)
	return db, nil
}

// reconnect has those who do not connect on a loop leave the server that was the primary.
func (s *server) reconnect() {
	if pool := s.pool.Load(); pool != nil {
		pool.Reconnect()
	}
	if pool := s.admin.Load(); pool != nil {
		pool.Reconnect()
	}
	if m := s.maintainer.Load(); m != nil {
		m.Reconnect()
	}
}

// migrate brings the schema up to date, as soon as PostgreSQL answers, and tells
// whether payloads are jsonb. What a large database of Queen's takes long for, and
// no push needs, goes on in the background.
func (s *server) migrate(ctx context.Context, conn *pgconn.Config) (jsonb bool, err error) {
	report, err := s.insist(ctx, conn, schema.Prepare, "the database is not ready; trying again until it is."+isItThere)
	if err != nil {
		return false, err
	}
	if report.Left > 0 {
		s.log.Info().Int("steps", report.Left).Msg("the schema can be served; what is left goes on in the background, and with the next start if it is interrupted")
		go func() {
			_, _ = s.insist(ctx, conn, schema.Migrate, "the rest of the migration was interrupted, trying again")
		}()
	}
	return report.Layout.JSONB(), nil
}

// migration is schema.Prepare or schema.Migrate.
type migration func(context.Context, *pgconn.Config, func(schema.Progress)) (schema.Report, error)

// isItThere is what a sentence of insist ends with, unless PostgreSQL has answered.
const isItThere = " Is PostgreSQL there, and are PG_HOST, PG_PORT, PG_DB, PG_USER, PG_PASSWORD or DATABASE_URL right? queend --local-postgres brings its own"

// insistSays is how often a start that does not get on says why.
const insistSays = time.Minute

// insist runs a migration again and again until it succeeds, or ctx ends. What goes
// wrong is logged, with a sentence, when it is something else and now and then.
func (s *server) insist(ctx context.Context, conn *pgconn.Config, run migration, sentence string) (schema.Report, error) {
	started, last, saidAt := time.Now(), "", time.Time{}
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		report, err := run(ctx, conn, s.logProgress)
		if err == nil {
			s.log.Info().Bool("fresh", report.Fresh).Int("steps", report.Steps).Int64("rows", report.Rows).Dur("took", time.Since(started)).
				Str("payload", report.Layout.Payload).Msg("the schema is up to date")
			return report, nil
		}
		if ctx.Err() != nil {
			return report, errStopped
		}
		// The texts of one and the same trouble differ by port numbers.
		if kind := kindOf(err); kind != last || time.Since(saidAt) > insistSays {
			last, saidAt = kind, time.Now()
			said := sentence
			if kind != "unreachable" && !strings.HasPrefix(kind, "28") && kind != "3D000" {
				said, _, _ = strings.Cut(sentence, isItThere) // it is, and has said what is wrong
			}
			s.log.Error().Err(err).Msg(said)
		}
		select {
		case <-ctx.Done():
			return report, errStopped
		case <-time.After(pause):
		}
	}
}

// kindOf tells errors apart by what to do about them: PostgreSQL's by SQLSTATE, all others
// mean that it cannot be reached.
func kindOf(err error) string {
	var refusal *pgconn.PgError
	if errors.As(err, &refusal) {
		return refusal.Code
	}
	return "unreachable"
}

func (s *server) logProgress(p schema.Progress) {
	event := s.log.Info()
	if p.Warn {
		event = s.log.Warn()
	}
	event.Dur("took", p.Took).Msg("schema: " + p.String())
}

// open makes the stores and gives them to the routers: pushes are taken.
func (s *server) open(ctx context.Context, db *asyncdb.Database, jsonb bool) error {
	c := s.config
	domain := &queue.Config{PayloadJSONB: jsonb, Sealer: s.sealer, Warn: func(name string) {
		s.log.Warn().Str("queue", clip(name)).Msg("the queue is to be encrypted and there is no QUEEN_ENCRYPTION_KEY: its messages are stored as they are")
	}}
	loops := s.loops.Loops()
	// The pool connects with the very settings of the loops, so that the two routes
	// mean the same.
	conn := db.Connection()
	conn.RuntimeParams["application_name"] += "-legacy"
	pool, err := pooldb.Open(pooldb.Options{
		Conn: conn, Workers: int(c.Statements.LegacyPool), WaitingBytesMax: int(c.Statements.Backlog), Now: loops[0].Now,
		NewBatch: func() *queue.Batch { return queue.NewBatch(domain, queue.NewHints(0, 0)) },
	})
	if err != nil {
		return err
	}
	s.pool.Store(pool)
	if err := s.openAdmin(db); err != nil {
		return err
	}
	if err := s.readFlags(ctx); err != nil {
		return err
	}
	last := len(loops) - 1
	for i, l := range loops {
		lanes := openLanes(db, l, domain, s.buffer != nil, s.buffer != nil && i == last)
		s.lanes = append(s.lanes, lanes)
		stores, legacy := s.stores(i, domain), pool.Store(l.Post)
		stores.Admin = s.adminOf(l)
		l.Post(func() {
			s.late[i].come(lanes, legacy)
			s.routers[i].Open(stores)
		})
	}
	s.database.Store(db)
	s.drainBuffer(loops[last], s.polls[last], s.lanes[last].replay)
	return nil
}

// stores are what the router of loop i is given.
func (s *server) stores(i int, domain *queue.Config) api.Stores {
	poll := s.polls[i]
	return api.Stores{
		Push: poll, PushLegacy: poll.Around(s.legacy[i]), Pop: poll, Ack: poll, Transaction: poll,
		Changed: s.board.Changed, AllChanged: s.board.AllChanged, Config: domain, IDs: s.ids[i],
	}
}

// connected waits until every loop has its connection: only then is the start
// complete.
func (s *server) connected(ctx context.Context) error {
	for !s.database.Load().Health().OK() {
		select {
		case <-ctx.Done():
			return errStopped
		case <-time.After(10 * time.Millisecond):
		}
	}
	return nil
}

// below is a time-out that was set, or 0, which stands for a share of the deadline, if
// none was set or it would not stay below the deadline.
func below(set, deadline Millis) time.Duration {
	if set >= deadline {
		return 0
	}
	return set.Duration()
}

// clip bounds what of a client's text goes into the log.
func clip(text string) string {
	if len(text) > 256 {
		return text[:256] + "…"
	}
	return text
}

// ready tells systemd, and a person.
func (s *server) ready(ctx context.Context) {
	s.log.Info().Stringer("address", s.loops.Addr()).Str("database", s.where()).Msg("ready: pushes are stored")
	if s.local != nil {
		fmt.Printf(`
queend is ready. Push a message:

  curl -X POST http://%s/api/v1/push -H 'Content-Type: application/json' -d '{"items":[{"queue":"orders","payload":{"n":1}}]}'

Look at it, and take it:

  psql -h %s -p %d -U %s -d %s -c 'SELECT transaction_id, payload, created_at FROM queen.messages'
  curl 'http://%s/api/v1/pop/queue/orders?autoAck=true'

`, s.loops.Addr(), s.local.SocketDir(), s.local.Port(), postgres.User, localDatabase, s.loops.Addr())
	}
	s.tell(ctx)
}

// tell tells systemd, once, that the start is complete.
func (s *server) tell(ctx context.Context) {
	s.told.Do(func() {
		if _, err := daemon.SdNotify(false, daemon.SdNotifyReady); err != nil {
			s.log.Warn().Err(err).Msg("cannot tell systemd that the start is complete")
		}
		if every, err := daemon.SdWatchdogEnabled(false); err == nil && every > 0 {
			go s.watchdog(ctx, every/3)
		}
	})
}

func (s *server) where() string {
	if s.local != nil {
		return "private, in " + s.local.Dir()
	}
	return s.config.Where()
}

// watchdog tells systemd that the loops turn: each must run a posted function
// before the next sign of life.
func (s *server) watchdog(ctx context.Context, every time.Duration) {
	for {
		var turned sync.WaitGroup
		for _, l := range s.loops.Loops() {
			turned.Add(1)
			l.Post(turned.Done)
		}
		all := make(chan struct{})
		go func() {
			turned.Wait()
			close(all)
		}()
		select {
		case <-all:
			_, _ = daemon.SdNotify(false, daemon.SdNotifyWatchdog)
		case <-ctx.Done():
			return
		}
		select {
		case <-time.After(every):
		case <-ctx.Done():
			return
		}
	}
}

// within waits for the end of what is being closed, as long as ctx lasts and a moment more:
// a connection to a server that hangs is not waited for, the process ends without it.
func within(ctx context.Context, end func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		end()
	}()
	select {
	case <-done:
		return
	case <-ctx.Done():
	}
	select {
	case <-done:
	case <-time.After(100 * time.Millisecond):
	}
}

// stop ends what was started, in reverse. A second signal ends the waiting.
func (s *server) stop() {
	_, _ = daemon.SdNotify(false, daemon.SdNotifyStopping)
	ctx, cancel := context.WithTimeout(context.Background(), DrainTimeout)
	defer cancel()
	ctx, release := signal.NotifyContext(ctx, stopSignals...)
	defer release()
	if s.loops != nil {
		for _, poll := range s.polls {
			poll.Close()
		}
		for _, l := range s.lanes {
			l.pop.Hasten() // pops, and what they ask before they wait
			l.watch.Hasten()
		}
		if err := s.loops.Drain(ctx); err != nil {
			s.log.Warn().Err(err).Msg("some clients did not get their answer in time")
		}
		s.buffer.StopDrain()
		var all sync.WaitGroup
		for _, l := range s.lanes {
			for _, store := range l.all() {
				if store == nil {
					continue
				}
				all.Go(func() {
					if err := store.Close(ctx); err != nil {
						s.log.Warn().Err(err).Msg("a connection to PostgreSQL did not end in time")
					}
				})
			}
		}
		all.Wait()
		if pool := s.pool.Load(); pool != nil {
			within(ctx, pool.Close)
		}
		within(ctx, func() { s.closeAdmin(ctx) })
		if err := s.buffer.Close(); err != nil {
			s.log.Error().Err(err).Msg("the file buffer was not closed as it should; what is in it is kept")
		}
		if err := s.loops.Shutdown(ctx); err != nil && !errors.Is(err, context.Canceled) {
			s.log.Warn().Err(err).Msg("the loops did not end in time")
		}
	}
	within(ctx, s.stopMaintenance)
	if s.local != nil {
		if err := s.local.Stop(); err != nil {
			s.log.Error().Err(err).Msg("cannot stop the private PostgreSQL")
		}
	}
	s.log.Info().Msg("stopped")
}
