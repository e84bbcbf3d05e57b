# shellcheck shell=bash
# Docker's engine for the duration of a script: used where it runs, else started and stopped again.

dockerd_pid=""

# start_docker LOG: several ways are tried, because kernels and containers differ in what they let an engine do.
start_docker() {
    local log=$1 options began
    if docker info >/dev/null 2>&1; then
        say "Docker's engine is already running"
        return 0
    fi
    for options in "" "--storage-driver=vfs" "--storage-driver=vfs --iptables=false --ip6tables=false"; do
        # The options are a list of words on purpose.
        # shellcheck disable=SC2086
        setsid dockerd $options </dev/null >>"$log" 2>&1 &
        dockerd_pid=$!
        began=$SECONDS
        while ((SECONDS - began < DOCKERD_READY_S_MAX)) && kill -0 "$dockerd_pid" 2>/dev/null; do
            if docker info >/dev/null 2>&1; then
                say "Docker's engine started${options:+ with ${options}}, storage driver $(docker info -f '{{.Driver}}')"
                return 0
            fi
            sleep 1
        done
        say "Docker's engine did not start${options:+ with ${options}}; its last lines:"
        tail -n 5 "$log"
        stop_docker
    done
    die "Docker's engine cannot be started here; see ${log}"
}

# stop_docker: end the engine that start_docker started, and no other.
stop_docker() {
    local began=$SECONDS
    [[ -n $dockerd_pid ]] || return 0
    kill "$dockerd_pid" 2>/dev/null || true
    while kill -0 "$dockerd_pid" 2>/dev/null; do
        if ((SECONDS - began >= DOCKERD_STOP_S_MAX)); then
            say "Docker's engine did not end in ${DOCKERD_STOP_S_MAX} s: killed"
            kill -9 "$dockerd_pid" 2>/dev/null || true
            break
        fi
        sleep 0.2
    done
    dockerd_pid=""
}

# compose ARGUMENT...: Compose as the plug-in where there is one, else Debian's docker-compose.
compose() {
    if docker compose version >/dev/null 2>&1; then
        docker compose "$@"
    else
        docker-compose "$@"
    fi
}
