# shellcheck shell=bash
# shellcheck disable=SC2034  # the constants are for the scripts that read this file
# What the scripts of .ci share: limits with their units, headings with seconds, packages on demand.

readonly KAFKA_VERSION=4.4.0
# The command-line tools are published apart from the broker; this is the newest release of theirs in Maven Central.
readonly KAFKA_TOOLS_VERSION=4.3.1
readonly KAFKA_IMAGE="apache/kafka:${KAFKA_VERSION}"
readonly BASE_IMAGE=skillaudit-base:ci
readonly SUITE=bookworm
readonly MIRROR="${DEBIAN_MIRROR:-http://deb.debian.org/debian}"
readonly CACHE="${CI_CACHE:-/var/tmp/skillaudit-ci}"
readonly DOCKERD_READY_S_MAX=60
readonly DOCKERD_STOP_S_MAX=30
readonly COMPOSE_READY_S_MAX=180

say() { printf '%s\n' "$*" >&2; }

die() {
    say "ci: $*"
    exit 1
}

# step TITLE COMMAND...: run the command under a heading and say how long it took. The command runs in this shell
# and not as a condition, because `set -e` does not work inside a condition: a failure ends the script where it happens.
step() {
    local title=$1 began=$SECONDS
    shift
    say ""
    say "=== ${title}"
    "$@"
    say "--- ${title}: $((SECONDS - began)) s"
}

# packages NAME...: install the Debian packages that are missing.
packages() {
    local missing=() name
    for name in "$@"; do
        [[ "$(dpkg-query -W -f='${db:Status-Abbrev}' "$name" 2>/dev/null || true)" == ii* ]] || missing+=("$name")
    done
    if ((${#missing[@]} == 0)); then
        return 0
    fi
    say "installing: ${missing[*]}"
    apt-get -o Acquire::Retries=3 update -qq >&2
    DEBIAN_FRONTEND=noninteractive apt-get -o Acquire::Retries=3 -o Dpkg::Use-Pty=0 install -y -qq --no-install-recommends "${missing[@]}" >&2
}

# wait_for SECONDS WHAT COMMAND...: try the command once a second until it succeeds; fail when the seconds are over.
wait_for() {
    local limit_s=$1 what=$2 began=$SECONDS
    shift 2
    until "$@" >/dev/null 2>&1; do
        ((SECONDS - began < limit_s)) || die "${what}: not ready after ${limit_s} s"
        sleep 1
    done
}

image_exists() { docker image inspect "$1" >/dev/null 2>&1; }
