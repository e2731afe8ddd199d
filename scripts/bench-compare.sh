#!/bin/sh
# bench-compare.sh [RECORD]: runs the micro-benchmarks of a push and compares them with
# the last record, bench/micro.txt; with RECORD they become the record.
#
# ROUNDS and BENCHTIME say how often and how long. The packages take turns, so that a
# minute in which the machine is busy does not fall on one of them alone.
set -eu
cd "$(dirname "$0")/.."
record=bench/micro.txt
packages='./pkg/httpparse ./pkg/queue ./pkg/asyncdb ./pkg/loop'

if [ -z "${1-}" ] && [ ! -s "$record" ]; then
	echo "bench-compare: there is no record to compare with; make one, of the state that is to be the measure: make bench-compare RECORD=1" >&2
	exit 1
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
for package in $packages; do
	go test -c -o "$work/${package##*/}" "$package"
done
for round in $(seq "${ROUNDS:-6}"); do
	echo "round $round of ${ROUNDS:-6}" >&2
	for package in $packages; do
		if ! (cd "$package" && "$work/${package##*/}" -test.run '^$' -test.bench '^BenchmarkPush' -test.benchmem -test.benchtime "${BENCHTIME:-200ms}") >"$work/said" 2>&1; then
			cat "$work/said" >&2
			echo "bench-compare: the benchmarks of $package failed" >&2
			exit 1
		fi
		grep -E '^(goos|goarch|pkg|cpu|Benchmark)' "$work/said" >>"$work/now"
	done
done

if [ -n "${1-}" ]; then
	cp "$work/now" "$record"
	echo "bench-compare: $record is the record now"
	exit
fi
go tool -modfile=tools/go.mod benchstat -ignore cpu -filter '.unit:(sec/op OR B/op OR allocs/op)' "record=$record" "now=$work/now"
