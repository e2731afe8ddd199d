package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
)

// A report on a binary that was given must not bear the commit of the tree around it.
func TestABinaryThatIsGivenIsNamedByItsOwnVersion(t *testing.T) {
	f := func(script, want string) {
		t.Helper()
		given := filepath.Join(t.TempDir(), "queend")
		if err := os.WriteFile(given, []byte("#!/bin/sh\n"+script+"\n"), 0o755); err != nil {
			t.Fatal(err)
		}
		w := &world{given: given, root: "."}
		if hash, dirty := w.commit(context.Background()); hash != want || dirty {
			t.Errorf("%q: %q, %v", script, hash, dirty)
		}
	}
	f("test $1 = version && echo queend 1.2.3", "1.2.3")
	f("exit 1", "unknown")
}
