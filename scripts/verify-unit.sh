#!/bin/sh
# Has systemd judge packaging/queend.service: no complaint, and an exposure of 1.2 or
# less. systemd-analyze also looks whether the program is there, so it is shown a
# copy of the unit whose program is one that surely is.
set -eu
unit=$(dirname "$0")/../packaging/queend.service
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

sed 's#^ExecStart=/usr/bin/queend#ExecStart=/bin/sh#' "$unit" >"$dir/queend.service"
if cmp -s "$unit" "$dir/queend.service"; then
	echo 'the unit does not start /usr/bin/queend' >&2
	exit 1
fi
complaints=$(systemd-analyze verify "$dir/queend.service" 2>&1) || {
	echo "$complaints" >&2
	exit 1
}
# Some complaints are no failures to systemd. They are to us, when they are about
# this unit and not about another on this machine.
if echo "$complaints" | grep -F queend >&2; then
	exit 1
fi
# Tenths: 12 is 1.2.
systemd-analyze security --offline=true --threshold=12 "$dir/queend.service" >"$dir/judgement" || {
	cat "$dir/judgement" >&2
	exit 1
}
tail -n 1 "$dir/judgement"
