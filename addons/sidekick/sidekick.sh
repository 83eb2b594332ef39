#!/bin/sh
# Starts a Godot server under Sidekick's watchdog.
#
# Finds the project around this addon and Godot, or runs an exported binary; repairs what an installation loses (the execute
# bit, .godot/extension_list.cfg); then runs the watchdog: signals reach it, its exit code is the script's. A watchdog that dies is
# started again and adopts the game, which has run on. With --no-restart the script becomes the watchdog by exec: for systemd and
# containers, which restart by themselves.
set -eu

usage() {
	cat <<'USAGE'
Starts a Godot server under Sidekick's watchdog: relaunched when it dies, its records kept and uploaded.

usage: sidekick.sh [OPTIONS] [WATCHDOG OPTIONS] [-- GAME ARGUMENTS]

  --engine FILE    run this exported game instead of the project
  --project DIR    the project (default: the one that holds this addon, then the current directory)
  --no-restart     leave a dead watchdog dead: for systemd and containers, which restart it themselves
  --help           this text

Watchdog options go to `sidekick-watchdog run` as they are, for example --config FILE, --name NAME, --data-dir DIR.
Without --config: ./sidekick.toml, else the one in the project's folder, or beside the exported game.
Game arguments reach the game as OS.get_cmdline_user_args().

Godot is $GODOT4_BIN, or godot4, or godot on the PATH.

A watchdog that is killed, or ends with a code that a restart can mend, is started again, at most 5 times in 60 seconds; the game
runs on meanwhile. The exit code is the watchdog's (128 + the signal's number where one killed it).

examples:
  addons/sidekick/sidekick.sh
  addons/sidekick/sidekick.sh --name lobby-1 --data-dir /var/lib/lobby-1 -- --map=arena
  ./sidekick.sh --engine ./game.x86_64 --config sidekick.toml
USAGE
}

# The watchdog's own exit codes: 2 usage, 4 the engine cannot be run.
fail() {
	code=$1
	shift
	printf 'sidekick.sh: %s\n' "$*" >&2
	exit "$code"
}

# The script's folder as it was called: an addons folder that is a symlink still leads to its project. And as it truly is.
here=$(CDPATH='' cd -L -- "$(dirname -- "$0")" && pwd -L)
script=$0
while [ -L "$script" ]; do
	target=$(readlink -- "$script")
	case $target in
		/*) script=$target ;;
		*) script=$(dirname -- "$script")/$target ;;
	esac
done
there=$(CDPATH='' cd -P -- "$(dirname -- "$script")" && pwd -P)

# $1 as an absolute path: the watchdog may run the engine in another folder.
absolute() {
	case $1 in
		/*) printf '%s\n' "$1" ;;
		*) printf '%s/%s\n' "$(pwd -L)" "${1#./}" ;;
	esac
}

# The folder with a project.godot at or above $1 becomes the project.
look_above() {
	project=$1
	while [ ! -f "$project/project.godot" ]; do
		[ "$project" != / ] || { project= && return 1; }
		project=$(dirname -- "$project")
	done
}

find_project() {
	if [ -n "$project" ]; then
		[ -f "$project/project.godot" ] || fail 2 "there is no project.godot in $project; give --project the project's folder"
		project=$(CDPATH='' cd -L -- "$project" && pwd -L)
	else
		look_above "$here" || look_above "$there" || look_above "$(pwd -L)" ||
			fail 2 "no project.godot at or above $here nor $(pwd -L); use --project DIR, or --engine FILE for an exported game"
	fi
}

find_godot() {
	if [ -n "${GODOT4_BIN:-}" ]; then
		command -v "$GODOT4_BIN" >/dev/null 2>&1 || fail 4 "GODOT4_BIN is $GODOT4_BIN, which cannot be executed; set it to a Godot 4.5 or later"
		case $GODOT4_BIN in */*) godot=$(absolute "$GODOT4_BIN") ;; *) godot=$GODOT4_BIN ;; esac
	elif command -v godot4 >/dev/null 2>&1; then
		godot=godot4
	elif command -v godot >/dev/null 2>&1; then
		godot=godot
	else
		fail 4 "no Godot found; put godot on the PATH, set GODOT4_BIN, or use --engine FILE for an exported game"
	fi
}

find_watchdog() {
	case $(uname -s).$(uname -m) in
		Linux.x86_64 | Linux.amd64) platform=linux.x86_64 ;;
		*) fail 4 "there is no watchdog for $(uname -s) on $(uname -m) yet; Linux on x86_64 only" ;;
	esac
	# In the addon, or beside an exported game, where the export puts it.
	for watchdog in "${project:+$project/addons/sidekick/bin/$platform}" "$here/bin/$platform" "$there/bin/$platform" \
		"${engine:+$(dirname -- "$engine")}" "$here"; do
		watchdog=$watchdog/sidekick-watchdog
		[ ! -f "$watchdog" ] || break
	done
	[ -f "$watchdog" ] || fail 4 "the watchdog is missing: $here/bin/$platform/sidekick-watchdog; install the addon's release, or build it as the README says"
	if [ ! -x "$watchdog" ]; then
		chmod +x "$watchdog" 2>/dev/null || fail 4 "$watchdog cannot be executed, and its permissions cannot be changed; run: chmod +x '$watchdog'"
	fi
}

