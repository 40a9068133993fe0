# shellcheck shell=bash
# packages.sh - sourced: install_packages LIST... installs the Debian packages that the files list.
#
# It installs only missing packages, so it needs neither root nor a network where all are installed.

install_packages() {
    local wanted missing=() name
    wanted=$(sed -e 's/#.*//' -e '/^[[:space:]]*$/d' "$@" | sort -u)
    for name in $wanted; do
        [ "$(dpkg-query -W -f='${db:Status-Status}' "$name" 2>/dev/null)" = installed ] ||
            missing+=("$name")
    done
    [ "${#missing[@]}" -gt 0 ] || return 0
    if [ "$(id -u)" -ne 0 ]; then
        echo "missing packages (run as root, or install them first): ${missing[*]}" >&2
        return 1
    fi
    echo "installing ${#missing[@]} packages: ${missing[*]}" >&2
    # RUNLEVEL=1: packages with a service (prometheus) must not start it.
    DEBIAN_FRONTEND=noninteractive apt-get update -qq >&2 &&
        DEBIAN_FRONTEND=noninteractive RUNLEVEL=1 \
            apt-get install -y -qq --no-install-recommends "${missing[@]}" </dev/null >&2
}
