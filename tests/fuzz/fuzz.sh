#!/usr/bin/env bash
# fuzz.sh PROGRAM CORPUS ARGUMENT... - runs one libFuzzer program for $DAVID_FUZZ_SECONDS (30) seconds.
# New inputs go into CORPUS, failing inputs beside it. A minute on one input is a finding; ten seconds
# may be a busy machine.
set -euo pipefail
program=$1 corpus=$2
shift 2
mkdir -p "$corpus"
exec "$program" -max_total_time="${DAVID_FUZZ_SECONDS:-30}" -timeout=60 -rss_limit_mb=2048 -print_final_stats=1 \
    -artifact_prefix="${corpus%.corpus}-" "$corpus" "$@"
