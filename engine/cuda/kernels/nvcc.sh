#!/usr/bin/env bash
# nvcc.sh LOG NVCC ARGUMENT... - compiles, keeps what is said of registers and spills in LOG (tests/cuda/builds.py reads it), and says the rest.
set -uo pipefail
log=$1
shift
"$@" -Xptxas=-v 2>"$log.part"
code=$?
if [ "$code" -ne 0 ]; then
    cat "$log.part" >&2
    exit "$code"
fi
grep -v '^ptxas info\|^ *[0-9]* bytes stack frame\|^$' "$log.part" >&2
mv "$log.part" "$log"
