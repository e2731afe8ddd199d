#!/bin/sh
# Sees to it that PostgreSQL's binaries are on this machine: finds them (as queend
# itself does), or installs them where apt-get may be used without a password, or
# says in one sentence what to type and fails.
#
# Only the binaries are wanted. Debian's package makes a cluster and starts it on
# port 5432 when it is first installed; we tell it beforehand not to, and take the
# word back afterwards, so that a PostgreSQL the user installs later is as usual.
set -eu
cd "$(dirname "$0")/.."

go build -o bin/find-postgres ./scripts/find-postgres
if bin/find-postgres >/dev/null 2>&1; then
	exit 0
fi

if [ "$(id -u)" = 0 ]; then
	as_root=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
	as_root=sudo
else
	as_root=no
fi
if [ "$as_root" = no ] || [ -n "${QUEEND_POSTGRES_BIN:-}" ] || ! command -v apt-get >/dev/null; then
	bin/find-postgres >&2 || exit 1
fi

echo "PostgreSQL is not installed; installing its binaries with apt-get, without a server" >&2
# $1: what the shell is called, so that the script can be read as a whole.
$as_root env DEBIAN_FRONTEND=noninteractive sh -eu -c '
	word=/etc/postgresql-common/createcluster.d/queend.conf
	mkdir -p /etc/postgresql-common/createcluster.d
	trap "rm -f $word" EXIT
	trap "exit 1" HUP INT TERM
	echo "create_main_cluster = false" >$word
	# A machine whose lists are old or not there yet; one mirror that is down is
	# no reason to give up.
	apt-get -q update || true
	apt-get -q -y -o DPkg::Lock::Timeout=300 install --no-install-recommends postgresql
' >&2

bin/find-postgres >/dev/null
