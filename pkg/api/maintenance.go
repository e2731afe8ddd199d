package api

import (
	"strconv"
	"strings"
	"time"
)

// The keys under which the database keeps the maintenance flags.
const (
	pushMaintenance = "maintenance_mode"
	popMaintenance  = "pop_maintenance_mode"
)

// maintainWithin is the time that a change of a flag has at least: more than a push (2 s),
// because PostgreSQL may be slow just when somebody stops the pushes; less than the 5 s in
// which every request is answered. Whoever lets pushes wait longer lets it wait as long.
const maintainWithin = 4 * time.Second

// BufferStatus is the file buffer in numbers, for people.
type BufferStatus struct {
	Healthy         bool // it can be written
	DatabaseHealthy bool // what it holds can be stored

	Buffered    int64 // messages that this process has written since it started, and not stored yet
	Pending     int64 // messages that wait to be stored, those of earlier processes included
	Failed      int64 // messages that PostgreSQL refused and that were set aside
	FailedFiles int   // the files that they are in
	FailedBytes int64

	Bytes     int64         // of all that waits
	OldestAge time.Duration // of the message that has waited longest
	Drained   int64         // messages that were stored since this process started
	DrainRate float64       // messages a second, of late

	KeyMissing bool // nothing is stored: what waits was encrypted with a key that this process does not have
}

// addMaintenance makes the routes of maintenance, and of what an operator looks at in it.
func (r *Router) addMaintenance() {
	r.add("GET", "/api/v1/system/maintenance", r.showMaintenance)
	r.add("POST", "/api/v1/system/maintenance", r.setMaintenance)
	r.add("GET", "/api/v1/system/maintenance/pop", r.showPopMaintenance)
	r.add("POST", "/api/v1/system/maintenance/pop", r.setPopMaintenance)
	r.add("GET", "/api/v1/status/buffers", r.showBuffers)
}

// ReadMaintenance reads the maintenance flags: whether pushes go to the file buffer only,
// and whether pops are given nothing.
func ReadMaintenance(s Session) (push, pop bool, err error) {
	rows, err := s.Rows("system_state_read")
	if err != nil {
		return false, false, err
	}
	return yes(rows[0][0]), yes(rows[0][1]), nil
}

// showMaintenance is what operators look at in an outage: it always answers.
func (r *Router) showMaintenance(x Exchange) {
	r.maintenance(x, func(push, pop bool) []byte {
		b := r.buffer()
		var files, stats, answer object
		files.int("count", b.FailedFiles)
		files.int("failoverCount", b.FailedFiles)
		files.int("qos0Count", 0)
		files.json("totalBytes", strconv.AppendInt(nil, b.FailedBytes, 10))
		files.json("totalMB", double(float64(b.FailedBytes)/(1<<20)))
		stats.bool("dbHealthy", b.DatabaseHealthy)
		stats.json("failedCount", strconv.AppendInt(nil, b.Failed, 10))
		stats.json("failedFiles", files.end())
		stats.json("pendingCount", strconv.AppendInt(nil, b.Pending, 10))
		answer.bool("bufferHealthy", b.Healthy)
		answer.json("bufferStats", stats.end())
		answer.json("bufferedMessages", strconv.AppendInt(nil, b.Buffered, 10))
		answer.bool("maintenanceMode", push)
		answer.bool("popMaintenanceMode", pop)
		return answer.end()
	})
}

func (r *Router) showPopMaintenance(x Exchange) {
	r.maintenance(x, func(_, pop bool) []byte {
		message := "Pop maintenance mode is OFF. Normal operation."
		if pop {
			message = "Pop maintenance mode is ON. All POP operations return empty arrays."
		}
		var answer object
		answer.text("message", message)
		answer.bool("popMaintenanceMode", pop)
		return answer.end()
	})
}

// maintenance answers with the flags as the database has them, or, if it does not say so
// in time, as this process knows them. answer runs on the loop or in a goroutine.
func (r *Router) maintenance(x Exchange, answer func(push, pop bool) []byte) {
	if r.stores == nil || r.stores.Admin == nil || !r.Database() {
		x.Reply(200, jsonHeader, answer(r.knownMaintenance()), false)
		return
	}
	r.Counters.Admin.Requests.Add(1)
	admin := r.stores.Admin
	r.Offload(func() []byte { return answer(r.freshMaintenance(admin)) }, func(body []byte) {
		x.Reply(200, jsonHeader, body, false)
	})
}

