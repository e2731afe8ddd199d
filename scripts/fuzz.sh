#!/bin/sh
# fuzz.sh TIME MODULE…: fuzzes each target of each module for TIME. go test takes
# one target of one package at a time, so they are listed first.
set -eu
time=$1
shift
for module in "$@"; do
	(
		cd "$module"
		listed=$(go test -list '^Fuzz' ./...)
		# The names of a package come before its "ok" line.
		echo "$listed" | awk '
			/^Fuzz/ { names = names " " $1 }
			/^ok/ { n = split(names, name, " "); for (i = 1; i <= n; i++) print $2, name[i]; names = "" }
		' | while read -r package name; do
			echo "== $name of $package, $time"
			go test -run '^$' -fuzz "^$name\$" -fuzztime "$time" "$package"
		done
	)
done
