#!/usr/bin/env bash
# long_run.sh - a training run in the background for days, with stops and restarts.
#
#   long_run.sh new FOLDER DAVID TRAIN-ARGUMENTS...    begins a run: FOLDER gets a copy of the program, its arguments and all output
#   long_run.sh start FOLDER [MORE ARGUMENTS...]       resumes from the newest checkpoint; added arguments come last (--steps, --lr, --decay)
#   long_run.sh stop FOLDER                            stops the run at a checkpoint and waits for it
#   long_run.sh status FOLDER                          last step, processor hours, last scores
#
# It runs with the idle policy (chrt --idle 0): every other process has priority. FOLDER/log.jsonl holds the lines of
# `david train --json`, over all starts. FOLDER must be outside the tree.
set -euo pipefail

say() { echo "long_run.sh: $*" >&2; }

running() { # the process of FOLDER's run, or nothing
    local pid
    pid=$(cat "$1/pid" 2>/dev/null) || return 0
    if [ "$(readlink "/proc/$pid/exe" 2>/dev/null)" = "$(realpath "$1")/david" ]; then echo "$pid"; fi
}

start() {
    local folder args
    folder=$(realpath "$1")
    if [ -n "$(running "$folder")" ]; then
        say "$folder: it runs already"
        return 1
    fi
    mapfile -d '' -t args <"$folder/arguments"
    cd "$folder"
    setsid chrt --idle 0 ./david train "${args[@]}" --json --resume "${@:2}" >>log.jsonl 2>>errors.txt </dev/null &
    echo $! >pid
    say "$folder: process $!"
}

stop() {
    local pid
    pid=$(running "$1")
    if [ -z "$pid" ]; then
        say "$1: it does not run"
        return 0
    fi
    kill -TERM "$pid"
    tail -f --pid="$pid" /dev/null
    tail -n 1 "$1/errors.txt" >&2
}

# Processor seconds start at 0 with each start: the totals of all starts are added.
# shellcheck disable=SC2016
hours='match($0, /"processor_seconds":[0-9.]+/) { s = substr($0, RSTART + 20, RLENGTH - 20) + 0; if (s < last) sum += last; last = s }
    END { printf "%.2f processor hours\n", (sum + last) / 3600 }'

status() {
    if [ -n "$(running "$1")" ]; then echo "runs as process $(running "$1")"; else echo "does not run"; fi
    awk "$hours" "$1/log.jsonl"
    grep -v validation "$1/log.jsonl" | tail -n 1
    grep validation "$1/log.jsonl" | tail -n 3
}

[ $# -ge 2 ] || {
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 2
}
case $1 in
new)
    mkdir -p "$2"
    cp "$3" "$2/david"
    printf '%s\0' "${@:4}" >"$2/arguments"
    start "$2"
    ;;
start) start "${@:2}" ;;
stop) stop "$2" ;;
status) status "$2" ;;
*)
    say "unknown command $1"
    exit 2
    ;;
esac
