package asyncdb

import (
	"time"

	"github.com/queend/queend/pkg/queue"
)

// This file is the lane's way from one state to the next (the picture is in asyncdb.go):
// what is sent when, and what an answer, an error or a timer leads to. How a connection
// comes and goes is in conn.go. All of it runs on the loop.

// fire runs at the end of a pass in which ops came to an idle lane.
func (s *Store) fire() {
	s.armed = false
	if s.state == idle {
		s.advance(s.sv.Now())
	}
}

// advance sends the next step: of current if that has more to do, else of a batch of
// what waits. The lane is connected and nothing is in flight. Ops are completed after
// the next step is on its way, so that PostgreSQL works while answers are written.
func (s *Store) advance(now time.Duration) {
	s.state = idle
	if s.left(now) {
		s.leave(now)
		return
	}
	for s.working || s.load(now) {
		if statements := s.current.Step(now); statements != nil {
			s.send(statements, now)
			if s.working {
				s.completeAll(s.current.Decided(), now)
			}
			return
		}
		done := s.retire(now)
		sent := s.promote(now)
		if !sent && s.load(now) {
			if statements := s.current.Step(now); statements != nil {
				s.send(statements, now)
				sent = true
			}
		}
		s.completeAll(done.Ops(), now)
		done.Reset()
		if sent || !s.working {
			break // what came meanwhile goes with the end of the pass
		}
	}
	s.endIfDone()
}

// load makes current the batch that follows, or one of what waits; false: nothing waits.
func (s *Store) load(now time.Duration) bool {
	if s.following {
		s.takeNext(now)
		return true
	}
	if s.gather.waiting() == 0 {
		s.leaveLine() // what waited was given up
		return false
	}
	if !s.mayLoad(now) {
		return false
	}
	s.gather.fill(s.current, now)
	s.working, s.rerun, s.firedAt = true, false, now
	s.count(s.current)
	s.weigh()
	s.gauge()
	return true
}

// retire takes current, which is decided, off the lane; the caller completes its ops
// and resets it before the lane can retire another.
func (s *Store) retire(now time.Duration) (done Batch) {
	done = s.current
	s.current, s.spare = s.spare, done
	s.working = false
	s.pause = max(0, s.pause-1)
	rows, took := done.Rows(), now-s.firedAt
	if !s.rerun { // else the time is that of an outage, or of somebody's lock
		whole := took
		if s.inLine {
			whole = now - s.lineAt // the next will have to stand in line too
		}
		s.gather.learn(whole, rows)
	}
	s.leaveLine()
	s.weigh()
	s.stats.Batches.Add(1)
	s.stats.Rows.Add(uint64(rows))
	s.stats.BatchRows.Observe(uint64(rows))
	s.stats.BatchNanos.Observe(uint64(took))
	return done
}

// send writes one step to the connection: all statements and one Sync.
func (s *Store) send(statements []queue.Statement, now time.Duration) {
	if s.nextSent || s.early != noEarly {
		panic("BUG: a batch that another follows has one more step")
	}
	var mark []byte
	if s.isMarked() {
		mark = s.newMark()
	}
	tell := mark != nil && s.mayBeBefore(s.current)
	out, lead, allowance := s.encode(s.current, statements, envelope{mark: mark, tell: tell})
	s.pipeline.begin(s.current, lead, s.parsed)
	s.pipeline.mark = append(s.pipeline.mark, mark...)
	s.pipeline.told = tell
	s.state, s.sentAt, s.hungAt = busy, now, now+s.db.config.HungAfter+allowance
	s.stats.Steps.Add(1)
	s.arm(s.hungAt)
	s.write(s.conn, out, now)
}

// envelope is what the store has to say in a step beside its batch's statements.
type envelope struct {
	after, mark   []byte // the mark of the step that it follows, and what it is to be known by; nil: none
	begin, commit bool   // a transaction that other steps belong to as well
	tell          bool   // the server is to say when it has begun
}

