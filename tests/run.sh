#!/usr/bin/env bash
# run.sh - all tests that a change must pass: packages, build, sanitizers, fuzzing, lint, service.
#
#   tests/run.sh [--deploy] [--full] [--labels REGEX] [--build DIR]
#
# Builds into build/ (sanitizer and fuzz builds below it) and ends with ctest's summary of all of it.
#   --deploy   also the label `deploy`: container image, systemd unit, Prometheus (about five minutes more)
#   --full     all labels, also `slow`
#   --labels   only tests with such a label, in the syntax of ctest -L
# DAVID_REQUIRE_CUDA=1 makes a skipped CUDA test a failure.
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
build=$top/build
skip='^(deploy|slow)$'
labels=.
lists=("$top/deploy/packages-build.txt" "$top/deploy/packages-test.txt")
while [ $# -gt 0 ]; do
    case $1 in
    --deploy) skip='^slow$' ;;
    --full) skip='^$' ;;
    --labels)
        [ $# -ge 2 ] || { echo "--labels needs a regular expression" >&2; exit 2; }
        labels=$2
        shift
        ;;
    --build)
        [ $# -ge 2 ] || { echo "--build needs a folder" >&2; exit 2; }
        build=$2
        shift
        ;;
    -h | --help)
        sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
        exit 0
        ;;
    *)
        echo "unknown option '$1'; see --help" >&2
        exit 2
        ;;
    esac
    shift
done
[ "$skip" = '^(deploy|slow)$' ] || lists+=("$top/deploy/packages-deploy-test.txt")

started=$SECONDS
say() { printf '== %4d s  %s\n' "$((SECONDS - started))" "$*" >&2; }

# shellcheck source=deploy/packages.sh
. "$top/deploy/packages.sh"
say packages
install_packages "${lists[@]}"
say build
cmake -S "$top" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DDAVID_TESTS=ON -DDAVID_WERROR=ON >&2
cmake --build "$build" >&2
say test
status=0
ctest --test-dir "$build" -j "$(nproc)" -L "$labels" -LE "$skip" --no-tests=error --output-on-failure </dev/null ||
    status=$?
say "done (exit $status)"
exit "$status"