# Godot loads only the extensions that this list names, and says nothing of others.
write_extension_list() {
	[ -f "$project/addons/sidekick/sidekick.gdextension" ] || fail 2 "the addon is not in $project/addons/sidekick; copy it there"
	entry=res://addons/sidekick/sidekick.gdextension
	list=$project/.godot/extension_list.cfg
	if [ -f "$list" ] && tr -d '\r' <"$list" | grep -Fqx "$entry"; then
		return
	fi
	if ! mkdir -p "$project/.godot" 2>/dev/null || ! : 2>/dev/null >>"$list"; then
		fail 2 "$list does not name the extension and cannot be written; add the line $entry to it"
	fi
	# A last line without its end would swallow ours.
	[ ! -s "$list" ] || [ -z "$(tail -c 1 "$list")" ] || echo >>"$list"
	echo "$entry" >>"$list"
}

# Named classes and imported assets need one import. Its exit code says nothing on a first run (godotengine/godot#111048).
import_once() {
	[ ! -e "$project/.godot/global_script_class_cache.cfg" ] && [ ! -e "$project/.godot/uid_cache.bin" ] || return 0
	needing=$(find -L "$project" -path "$project/.godot" -prune -o -path "$project/addons" -prune -o \
		-name '*.import' -print -o -name '*.gd' -exec grep -q '^class_name ' {} \; -print 2>/dev/null | head -n 1)
	[ -n "$needing" ] || return 0
	echo 'sidekick.sh: importing the project once' >&2
	"$godot" --headless --path "$project" --import >/dev/null 2>&1 || :
}

# The watchdog looks for its file in the current directory only; a service starts us from anywhere.
find_config() {
	config=
	[ -z "$has_config" ] && [ -z "${SIDEKICK_CONFIG:-}" ] && [ ! -e sidekick.toml ] || return 0
	if [ -n "$engine" ]; then config=$(dirname -- "$engine")/sidekick.toml; else config=$project/sidekick.toml; fi
	[ -e "$config" ] || config=
}

# Puts the watchdog's command line together in "$@": its options as given, then the engine and the game's arguments.
engine=
project=
prepare() {
	if [ -n "$engine" ]; then
		[ -f "$engine" ] || fail 4 "the game $engine does not exist; give --engine the exported binary"
		[ -x "$engine" ] || chmod +x "$engine" 2>/dev/null || fail 4 "$engine cannot be executed; run: chmod +x '$engine'"
		engine=$(absolute "$engine")
	else
		find_project
		find_godot
		write_extension_list
		import_once
	fi
	find_watchdog
	find_config
}

