#!/usr/bin/env bash
# fuzz.sh BUILD TARGET - one libFuzzer target for $DAVID_FUZZ_SECONDS (30) seconds.
# Starts from the committed seeds in tests/fuzz/corpus/TARGET and keeps what it finds below the build.
set -euo pipefail
build=$1 target=$2
seeds=$(cd "$(dirname "${BASH_SOURCE[0]}")/../fuzz" && pwd)/corpus/$target
found=$build/corpus/$target
mkdir -p "$found"
corpora=("$found")
[ ! -d "$seeds" ] || corpora+=("$seeds")
cd "$build"
exec "tests/fuzz/fuzz_$target" -max_total_time="${DAVID_FUZZ_SECONDS:-30}" -timeout=10 -rss_limit_mb=2048 \
    -max_len=65536 -print_final_stats=1 -artifact_prefix="$build/finding-$target-" "${corpora[@]}"
