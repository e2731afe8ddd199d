# Everything that is done with this tree by hand or by a machine. `make` lists it.

# Where `make run` listens; both are read from the environment too.
HOST ?= 127.0.0.1
PORT ?= 6632

# How long `make fuzz` spends on each target.
FUZZTIME ?= 60s

# The toolchain that is installed, never one downloaded behind our back.
export GOTOOLCHAIN := local

VERSION := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)

# Modules with tests of their own; tools/ only pins the linter.
MODULES := $(filter-out tools/,$(sort $(dir $(wildcard go.mod */go.mod))))

# What `make chaos` does: see `go run ./chaos -list`.
ROW    ?= 14
TRIALS ?= 3
SEED   ?= 1
LOAD   ?= small
BUDGET ?=

.PHONY: help build run test test-race fuzz bench chaos lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

build: ## build bin/queend
	CGO_ENABLED=0 go build -trimpath -ldflags '-X main.version=$(VERSION)' -o bin/queend ./cmd/queend

run: build postgres ## build and run queend with a private PostgreSQL (HOST, PORT)
	bin/queend --local-postgres --host $(HOST) --port $(PORT)

test: postgres ## run all tests; needs nothing running, leaves nothing running
	@set -e; for module in $(MODULES); do (cd $$module && set -x && go test -count=1 -timeout 20m $(TESTFLAGS) ./...); done

VERSIONS ?= 13 14 15 16 17 18
.PHONY: test-versions
test-versions: ## run all tests on other versions of PostgreSQL, from npm (VERSIONS="13 18")
	@sh scripts/test-versions.sh $(VERSIONS)

test-race: postgres ## run all tests with the race detector
	@set -e; for module in $(MODULES); do (cd $$module && set -x && CGO_ENABLED=1 go test -race -count=1 -timeout 40m $(TESTFLAGS) ./...); done

fuzz: postgres ## fuzz every target for FUZZTIME
	@sh scripts/fuzz.sh '$(FUZZTIME)' $(MODULES)

.PHONY: bench-quick bench-full
bench: build postgres ## measure every curve of bench/ in 10 minutes: bench/report/report.html
	cd bench && go run . report

bench-quick: build postgres ## the table of bench/, in under a minute
	cd bench && go run . quick

bench-full: build postgres ## every point of every curve, 10 million rows: hours
	cd bench && go run . report -full

.PHONY: bench-compare profile
bench-compare: ## compare the micro-benchmarks with the last record (RECORD=1: they become it)
	@sh scripts/bench-compare.sh $(RECORD)

profile: postgres ## where the time of a run goes: CPU, allocations, waits; into profile/ (PROFILE='-path PATH …')
	cd bench && go run . profile -out ../profile $(PROFILE)

chaos: postgres ## do harm and check the promises (ROW, TRIALS, SEED, LOAD, BUDGET=30m)
	go run ./chaos -row $(ROW) -trials $(TRIALS) -seed $(SEED) -load $(LOAD) $(if $(BUDGET),-budget $(BUDGET))

lint: ## gofmt, vet, staticcheck and the rules of the house
	@sh scripts/lint.sh $(MODULES)

clean: ## remove what was built
	rm -rf bin

# PostgreSQL's binaries: found, or installed where that is possible.
.PHONY: postgres
postgres:
	@sh scripts/ensure-postgres.sh
