# Keeps one PostgreSQL from outliving the process that started it.
#
#   sh -s supervise SOCKETS THROWAWAY postgres argument… <supervise.sh
#
# fd 3 is the read end of the lifeline, whose only other end is held by the owner
# (queend, or a test). A line "stop" asks for a stop. Its end without that line
# means that the owner is gone, kill -9 included: the kernel closes the pipe
# whatever happened. Then the directory SOCKETS is removed (if named), and with
# it THROWAWAY, a whole server that nobody wants to see again (if named).
#
# fd 4 is an flock that every process of this server inherits, so that it is free
# only when the last of them has ended. This script just holds it.
#
# Postgres is a child of this shell, which reaps it: its pid cannot become a
# stranger's before that, and 0.05 s after it nobody uses it any more.

sockets=$2 throwaway=$3
shift 3
"$@" 3<&- </dev/null &
pg=$!

# The processes of this server, from /proc: a machine may lack pgrep.
children() {
	for stat in /proc/[0-9]*/stat; do
		read -r line 2>/dev/null <"$stat" || continue
		set -- ${line##*) }
		[ "$2" = "$pg" ] && { stat=${stat#/proc/}; echo "${stat%/stat}"; }
	done
}

(
	exec 4<&-
	word=
	read -r word <&3
	trap '' TERM
	way=INT # fast: disconnect everybody, write a checkpoint
	gone=0
	if [ "$word" != stop ]; then
		gone=1
		[ -n "$throwaway" ] && way=QUIT # immediate: nobody needs the checkpoint
	fi
	# Whoever was paused hears no signal but this one.
	kill -CONT "$pg" $(children) 2>/dev/null
	ticks=0
	while kill -0 "$pg" 2>/dev/null; do
		# Said again each second: a postmaster that has only just been forked
		# still ignores it.
		[ $((ticks % 20)) = 0 ] && kill -"$way" "$pg" 2>/dev/null
		case $ticks in
		1200) way=QUIT ;;
		1400) way=KILL; kill -KILL $(children) 2>/dev/null ;;
		esac
		ticks=$((ticks + 1))
		sleep 0.05
	done
	exit "$gone"
) &
watcher=$!

# A service manager may signal all of us; queend alone decides when to stop.
# (Not earlier: what is ignored here would be ignored by the watcher too.)
trap '' HUP INT TERM QUIT
exec 3<&-
wait "$pg"
status=$?
kill "$watcher" 2>/dev/null
wait "$watcher" 2>/dev/null # or the shell says "Terminated"
if [ $? = 1 ]; then
	[ -n "$sockets" ] && rm -rf -- "$sockets"
	[ -n "$throwaway" ] && rm -rf -- "$throwaway"
fi
exit "$status"
