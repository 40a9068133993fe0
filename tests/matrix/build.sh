#!/usr/bin/env bash
# build.sh CMAKE SOURCE BUILD TARGETS [ARGUMENT...] - configures one variant and builds its targets; called by ctest's
# fixtures.
set -euo pipefail
cmake=$1 source=$2 build=$3
read -ra targets <<<"$4"
shift 4
"$cmake" -S "$source" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release "$@"
"$cmake" --build "$build" --target "${targets[@]}"
