#!/usr/bin/env bash
# nvcc.sh LOG NVCC ARGUMENT... - compiles. Messages about registers and spills go to LOG, which
# tests/cuda/builds.py reads; the others are printed.
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
