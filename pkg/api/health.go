package api

import "strconv"

// health is Queen's route: 200 while PostgreSQL answers, else 503. It reports
// what the loop knows and asks nobody, so it never hangs.
func (r *Router) health(x Exchange) {
	status, word, database := 200, "healthy", "connected"
	if !r.Database() {
		status, word, database = 503, "unhealthy", "disconnected"
	}
	header := jsonHeader
	if status == 503 {
		header = retryHeader
	}
	worker := strconv.Itoa(r.WorkerID)
	body := []byte(`{"database":"` + database + `","queen":{"status":"active","worker_id":` + worker + `},"server":"queend"`)
	// Queen's processes tell each other of their state over UDP; ours have the database for that.
	push, pop := r.knownMaintenance()
	body = append(body, `,"shared_state":{"enabled":false,"maintenance_mode":`...)
	body = strconv.AppendBool(body, push)
	body = append(body, `,"pop_maintenance_mode":`...)
	body = strconv.AppendBool(body, pop)
	body = append(body, `,"running":false},"status":"`+word+`","version":`...)
	body = appendJSON(body, r.Version)
	body = append(body, `,"worker_id":`+worker+`}`...)
	x.Reply(status, header, body, false)
}

// livez says that the process runs. An orchestrator that restarts a broker
// because PostgreSQL is away makes an outage worse, so this is apart from health.
func (r *Router) livez(x Exchange) { x.Reply(200, jsonHeader, alive, false) }

var alive = []byte(`{"status":"alive"}`)

// readyz says whether a push would be taken now: stored, or written to disk. In maintenance
// mode it is the disk that decides, whatever the database does.
func (r *Router) readyz(x Exchange) {
	maintenance, _ := r.knownMaintenance()
	switch {
	case r.Database() && !maintenance:
		x.Reply(200, jsonHeader, []byte(`{"status":"ready"}`), false)
	case r.Buffered != nil && r.Buffered():
		x.Reply(200, jsonHeader, []byte(`{"status":"buffering"}`), false)
	case maintenance:
		r.fail(x, 503, nil, "maintenance mode is on, and there is no file buffer that takes messages meanwhile; pushes get 503 until it is over")
	default:
		r.fail(x, 503, nil, "PostgreSQL does not answer; pushes get 503 until it does")
	}
}