// encode makes the bytes of one step of b, and says in parsed which of its statements have a
// Parse. lead of them are the store's own and come first. allowance is how much longer than
// others the step may take.
func (s *Store) encode(b Batch, statements []queue.Statement, how envelope) (out []byte, lead int, allowance time.Duration) {
	out, s.parsed = s.out[:0], s.parsed[:0]
	add := func(name, sql string, params [][]byte, whole bool) {
		if whole {
			name = ""
			out = appendParse(out, sql)
		}
		out = appendBind(out, name, params)
		out = appendExecute(out)
		s.parsed = append(s.parsed, whole)
	}
	own := func(name, sql string, params ...[]byte) {
		lead++
		add(name, sql, params, name == "")
	}
	switch {
	case how.begin:
		own("", begin)
	case how.after != nil:
		own(pushAfter, "", how.after, how.mark)
	case how.mark != nil:
		own(pushMark, "", how.mark)
	}
	if s.conn.link.lax && !how.commit {
		own("", durable)
	}
	// A large request takes longer than others may: the server is told so for this one
	// transaction, and silence says less.
	if allowance = queue.Allowance(b.Rows(), b.Bytes()); allowance > 0 && !how.commit {
		own("", patient, []byte(milliseconds(s.db.config.StatementTimeout+allowance)))
	}
	if how.tell {
		out = appendFlush(out)
	}
	for i := range statements {
		st := &statements[i]
		whole := st.Unnamed || !s.prepared[st.Name] || s.inline || s.conn.link.inline
		sql := ""
		if whole {
			sql = s.db.statement(st.Name)
		}
		add(st.Name, sql, st.Params, whole)
	}
	if how.commit {
		add("", commit, nil, true)
	}
	out = appendSync(out)
	s.out = keep(out, outBytesKept)
	return out, lead, allowance
}

// answered takes the end of the step in flight: committed, or rolled back with e.
func (s *Store) answered(e *queue.SQLError, now time.Duration) {
	switch {
	case s.state == probing:
		s.proven()
		s.advance(now)
		return
	case s.owner != nil:
		s.hasHelped(e, now)
		return
	case s.failure != nil:
		s.nextAnswered(now)
		return
	case s.left(now):
		s.unknown()
		s.state = idle
		s.leave(now)
		return
	}
	s.state = idle
	s.stats.StepNanos.Observe(uint64(now - s.sentAt))
	switch {
	case e == nil:
		s.proven()
		if s.pipeline.after {
			s.conn.voids = 0
		}
		if verdict := s.current.StepDone(nil, now); verdict.Action == queue.Wait {
			s.rest(verdict.After, now)
			s.endIfDone()
			return
		}
		s.advance(now)
	case s.nextSent:
		s.awaitNext(e, now)
	default:
		s.refused(e, s.pipeline.isVoid(), now)
	}
}

// refused takes the failure of current's step. void: it was never begun.
func (s *Store) refused(e *queue.SQLError, void bool, now time.Duration) {
	s.undoEarly(now)
	if void {
		if s.conn.voids++; s.conn.voids == voidsMax {
			s.db.warnOnce(pushAfter, "what one push leaves in the session the next one does not find (a pooler in transaction mode?); pushes no longer follow each other on this connection, which makes them slower under load")
		}
		s.advance(now)
		return
	}
	s.failed(e, now)
}

// failed does what the batch's verdict on an error says.
func (s *Store) failed(e *queue.SQLError, now time.Duration) {
	s.stats.Errors[queue.Classify(e.Code)].Add(1)
	if e.Code == queryCanceled {
		s.gather.cut(s.current.Rows())
	}
	verdict := s.current.StepDone(e, now)
	if verdict.Action != queue.Away {
		s.proven()
	}
	switch verdict.Action {
	case queue.Continue:
		s.advance(now)
	case queue.Wait:
		s.stats.Retries.Add(1)
		s.db.warnOfLock(e.Code)
		s.rest(verdict.After, now)
	case queue.Prepare:
		s.prepareAgain(e, now)
	case queue.Away:
		// The server answers, and says that it cannot. Another connection may lead to another
		// host, or find this one mended.
		s.away, s.suspect = true, true
		s.hangUp(serverError(e), now)
		s.giveBack(now)
	default:
		panic("BUG: a batch gave an unknown verdict")
	}
	s.endIfDone()
}

// rest does nothing for a while, because current wants to wait.
func (s *Store) rest(after, now time.Duration) {
	s.leaveLine()  // nothing is in flight meanwhile
	s.rerun = true // others are not to be refused for what this one has waited for
	s.state, s.restTill = resting, now+after
	s.arm(s.restTill)
	s.completeAll(s.current.Decided(), now)
}

// prepareAgainWithin is how soon a second loss of prepared statements says that they do
// not last here.
const prepareAgainWithin = time.Minute

// prepareAgain gets prepared statements back. A new connection has them anew; if they are
// lost again soon, they do not last on this way to the server (a pooler that deals out
// server connections by the transaction), and statements are sent whole from then on.
func (s *Store) prepareAgain(e *queue.SQLError, now time.Duration) {
	again := s.preparedAt != 0 && now-s.preparedAt < prepareAgainWithin
	s.preparedAt = now
	if again && !s.inline {
		s.inline = true
		s.db.config.Log.Warn().Int("lane", s.id).Str("sqlstate", e.Code).
			Msg("prepared statements do not last on this connection (a pooler in transaction mode?); statements are sent whole from now on, which costs PostgreSQL a plan each")
		s.advance(now)
		return
	}
	s.hangUp(serverError(e), now)
}

