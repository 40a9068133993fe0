#!/usr/bin/env bash
# quickstart.sh - from a bare Debian 12 to restored photographs.
#
#   deploy/quickstart.sh [--keep]
#
# Installs packages (as root), builds into build/, starts the daemon with the shipped model on a free port, posts the
# degraded photographs of deploy/photos, writes the restored images and before/after images to build/quickstart,
# stops the daemon.
#   --keep   leaves the daemon running and prints its address
set -euo pipefail

top=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
keep=false
case ${1:-} in
'') ;;
--keep) keep=true ;;
-h | --help)
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit 0
    ;;
*)
    echo "unknown option '$1'; see --help" >&2
    exit 2
    ;;
esac

build=$top/build
out=$build/quickstart
log=$out/david.log
pid=
started=$SECONDS
say() { printf '== %3d s  %s\n' "$((SECONDS - started))" "$*"; }

stop() {
    [ -n "$pid" ] || return 0
    kill -TERM "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null || true
    pid=
}
trap stop EXIT

# shellcheck source=deploy/packages.sh
. "$top/deploy/packages.sh"
say "packages"
install_packages "$top/deploy/packages-build.txt" "$top/deploy/packages-run.txt" "$top/deploy/packages-quickstart.txt"
say "build"
if ! { cmake -S "$top" -B "$build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DDAVID_TESTS=OFF &&
    cmake --build "$build" --target david; } >"$build.log" 2>&1; then
    tail -n 40 "$build.log" >&2
    exit 1
fi
mkdir -p "$out"
mv "$build.log" "$out/build.log"

say "start"
"$build/david" serve --listen 127.0.0.1:0 --models "$top/models" --state "$out/state" \
    </dev/null >"$log" 2>&1 &
pid=$!
# The daemon was started with port 0: the kernel's choice is in /proc/net/tcp, found by the socket's inode.
port_of() {
    local inode
    for inode in $(find "/proc/$1/fd" -lname 'socket:*' -printf '%l\n' 2>/dev/null | tr -dc '0-9\n'); do
        awk -v inode="$inode" '$4 == "0A" && $10 == inode { split($2, a, ":"); print a[2] }' /proc/net/tcp
    done | head -n 1
}
url=
for _ in $(seq 600); do
    kill -0 "$pid" 2>/dev/null || {
        echo "the daemon stopped; its log:" >&2
        cat "$log" >&2
        exit 1
    }
    hex=$(port_of "$pid")
    [ -z "$hex" ] || url=http://127.0.0.1:$((16#$hex))
    [ -z "$url" ] || ! curl -fsS -o /dev/null "$url/readyz" 2>/dev/null || break
    sleep 0.1
done
curl -fsS -o /dev/null "$url/readyz"
say "ready at $url"

for image in "$top"/deploy/photos/*.*.png; do
    name=$(basename "$image" .png)
    task=${name##*.}
    curl -fsS -D "$out/$name.headers" -o "$out/$name.restored.png" --data-binary "@$image" \
        "$url/restore?task=$task&seed=1"
    /usr/bin/python3 "$top/deploy/beside.py" "$out/$name.before-after.png" "$image" "$out/$name.restored.png"
    say "$task  $(sed -n 's/^[Ss]erver-[Tt]iming: //p' "$out/$name.headers" | tr -d '\r')"
done

say "before and after, side by side:"
ls "$out"/*.before-after.png
if $keep; then
    disown "$pid"
    say "david runs on at $url (process $pid, log $log); stop it with: kill $pid"
    pid=
else
    stop
    say "stopped"
fi
