package asyncdb

import (
	"errors"
	"fmt"

	"github.com/queend/queend/pkg/queue"
)

// pipeline knows which reply is whose. It is of one step in flight: some statements
// and one Sync, to which the server answers in this order (manual, chapter "Message
// Flow", "Extended Query" and "Pipelining"):
//
//	per statement:  [ParseComplete]  BindComplete  DataRow…  CommandComplete
//	then:           ReadyForQuery
//
// or, from the statement that fails on: ErrorResponse, then ReadyForQuery at once,
// because the server skips what stands before the Sync. Anything else is a broken
// server, and an error here: the lane is then closed, since nothing that follows could
// be believed.
//
// It is pure: bytes of messages in, calls of the batch out.
type pipeline struct {
	rows   rows   // who hears of rows and tags; nil for a probe, which has no statements
	lead   int    // statements of the store's own before those of rows, which hears nothing of them
	mark   []byte // what the step is known by to the one that follows it; empty: nothing may
	after  bool   // it follows another: its first statement is push_after
	parsed []bool // per statement: it was sent with a Parse
	at     int    // the statement whose replies come now
	phase  phase
	err    *queue.SQLError // the step's first error
	told   bool            // the server says when the step has begun
	ends   byte            // the state of the transaction when the step has succeeded; 0: none is open then or ever
	status byte            // what it was when the last step had ended
	values [][]byte        // scratch of one DataRow
}

// rows is the part of Batch that hears of results.
type rows interface {
	Row(stmt int, values [][]byte)
	Tag(stmt int, rows int64)
}

type phase uint8

const (
	quiet     phase = iota // nothing in flight: the server has nothing to say
	wantParse              // ParseComplete
	wantBind               // BindComplete
	wantRows               // DataRow or CommandComplete
	wantReady              // ReadyForQuery: all statements are through
	skipping               // ReadyForQuery: a statement failed
)

// begin says that a step was sent: one entry of parsed per statement, of which the first
// lead are the store's own.
func (p *pipeline) begin(r rows, lead int, parsed []bool) {
	if p.phase != quiet {
		panic("BUG: a step is sent while another is in flight")
	}
	p.rows, p.lead, p.at, p.err = r, lead, -1, nil
	p.mark, p.after, p.ends, p.told = p.mark[:0], false, 0, false
	p.parsed = append(p.parsed[:0], parsed...)
	p.turn()
}

// turn goes on to the next statement of the step.
func (p *pipeline) turn() {
	p.at++
	switch {
	case p.at == len(p.parsed):
		p.phase = wantReady
	case p.parsed[p.at]:
		p.phase = wantParse
	default:
		p.phase = wantBind
	}
}

// isVoid says that the step that was answered failed before it was begun: push_after did.
func (p *pipeline) isVoid() bool { return p.after && p.err != nil && p.at == 0 }

// busy says that a step is in flight.
func (p *pipeline) busy() bool { return p.phase != quiet }

// hasBegun says that the server is known to be at the step.
func (p *pipeline) hasBegun() bool { return p.busy() && p.at > 0 }

// deafen has nobody hear what is yet to come of the step in flight.
func (p *pipeline) deafen() { p.lead = len(p.parsed) }

// drop forgets the step in flight: its connection is gone.
func (p *pipeline) drop() { p.phase, p.rows, p.err = quiet, nil, nil }

// frame takes one message that is part of an answer (not an error, and none of those
// that may come at any time). ready: the Sync was answered, p.err is how it went. An
// error: this is not the server that was asked.
func (p *pipeline) frame(kind byte, body []byte) (ready bool, err error) {
	switch {
	case kind == kindParseComplete && p.phase == wantParse:
		p.phase = wantBind
	case kind == kindBindComplete && p.phase == wantBind:
		p.phase = wantRows
	case kind == kindDataRow && p.phase == wantRows:
		if p.values, err = dataRow(p.values, body); err != nil {
			return false, err
		}
		if i := p.at - p.lead; i >= 0 {
			p.rows.Row(i, p.values)
		}
	case kind == kindComplete && p.phase == wantRows:
		n, err := tagRows(body)
		if err != nil {
			return false, err
		}
		if i := p.at - p.lead; i >= 0 {
			p.rows.Tag(i, n)
		}
		p.turn()
	case kind == kindReady && (p.phase == wantReady || p.phase == skipping):
		if len(body) != 1 {
			return false, errFrameBody
		}
		// Every step is an implicit transaction, over when the Sync is answered. 'T' or
		// 'E' would mean that somebody sent BEGIN on our lane. A step that is stored early is
		// not over, unless it has failed.
		if p.status = body[0]; p.status != 'I' && p.ends == 0 || p.ends != 0 && p.err == nil && p.status != p.ends {
			return false, fmt.Errorf("BUG: the server is ready with transaction status %q after a Sync", body[0])
		}
		p.phase, p.rows = quiet, nil
		return true, nil
	default:
		return false, fmt.Errorf("the server sent message %q while the lane %s", kind, p.phase)
	}
	return false, nil
}

var errStrayError = errors.New("the server reported an error that no statement can have made")

// failed takes an ErrorResponse that does not end the connection.
func (p *pipeline) failed(e *queue.SQLError) error {
	if p.phase == quiet || p.phase == skipping {
		return errStrayError
	}
	p.err, p.phase = e, skipping
	return nil
}

func (f phase) String() string {
	return [...]string{"expects nothing", "expects ParseComplete", "expects BindComplete",
		"expects DataRow or CommandComplete", "expects ReadyForQuery", "expects ReadyForQuery after an error"}[f]
}
