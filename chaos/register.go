package main

import (
	"fmt"
	"os"
	"strings"
	"time"
)

// The register is a table with a line for each trial that was run, good or bad: columns
// separated by tabs, in the order of registerColumns.
var registerColumns = []string{"date", "commit", "row", "load", "seed", "messages", "faults", "result", "remark"}

// appendRegister adds a line, and the head to a new file.
func appendRegister(path string, columns ...string) error {
	if len(columns) != len(registerColumns) {
		panic("BUG: a line of the register has other columns")
	}
	file, err := os.OpenFile(path, os.O_CREATE|os.O_APPEND|os.O_RDWR, 0o644)
	if err != nil {
		return fmt.Errorf("cannot open the register: %w", err)
	}
	defer file.Close()
	info, err := file.Stat()
	if err != nil {
		return err
	}
	text := ""
	if info.Size() == 0 {
		text = strings.Join(registerColumns, "\t") + "\n"
	}
	clean := strings.NewReplacer("\t", " ", "\n", " ", "\r", " ")
	for i := range columns {
		columns[i] = clean.Replace(columns[i])
	}
	text += strings.Join(columns, "\t") + "\n"
	_, err = file.WriteString(text)
	return err
}

// The results of a trial.
const (
	passed = "pass"
	late   = "late" // all is right, and something took longer than it may
	failed = "FAIL"
)

func (t *Trial) result() string {
	result := passed
	for _, v := range t.Violations {
		if v.Promise != "I8" {
			return failed
		}
		result = late
	}
	return result
}

func (t *Trial) line(version, row, size string) []string {
	result, remarks := t.result(), t.Remarks
	if len(t.Violations) > 0 {
		promises := map[string]int{}
		for _, v := range t.Violations {
			promises[v.Promise]++
		}
		remarks = append([]string{fmt.Sprintf("broken %v, first: %.200s", promises, t.Violations[0])}, remarks...)
	}
	if text, err := os.ReadFile("/proc/loadavg"); err == nil {
		one, _, _ := strings.Cut(string(text), " ")
		remarks = append(remarks, "load average "+one)
	}
	return []string{
		time.Now().UTC().Format("2006-01-02"), version, row, size, fmt.Sprint(t.Seed), fmt.Sprint(t.Messages), t.Faults, result, strings.Join(remarks, "; "),
	}
}
