package main

import (
	"io"
	"os"
	"time"

	"github.com/mattn/go-isatty"
	"github.com/rs/zerolog"
)

// newLog makes the program's log on stderr: JSON, or lines for a person when
// stderr is a terminal.
func newLog(s *ServeCommand) zerolog.Logger {
	level, err := zerolog.ParseLevel(s.Logs.Level)
	if err != nil {
		panic("BUG: the log level was checked before: " + err.Error())
	}
	if s.Logs.Dev {
		level = min(level, zerolog.DebugLevel)
	}
	zerolog.TimeFieldFormat = time.RFC3339Nano
	zerolog.DurationFieldUnit = time.Second
	var out io.Writer = os.Stderr
	if s.Logs.Form == "text" || s.Logs.Form == "auto" && isatty.IsTerminal(os.Stderr.Fd()) {
		out = zerolog.ConsoleWriter{Out: os.Stderr, TimeFormat: "15:04:05.000"}
	}
	return zerolog.New(out).Level(level).With().Timestamp().Logger()
}
