#!/usr/bin/env bash
# build.sh CMAKE SOURCE BUILD [ARGUMENT...] - configures and builds one variant; what ctest's fixtures call.
# A fuzz build (-DDAVID_FUZZ=ON) makes the fuzz targets alone.
set -euo pipefail
cmake=$1 source=$2 build=$3
shift 3
targets=()
for argument in "$@"; do
    [ "$argument" != -DDAVID_FUZZ=ON ] || targets=(--target fuzz_targets)
done
"$cmake" -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "$@"
"$cmake" --build "$build" "${targets[@]}"