// arm sets a timer for at, unless one is set for an earlier time. There is about one
// timer at any time, whatever the number of ops.
func (s *Store) arm(at time.Duration) {
	if s.timerAt != 0 && s.timerAt <= at || s.closed {
		return
	}
	s.timerAt = at
	s.sv.After(max(at-s.sv.Now(), 0), func() {
		if s.timerAt == at { // else an earlier timer has taken its place
			s.timerAt = 0
			s.tick()
		}
	})
}

// tick does what is due, and sets the timer for what comes next.
func (s *Store) tick() {
	if s.closed {
		return
	}
	now := s.sv.Now()
	s.expire(now)
	switch {
	case (s.state == busy || s.state == probing) && now >= s.hungAt:
		if s.isSlow(now) {
			s.hungAt = s.heardAt + s.db.config.HungAfter
		} else {
			s.hung(now)
		}
	case s.state == lent && now >= s.hungAt:
		s.owner.undoEarly(now)
	case s.state == resting && now >= s.restTill:
		s.advance(now)
	case s.state == idle && !s.inLine && now >= s.probeAt():
		s.probe(now)
	case s.state == down && !s.dialing && now >= s.dialAt:
		s.dialAgain(now)
	}
	if s.state == down && s.knownAway(now) {
		s.giveBack(now)
	}
	if s.endIfDone(); s.closed {
		return
	}
	if first := s.soonest(); first != 0 {
		s.arm(first - expireAhead)
	}
	switch s.state {
	case busy, probing, lent:
		s.arm(s.hungAt)
	case resting:
		s.arm(s.restTill)
	case idle:
		if !s.inLine { // a lane that is to send something hears of its server soon
			s.arm(s.probeAt())
		}
	case down:
		if !s.dialing {
			s.arm(s.dialAt)
		}
		s.armGiveBack()
	}
}

// isSlow says that the server is at it though its time is over: rows are coming. Large
// messages may take that long. Who gives back does not wait longer: its answers are small.
func (s *Store) isSlow(now time.Duration) bool {
	return !s.work.GiveBack && s.heardAt > s.sentAt && now < s.heardAt+s.db.config.HungAfter
}

// armGiveBack sets the timer for when a lane that is down counts as away.
func (s *Store) armGiveBack() {
	if s.work.GiveBack && !s.away && s.gather.held > 0 {
		s.arm(s.downSince + s.db.config.FailoverTimeout/2 + time.Millisecond)
	}
}

// expire gives up the ops whose deadline has come, wherever they are. One that is in
// flight is answered Unavailable though it may be committed in a moment; the client's
// next try finds it by its transaction id.
func (s *Store) expire(now time.Duration) {
	by := now + expireAhead
	if s.work.GiveBack && s.state == down {
		if first := s.soonest(); first != 0 && first <= by {
			s.giveBack(now) // all of them: none may overtake another
		}
	}
	s.late = s.gather.expire(by, s.late[:0])
	for _, op := range s.late {
		op.Fault = queue.Fault{Code: queue.Unavailable, Message: string(refusedLate)}
	}
	for _, b := range s.atWork() {
		if b != nil {
			s.late = append(s.late, b.Expire(by)...) // they have their fault
		}
	}
	s.abandon()
	s.stats.Expired.Add(uint64(len(s.late)))
	s.completeAll(s.late, now)
	clear(s.late)
}

// atWork is the batches that are worked on, in their order; nil for one that is not.
func (s *Store) atWork() (all [2]Batch) {
	if s.working {
		all[0] = s.current
	}
	if s.following {
		all[1] = s.next
	}
	return all
}

// soonest is the first deadline of all ops that are held; 0: there is none.
func (s *Store) soonest() time.Duration {
	first := s.gather.soonest()
	for _, b := range s.atWork() {
		if b != nil {
			first = earlier(first, b.Ops())
		}
	}
	return first
}

// abandon forgets batches whose every op was given up while there is no connection.
func (s *Store) abandon() {
	if s.state != down {
		return
	}
	if s.working && len(s.current.Ops()) == 0 {
		s.current.Reset()
		s.working = false
	}
	if s.following && len(s.next.Ops()) == 0 {
		s.next.Reset()
		s.following = false
	}
	s.weigh()
}

// weigh tells the metrics what is worked on.
func (s *Store) weigh() {
	rows := 0
	for _, b := range s.atWork() {
		if b != nil {
			rows += b.Rows()
		}
	}
	s.stats.InFlightRows.Store(int64(rows))
}
