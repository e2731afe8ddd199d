package queue

// SQLError is what PostgreSQL said (manual, chapter "Error and Notice Message
// Fields"). The strings are the store's; the batch keeps what it needs.
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

// Classify returns the class of a SQLSTATE.
func Classify(sqlstate string) Class { panic("TODO") }