// freshMaintenance asks the database. In a goroutine; how many there are is bounded by what
// admin takes.
func (r *Router) freshMaintenance(admin func(time.Duration, func(Session), func()) bool) (push, pop bool) {
	type flags struct{ push, pop, ok bool }
	read := make(chan flags, 1)
	taken := admin(r.Deadline, func(s Session) {
		push, pop, err := ReadMaintenance(s)
		read <- flags{push, pop, err == nil}
	}, func() {})
	if taken {
		select {
		case f := <-read:
			if f.ok {
				return f.push, f.pop
			}
		case <-time.After(r.Deadline):
		}
	}
	return r.knownMaintenance()
}

// knownMaintenance is what this process knows. Any goroutine.
func (r *Router) knownMaintenance() (push, pop bool) {
	if r.Maintenance == nil {
		return false, false
	}
	return r.Maintenance()
}

func (r *Router) setMaintenance(x Exchange) {
	r.maintain(x, pushMaintenance, func(on bool) []byte {
		r.set(&on, nil)
		message := "Maintenance mode DISABLED. Background processor will drain buffer to DB."
		if on {
			message = "Maintenance mode ENABLED. All PUSHes routing to file buffer."
		}
		b := r.buffer()
		var answer object
		answer.bool("bufferHealthy", b.Healthy)
		answer.json("bufferedMessages", strconv.AppendInt(nil, b.Buffered, 10))
		answer.bool("maintenanceMode", on)
		answer.text("message", message)
		return answer.end()
	})
}

func (r *Router) setPopMaintenance(x Exchange) {
	r.maintain(x, popMaintenance, func(on bool) []byte {
		r.set(nil, &on)
		message := "Pop maintenance mode DISABLED. Normal operation resumed."
		if on {
			message = "Pop maintenance mode ENABLED. All POP operations will return empty arrays."
		}
		var answer object
		answer.text("message", message)
		answer.bool("popMaintenanceMode", on)
		return answer.end()
	})
}

// maintain sets a flag for all processes. done, in a goroutine, has this one know what was
// committed, and returns the answer: who has heard it finds it so. If it may have been
// committed, nothing is believed: the database is asked every second.
func (r *Router) maintain(x Exchange, key string, done func(on bool) []byte) {
	body, err := readBody(x, true)
	on := body.yes("enabled")
	if err == nil && !on && string(body["enabled"]) != "false" {
		err = &refusal{400, "enabled (boolean) is required"}
	}
	if err != nil {
		r.adminFault(x, err)
		return
	}
	r.administerWithin(max(r.Deadline, maintainWithin), x, func(s Session) (outcome, error) {
		if _, err := s.Rows("system_state_write", key, on); err != nil {
			return outcome{}, err
		}
		return outcome{body: done(on)}, nil
	})
}

func (r *Router) set(push, pop *bool) {
	if r.SetMaintenance != nil {
		r.SetMaintenance(push, pop)
	}
}

// showBuffers shows what is in the file buffer. It asks nobody. What Queen shows comes first,
// as Queen shows it; the rest is how far the drain is.
func (r *Router) showBuffers(x Exchange) {
	b := r.buffer()
	var answer object
	answer.bool("dbHealthy", b.DatabaseHealthy)
	answer.json("failed", strconv.AppendInt(nil, b.Failed, 10))
	answer.json("pending", strconv.AppendInt(nil, b.Pending, 10))
	answer.int("worker", r.WorkerID)
	answer.json("bytes", strconv.AppendInt(nil, b.Bytes, 10))
	answer.json("drainRatePerSecond", double(b.DrainRate))
	answer.json("drainedTotal", strconv.AppendInt(nil, b.Drained, 10))
	answer.bool("keyMissing", b.KeyMissing)
	answer.json("oldestAgeMs", strconv.AppendInt(nil, b.OldestAge.Milliseconds(), 10))
	x.Reply(200, jsonHeader, answer.end(), false)
}

// buffer is the file buffer's status. Any goroutine.
func (r *Router) buffer() BufferStatus {
	if r.Buffer == nil {
		return BufferStatus{DatabaseHealthy: r.Database()}
	}
	return r.Buffer()
}

// double is a number that clients may take for a float: it has a point or an exponent.
func double(f float64) []byte {
	text := strconv.FormatFloat(f, 'g', -1, 64)
	if !strings.ContainsAny(text, ".e") {
		text += ".0"
	}
	return []byte(text)
}
