package load

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"time"
)

// Report is what a tool that is not ours says of its run. It knows no ids, and
// wrk drops the answers that are owed when its time is up, so rows can be
// compared to Answered only within the number of connections.
type Report struct {
	Elapsed  time.Duration
	Answered int64
	Errors   int64 // of any kind: refused, broken, timed out
	P50, P99 time.Duration
	CPU      time.Duration // of the tool
}

// Rate is requests answered per second.
func (r *Report) Rate() float64 { return float64(r.Answered) / r.Elapsed.Seconds() }

// wrkScript sends the very requests that Closed sends, and prints one line that
// a program can read, since wrk's own rounds latencies for the eye.
const wrkScript = `
local at = 0
request = function()
  at = at %% #requests + 1
  return requests[at]
end
done = function(summary, latency)
  local e = summary.errors
  print(string.format("figures: %%d %%d %%d %%d %%d", summary.requests, summary.duration,
    e.connect + e.read + e.write + e.status + e.timeout, latency:percentile(50), latency:percentile(99)))
end
requests = {
%s}
`

// Wrk runs wrk (Debian's package of that name) with one thread.
func Wrk(ctx context.Context, addr string, s Shape, connections int, d time.Duration) (*Report, error) {
	var lines bytes.Buffer
	for _, r := range s.Requests(addr) {
		fmt.Fprintf(&lines, "%s,\n", luaString(r))
	}
	script, err := os.CreateTemp("", "queend-bench-*.lua")
	if err != nil {
		return nil, err
	}
	defer os.Remove(script.Name())
	defer script.Close()
	if _, err := fmt.Fprintf(script, wrkScript, lines.Bytes()); err != nil {
		return nil, err
	}
	cmd := exec.CommandContext(ctx, "wrk", "-t1", fmt.Sprintf("-c%d", connections), fmt.Sprintf("-d%ds", max(1, int(d.Seconds()))),
		"-s", script.Name(), "http://"+addr)
	out, err := cmd.CombinedOutput()
	if err != nil {
		return nil, fmt.Errorf("wrk failed: %w: %s", err, out)
	}
	r, err := parseWrk(out)
	if err != nil {
		return nil, err
	}
	r.CPU = cmd.ProcessState.UserTime() + cmd.ProcessState.SystemTime()
	return r, nil
}

// luaString quotes bytes for Lua, which knows decimal escapes.
func luaString(b []byte) []byte {
	q := []byte{'"'}
	for _, c := range b {
		if c < ' ' || c == '"' || c == '\\' || c > '~' {
			q = fmt.Appendf(q, "\\%03d", c)
		} else {
			q = append(q, c)
		}
	}
	return append(q, '"')
}

func parseWrk(out []byte) (*Report, error) {
	at := bytes.Index(out, []byte("figures: "))
	var r Report
	var elapsed, p50, p99 int64
	if at >= 0 {
		if _, err := fmt.Sscanf(string(out[at:]), "figures: %d %d %d %d %d", &r.Answered, &elapsed, &r.Errors, &p50, &p99); err != nil {
			at = -1
		}
	}
	if at < 0 || elapsed <= 0 {
		return nil, fmt.Errorf("wrk printed no figures: %s", out)
	}
	r.Elapsed = time.Duration(elapsed) * time.Microsecond
	r.P50, r.P99 = time.Duration(p50)*time.Microsecond, time.Duration(p99)*time.Microsecond
	return &r, nil
}