left=$#
has_config=
no_restart=
is_game=
wants=
# Where the watchdog of these options is found: their --config and --data-dir.
at_config=
at_data_dir=
names=
while [ "$left" -gt 0 ]; do
	argument=$1
	shift
	left=$((left - 1))
	if [ -n "$is_game" ]; then
		set -- "$@" "$argument"
		continue
	fi
	if [ -n "$wants" ]; then
		case $wants in
			engine) engine=$argument ;;
			project) project=$argument ;;
		esac
		wants=
		continue
	fi
	case $argument in
		--engine) wants=engine ;;
		--engine=*) engine=${argument#--engine=} ;;
		--project) wants=project ;;
		--project=*) project=${argument#--project=} ;;
		--no-restart) no_restart=1 ;;
		-h | --help)
			usage
			exit 0
			;;
		--)
			is_game=1
			prepare
			if [ -n "$engine" ]; then
				set -- "$@" -- "$engine" --headless --
			else
				set -- "$@" -- "$godot" --headless --path "$project" --
			fi
			;;
		*)
			case $argument in --config | --config=*) has_config=1 ;; esac
			case $names in
				config) at_config=$argument ;;
				data_dir) at_data_dir=$argument ;;
			esac
			names=
			case $argument in
				--config) names=config ;;
				--config=*) at_config=${argument#--config=} ;;
				--data-dir) names=data_dir ;;
				--data-dir=*) at_data_dir=${argument#--data-dir=} ;;
			esac
			set -- "$@" "$argument"
			;;
	esac
done
[ -z "$wants" ] || fail 2 "--$wants needs a value"
if [ -z "$is_game" ]; then
	prepare
	if [ -n "$engine" ]; then
		set -- "$@" -- "$engine" --headless
	else
		set -- "$@" -- "$godot" --headless --path "$project"
	fi
fi
[ -z "$config" ] || set -- --config "$config" "$@"
at_config=${at_config:-$config}
[ -z "$no_restart" ] || exec "$watchdog" run "$@"

# Restarts in the last so many seconds, and no more of them than that; each waits longer than the one before.
restart_window=60
restarts_max=5
# Longer than the watchdog needs from its start until it can be asked to end.
start_time=1

(: <&0) 2>/dev/null || exec </dev/null

# In a session of its own a terminal's Ctrl-C does not reach it a second time, which would mean "end at once".
session=
! command -v setsid >/dev/null 2>&1 || session=setsid

# The first signal that asked for the end; whether one came just now; whether one has reached the watchdog.
asked=
interrupted=
delivered=
pid=
forward() {
	asked=${asked:-$1}
	interrupted=1
	if [ -n "$pid" ]; then
		delivered=1
		kill -s "$1" "$pid" 2>/dev/null || :
	fi
}
trap 'forward TERM' TERM
trap 'forward INT' INT
trap 'forward HUP' HUP
trap 'forward QUIT' QUIT

# Runs the watchdog to its end, which is then in $code.
watch() {
	delivered=
	# Its standard input is ours: a shell gives a background process none.
	$session "$watchdog" run "$@" <&0 &
	pid=$!
	# Asked to end while there was no watchdog: the game runs on, and only a watchdog ends it well.
	if [ -n "$asked" ] && [ -z "$delivered" ]; then
		sleep "$start_time" || :
		[ -n "$delivered" ] || kill -s "$asked" "$pid" 2>/dev/null || :
	fi
	while :; do
		interrupted=
		code=0
		wait "$pid" || code=$?
		# A trapped signal ends the wait, not the watchdog.
		[ -n "$interrupted" ] && kill -0 "$pid" 2>/dev/null || break
	done
	pid=
}

# Whether to start again one that ended with $code. Not one that was asked to end, is content, or says what a human must mend: usage,
# configuration, engine, crash loop, another watchdog, extension, versions.
is_mendable() {
	[ -z "$asked" ] || return 1
	case $code in
		0 | 2 | 3 | 4 | 5 | 7 | 11 | 12) return 1 ;;
	esac
}

# The pid of the watchdog that answers for the data directory, if one does: the first one in its status.
other_pid() {
	"$watchdog" status --json ${at_config:+--config "$at_config"} ${at_data_dir:+--data-dir "$at_data_dir"} 2>/dev/null </dev/null |
		tr ',{' '\n\n' | sed -n 's/^ *"pid" *: *\([0-9][0-9]*\).*/\1/p' | head -n 1
}

# A pause that a signal ends.
nap() {
	sleep "$1" &
	wait $! || :
}

is_alive() {
	kill -0 "$1" 2>/dev/null && ! grep -qs ') Z ' "/proc/$1/stat"
}

# Hands what asked for the end on to the watchdog that another has started, and waits for its end.
end_other() {
	pid=$(other_pid)
	[ -n "$pid" ] || exit "$code"
	kill -s "$asked" "$pid" 2>/dev/null || :
	while is_alive "$pid"; do
		nap 0.2
	done
	exit 0
}

# After a death of our watchdog the data directory may be locked by one that the game has brought back
# (sidekick/watchdog/respawn). Returns when none answers any more.
await_other() {
	[ -n "$pause_other" ] || echo 'sidekick.sh: the game has brought another watchdog back; waiting until that one ends' >&2
	while [ -z "$asked" ]; do
		pause_other=$((${pause_other:-0} > 0 ? pause_other * 2 : 1))
		[ "$pause_other" -le 60 ] || pause_other=60
		nap "$pause_other"
		[ -z "$asked" ] || break
		[ -n "$(other_pid)" ] || return 0
	done
	end_other
}

has_died=
pause_other=
restarts=
while :; do
	watch "$@"
	if [ "$code" -eq 7 ] && [ -n "$has_died" ]; then
		await_other
		continue
	fi
	pause_other=
	is_mendable || exit "$code"
	has_died=1
	now=$(date +%s)
	recent=
	count=0
	for at in $restarts; do
		if [ $((now - at)) -lt "$restart_window" ]; then
			recent="$recent $at"
			count=$((count + 1))
		fi
	done
	if [ "$count" -ge "$restarts_max" ]; then
		printf 'sidekick.sh: the watchdog ended with code %s, the %sth time in %s s; not started again\n' "$code" "$((count + 1))" "$restart_window" >&2
		exit "$code"
	fi
	restarts="$recent $now"
	# At once, then 1, 2, 4, 8 seconds.
	pause=$((count > 0 ? 1 << (count - 1) : 0))
	printf 'sidekick.sh: the watchdog ended with code %s; started again in %s s, the game runs on\n' "$code" "$pause" >&2
	if [ "$pause" -gt 0 ]; then
		sleep "$pause" &
		wait $! || :
	fi
done
