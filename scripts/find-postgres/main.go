// Command find-postgres prints the directory of the PostgreSQL binaries that
// queend would use, or the sentence that says what to type, and exits with 1.
package main

import (
	"fmt"
	"os"

	"github.com/queend/queend/pkg/postgres"
)

func main() {
	found, err := postgres.Find()
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	fmt.Println(found.Dir)
}
