#!/usr/bin/env bash
# lint.sh format|shell|cppcheck|tidy [BUILD] - one tool over the whole tree; run from the top folder.
# BUILD holds compile_commands.json (and cppcheck's cache).
set -euo pipefail
shopt -s globstar nullglob

ours=({proto,engine,server,cli}/**/*.c)
[ "${#ours[@]}" -gt 0 ] || { echo "no sources: not the top folder?" >&2; exit 1; }

case ${1:-} in
format)
    files=({proto,engine,server,cli,tests}/**/*.{c,h,cu,cuh,cpp})
    clang-format --dry-run -Werror --style=file "${files[@]}"
    echo "${#files[@]} files are formatted"
    ;;
shell)
    files=(.ci/run {deploy,tests}/**/*.sh)
    shellcheck -x "${files[@]}"
    echo "${#files[@]} scripts are clean"
    ;;
cppcheck)
    mkdir -p "$2/cppcheck"
    # -I .: the .def tables are included as code. System headers are not read; posix.cfg describes them.
    cppcheck --quiet --error-exitcode=1 --std=c11 --language=c --library=posix -j 2 -I . -D_GNU_SOURCE \
        --enable=warning,performance,portability --inline-suppr --suppress=missingIncludeSystem --suppressions-list=tests/lint/cppcheck.txt \
        --cppcheck-build-dir="$2/cppcheck" "${ours[@]}"
    echo "${#ours[@]} files are clean"
    ;;
tidy)
    # Only files that this build compiles: a file for another processor has no entry.
    mapfile -d '' -t files < <(/usr/bin/python3 tests/lint/commands.py "$2" "$2/tidy")
    [ "${#files[@]}" -gt 0 ] || { echo "nothing of ours in $2/compile_commands.json" >&2; exit 1; }
    printf '%s\0' "${files[@]}" | xargs -0 -P 2 -n 1 clang-tidy --quiet -p "$2/tidy"
    echo "${#files[@]} files are clean"
    ;;
*)
    echo "usage: lint.sh format|shell|cppcheck|tidy [BUILD]" >&2
    exit 2
    ;;
esac
