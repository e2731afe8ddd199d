package queue

import "testing"

func TestSQLStatesByClass(t *testing.T) {
	f := func(want Class, states ...string) {
		t.Helper()
		for _, s := range states {
			if got := Classify(s); got != want {
				t.Errorf("%s: %s, want %s", s, got, want)
			}
		}
	}
	f(ClassAway, "08000", "08003", "08006", "08P01", "57P01", "57P02", "57P03", "53000", "53100", "53200", "53300", "58000", "58030", "25006", "XX000", "XX001", "XX002")
	f(ClassData, "22001", "22003", "22021", "22023", "22030", "22P02", "22P05", "54000", "54023", "23502", "23514", "42804", "42601", "42P22")
	f(ClassRetry, "40001", "40P01", "55P03", "57014")
	f(ClassUnknown, "40003")
	f(ClassLost, "26000", "0A000")
	f(ClassSetup, "28000", "28P01", "3D000", "3F000", "42P01", "42501", "42703", "42883")
	f(ClassStale, "23503")
	f(ClassAway, "57P04", "57P05")
	f(ClassDuplicate, "23505")
	f(ClassNone, "00000", "")
	// What nobody has thought of is the database's trouble and not the sender's.
	f(ClassAway, "25P02", "55000", "HV000", "99999", "x", "toolong")
	for c := ClassNone; c <= ClassDuplicate; c++ {
		if c.String() == "" {
			t.Errorf("class %d has no name", c)
		}
	}
}
