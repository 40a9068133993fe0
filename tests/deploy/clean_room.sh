#!/usr/bin/env bash
# clean_room.sh - README's two commands as a new user runs them: on a bare Debian 12, from a clean clone.
#
#   tests/deploy/clean_room.sh FOLDER [COMMAND ...]
#
# Makes a debootstrap root (minbase, nothing else) below FOLDER, clones the committed tree into it, runs each COMMAND
# (default: deploy/quickstart.sh and tests/run.sh) there with an empty environment, and prints the time of each.
# Needs root, debootstrap and a Debian mirror (DAVID_DEBOOTSTRAP: an existing root, which is copied). Mounts and
# processes are in namespaces of their own and end with them; the root is removed at the end, the images stay in FOLDER.
set -euo pipefail

if [ $# -eq 0 ] || [ "$1" = --help ]; then
    sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "${BASH_SOURCE[0]}"
    exit $(($# == 0 ? 2 : 0))
fi
top=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
mkdir -p "$1"
folder=$(cd "$1" && pwd)
shift
[ $# -gt 0 ] || set -- deploy/quickstart.sh tests/run.sh
room=$folder/root
clear_away() { rm -rf --one-file-system "$room"; }
trap clear_away EXIT
clear_away

started=$SECONDS
if [ -n "${DAVID_DEBOOTSTRAP:-}" ]; then
    mkdir "$room"
    tar -C "$DAVID_DEBOOTSTRAP" --exclude='./proc/*' --exclude='./sys/*' -c . | tar -C "$room" -x
else
    debootstrap --variant=minbase bookworm "$room" >"$folder/debootstrap.log"
fi
cp /etc/resolv.conf /etc/hosts "$room/etc/"
git clone -q --no-hardlinks "$top" "$room/srv/david"
echo "clean room: $(git -C "$room/srv/david" rev-parse --short HEAD), $(dpkg-query --admindir="$room/var/lib/dpkg" -W | wc -l) packages, made in $((SECONDS - started)) s"

# Inside the namespaces: the usual mounts of a machine, then the command. $0 is the root, $1 the command.
# shellcheck disable=SC2016
inside='
mount --rbind /dev "$0/dev" && mount -t proc proc "$0/proc" && mount -t tmpfs tmpfs "$0/tmp" || exit 1
exec chroot "$0" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C sh -c "cd /srv/david && exec $1" </dev/null'
status=0
for command in "$@"; do
    started=$SECONDS
    echo "clean room: \$ $command"
    unshare --mount --pid --fork --kill-child bash -c "$inside" "$room" "$command" || status=$?
    echo "clean room: $command ended with $status after $((SECONDS - started)) s"
    [ "$status" -eq 0 ] || break
done
cp "$room"/srv/david/build/quickstart/*.before-after.png "$folder/" 2>/dev/null || true
exit "$status"
