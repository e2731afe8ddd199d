package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/queend/queend/pkg/asyncdb"
	"github.com/queend/queend/pkg/check"
)

// The exit statuses of check beside 0, nothing was found.
const (
	statusFound     = 1
	statusUnchecked = 2
)

const checkManual = `Looks for contradictions in the tables: cursors beyond the newest message, leases without an end, dead letters whose message is lost, messages out of order or twice, heads that are behind, numbers that make lag wrong.

It can be run at any time, also while queend and its clients are at work: it reads one snapshot, in small slices, changes nothing and holds up nobody. On a large database it takes minutes (about a second for some hundred thousand messages), and VACUUM keeps rows that die meanwhile.

Each finding is a line on stdout that says what is wrong, where, and what to do. Lines that begin with "note:" are what mends itself or does no harm; they are not findings. With --json the report is one JSON object with findings, notes, counts by kind and what was looked at.

Exit status: 0, nothing was found; 1, there are findings; 2, it could not check.`

// errFound ends check when there are findings.
var errFound = errors.New("the database has contradictions, see above")

// uncheckedError is check's failure to check.
type uncheckedError struct{ error }

func (e uncheckedError) Unwrap() error { return e.error }

// exitStatus is the exit status of a program that ends with err.
func exitStatus(args []string, err error) int {
	checks := len(args) > 0 && args[0] == "check" || len(args) > 1 && args[0] == "buffer" && args[1] == "verify"
	var unchecked uncheckedError
	switch {
	case errors.Is(err, errFound), errors.Is(err, errDamaged):
		return statusFound
	case errors.As(err, &unchecked), checks: // or its arguments make no sense
		return statusUnchecked
	}
	return statusFound
}

// checkDatabase is `queend check`.
func checkDatabase(ctx context.Context, c *CheckCommand, out, progress io.Writer) error {
	db, err := asyncdb.Open(asyncdb.Config{ConnString: c.ConnString(), ConnectTimeout: c.Connect.Duration()})
	if err != nil {
		return uncheckedError{err}
	}
	options := check.Options{FindingsMax: int(c.Limit)}
	if !c.Quiet {
		options.Progress = func(sentence string) { fmt.Fprintln(progress, "queend: "+sentence) }
	}
	report, err := check.Config(ctx, db.Connection(), options)
	if err != nil {
		return uncheckedError{fmt.Errorf("cannot check the database at %s: %w", c.Where(), err)}
	}
	if c.JSON {
		encoder := json.NewEncoder(out)
		encoder.SetIndent("", "  ")
		err = encoder.Encode(&report)
	} else {
		_, err = fmt.Fprintf(out, "%slooked at %d partitions, %d messages, %d cursors and %d dead letters in %s: %s\n", report.String(),
			report.Partitions, report.Messages, report.Cursors, report.Letters, report.Took.Round(time.Millisecond), verdict(&report))
	}
	if err != nil {
		return uncheckedError{fmt.Errorf("cannot print the report: %w", err)}
	}
	if !report.OK() {
		return errFound
	}
	return nil
}

func verdict(r *check.Report) string {
	if r.OK() {
		return "nothing is wrong"
	}
	return fmt.Sprintf("%d findings", len(r.Findings))
}
