package queue

// SQLError is what PostgreSQL said (manual, "Error and Notice Message Fields"). The
// strings are the store's; the batch keeps what it needs.
type SQLError struct {
	Severity, Code, Message, Detail, Schema, Table, Constraint string
}

// Class is what a SQLSTATE means to us.
type Class uint8

const (
	ClassNone      Class = iota // no error
	ClassAway                   // the database is away, full or read-only: reconnect, 503 meanwhile
	ClassData                   // what was sent cannot be stored: its request alone is refused
	ClassRetry                  // deadlock, lock time-out, …: again, a few times
	ClassUnknown                // may be committed or not: again with the same ids
	ClassLost                   // a prepared statement is gone or stale: prepare again, once
	ClassSetup                  // set-up is wrong (password, missing table, …): as away, said loudly once
	ClassStale                  // a partition that we knew is gone: resolve again, once
	ClassDuplicate              // unique violation
)

var classNames = [...]string{"none", "away", "data", "retry", "unknown", "lost", "setup", "stale", "duplicate"}

// String is a word for logs and metrics.
func (c Class) String() string { return classNames[c] }

// SQLSTATEs of locks.
const (
	lockNotAvailable = "55P03" // one was waited for as long as lock_timeout says
	deadlockDetected = "40P01"
)

// states says what single SQLSTATEs mean to us, where it differs from their class.
var states = map[string]Class{
	"00000": ClassNone, "": ClassNone,

	"23502": ClassData, // a batch that inserts knows better: see Batch.StepDone
	"23503": ClassStale,
	"23505": ClassDuplicate,
	"23514": ClassData,

	"26000": ClassLost, // the statement is not there (a pooler gave us another connection, DISCARD ALL)
	"0A000": ClassLost, // "cached plan must not change result type"

	"40001":          ClassRetry,
	deadlockDetected: ClassRetry,
	"40003":          ClassUnknown,
	lockNotAvailable: ClassRetry,
	"57014":          ClassRetry,

	"25006": ClassAway, // read-only: a standby, or an old primary that came back
	"57P01": ClassAway,
	"57P02": ClassAway,
	"57P03": ClassAway,
	"57P04": ClassAway,
	"57P05": ClassAway,

	// Our statements are fixed texts, so that a table, a column, a function or an index
	// that they name and that is not there is never the fault of what was sent: the
	// schema is not the one we were built for.
	"42P01": ClassSetup,
	"42501": ClassSetup,
	"42703": ClassSetup,
	"42704": ClassSetup,
	"42883": ClassSetup,
	"42P10": ClassSetup, // ON CONFLICT names no unique index
}

// classes says what the classes of SQLSTATEs (manual, appendix "PostgreSQL Error
// Codes") mean to us.
var classes = map[string]Class{
	"01": ClassNone, "02": ClassNone, // warning, no data

	"08": ClassAway, // connection
	"53": ClassAway, // disk full, out of memory, too many connections
	"58": ClassAway, // I/O error
	"XX": ClassAway, // internal error, corrupted data or index

	"22": ClassData, // what was sent: encoding, length, range, JSON
	"23": ClassData, // a constraint that somebody added
	"42": ClassData,
	"44": ClassData, // WITH CHECK OPTION
	"54": ClassData, // program limit: row or index entry too big
	"P0": ClassData, // a trigger that somebody added says no

	"40": ClassRetry,
	"72": ClassRetry, // snapshot too old

	"28": ClassSetup, // password, pg_hba.conf
	"3D": ClassSetup, // no such database
	"3F": ClassSetup, // no such schema
	"F0": ClassSetup, // configuration file
}

// Classify returns the class of a SQLSTATE. What is not in the table counts as the
// database's trouble: the client hears 503 and may try again, and nothing is lost.
func Classify(sqlstate string) Class {
	if c, ok := states[sqlstate]; ok {
		return c
	}
	if len(sqlstate) == 5 {
		if c, ok := classes[sqlstate[:2]]; ok {
			return c
		}
	}
	return ClassAway
}
