package load

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"time"
)

// AB runs Apache's ab (package apache2-utils) as Queen's author did:
//
//	ab -n 10000 -c 100 -p push_payload.json -T application/json URL
//
// ab speaks HTTP/1.0 and, without -k, makes a connection for every request.
func AB(ctx context.Context, addr, path string, body []byte, n, workers int) (*Report, error) {
	dir, err := os.MkdirTemp("", "queend-bench-ab-")
	if err != nil {
		return nil, err
	}
	defer os.RemoveAll(dir)
	payload, csv := filepath.Join(dir, "push_payload.json"), filepath.Join(dir, "percentiles.csv")
	if err := os.WriteFile(payload, body, 0o600); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "ab", "-q", "-l", "-n", strconv.Itoa(n), "-c", strconv.Itoa(workers), "-e", csv,
		"-p", payload, "-T", "application/json", "http://"+addr+path)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("ab failed: %w: %s", err, out)
	}
	table, err := os.ReadFile(csv)
	if err != nil {
		return nil, err
	}
	r, err := parseAB(out, table)
	if err != nil {
		return nil, err
	}
	r.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return r, nil
}

// parseAB takes the counts from what ab prints and the percentiles, which it
// prints in whole milliseconds, from its table.
func parseAB(out, csv []byte) (*Report, error) {
	elapsed, ok := abNumber(out, "Time taken for tests")
	complete, ok2 := abNumber(out, "Complete requests")
	failed, ok3 := abNumber(out, "Failed requests")
	if !ok || !ok2 || !ok3 || elapsed <= 0 {
		return nil, fmt.Errorf("ab printed no figures: %s", out)
	}
	non2xx, _ := abNumber(out, "Non-2xx responses") // printed only if there are any
	r := &Report{
		Elapsed:  time.Duration(elapsed * float64(time.Second)),
		Answered: int64(complete - non2xx),
		Errors:   int64(failed + non2xx),
	}
	for line := range bytes.Lines(csv) {
		percent, ms, _ := bytes.Cut(bytes.TrimSpace(line), []byte(","))
		v, err := strconv.ParseFloat(string(ms), 64)
		if err != nil {
			continue // the title
		}
		switch string(percent) {
		case "50":
			r.P50 = time.Duration(v * float64(time.Millisecond))
		case "99":
			r.P99 = time.Duration(v * float64(time.Millisecond))
		}
	}
	return r, nil
}

func abNumber(out []byte, name string) (float64, bool) {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + `:\s+([0-9.]+)`).FindSubmatch(out)
	if m == nil {
		return 0, false
	}
	v, err := strconv.ParseFloat(string(m[1]), 64)
	return v, err == nil
}
