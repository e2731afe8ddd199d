#!/bin/sh
# lint.sh MODULE…: what can be seen in the source without running it. Says all it
# finds, and fails if there was anything.
set -u
cd "$(dirname "$0")/.."
tools=$PWD/tools/go.mod
failed=0
said=$(mktemp)
trap 'rm -f "$said"' EXIT

# check TITLE COMMAND…: the command must succeed and find nothing to print. What it
# says beside that (modules that are downloaded) matters only when it fails.
check() {
	title=$1
	shift
	out=$("$@" 2>"$said")
	status=$?
	if [ $status -ne 0 ] || [ -n "$out" ]; then
		echo "lint: $title"
		cat "$said"
		echo "$out"
		failed=1
	fi
}

in_module() (
	cd "$1" && shift && "$@"
)

# matches PATTERN FILE…: lines that match; none is success.
matches() {
	grep -nE "$@" /dev/null || true
}

sources=$(find . -name '*.go' ! -path '*/testdata/*')
check 'gofmt -l: these files are not formatted' gofmt -l $sources

for module in "$@"; do
	check "go vet in $module" in_module "$module" go vet ./...
	check "staticcheck in $module" in_module "$module" go tool -modfile="$tools" staticcheck ./...
done

# What is only built for trials must build.
check 'go vet of what is built for trials' go vet -tags plant,chaosclock ./cmd/queend ./pkg/filebuffer

# Text that came from outside reaches PostgreSQL as a parameter, never as SQL.
# pkg/schema is left out: it makes DDL of the files it embeds, and knows no request.
check 'SQL made by formatting: use parameters' matches \
	'(printf|Appendf)\(.*\b(SELECT|INSERT|UPDATE|DELETE|MERGE|CREATE|ALTER|DROP|TRUNCATE) ' \
	$(echo "$sources" | grep -E '^\./(cmd|pkg)/' | grep -vE '^\./pkg/schema/|_test\.go$')

for script in $(find . -name '*.sh'); do
	check "sh -n $script" sh -n "$script"
done
check 'bash -n .ci/run' bash -n .ci/run

exit $failed
