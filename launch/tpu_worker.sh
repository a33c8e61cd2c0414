#!/usr/bin/env bash
# The part of tpu_vm.sh that runs on each worker of a slice. tpu_vm.sh copies this file and the
# checkout there.
#
#   tpu_worker.sh install COMMIT SETUP   runs the command SETUP, unpacks the checkout, makes .venv
#   tpu_worker.sh start WORD...          python -m aggnets_jax WORD..., in the background; train by default
#   tpu_worker.sh follow BYTE            prints the log from that byte on, until the run ends
#   tpu_worker.sh status                 none, running, ended CODE or stopped CODE; and its flags
#   tpu_worker.sh stop                   SIGTERM: the run saves its state
set -euo pipefail

readonly RUN="$HOME/aggnets_run"           # what the run leaves: log, pid, exit_code, flags
readonly CHECKOUT="$HOME/aggnets_checkout"
readonly PACKED="$HOME/aggnets_checkout.tar.gz"

fail() {
    echo "error: $1" >&2
    exit 1
}

running() {
    # After a restart of the machine, the number may belong to another process.
    [[ -s $RUN/pid ]] && tr '\0' ' ' 2>/dev/null <"/proc/$(<"$RUN/pid")/cmdline" \
        | grep -q -e '-m aggnets_jax '
}

make_environment() {
    local python
    for python in python3.13 python3.12 python3.11 python3; do
        if "$python" -c 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))' \
            2>/dev/null; then
            "$python" -m venv --clear .venv
            return
        fi
    done
    # Images of Ubuntu 22.04 have Python 3.10. The variable is for images whose pip refuses otherwise.
    PIP_BREAK_SYSTEM_PACKAGES=1 python3 -m pip install --quiet --user uv
    "$HOME/.local/bin/uv" venv --quiet --clear --seed --python 3.12 .venv
}

install() {
    local commit="$1" setup="$2"
    bash -euo pipefail -c "$setup"
    if [[ -e $CHECKOUT/.ready && $(<"$CHECKOUT/.ready") == "$commit" ]]; then
        return
    fi
    rm -rf "$CHECKOUT"
    mkdir -p "$CHECKOUT" "$RUN"
    tar -xzf "$PACKED" -C "$CHECKOUT"
    cd "$CHECKOUT"
    make_environment
    .venv/bin/python -m pip install --quiet --require-hashes -r requirements.lock
    # Of the extras, only libtpu is not installed yet; jax determines its version.
    .venv/bin/python -m pip install --quiet --no-build-isolation --editable '.[tpu,buckets]'
    echo "$commit" >.ready
}

start() {
    end_leftover
    mkdir -p "$RUN"
    rm -f "$RUN"/{pid,exit_code,stopped}
    printf '%s\n' "$*" >"$RUN/flags"
    cd "$CHECKOUT"
    # A session of its own, which outlives the connection.
    setsid nohup bash "$HOME/tpu_worker.sh" watch "$@" >"$RUN/log" 2>&1 </dev/null &
    local tries=100
    until [[ -s $RUN/pid ]]; do
        ((tries-- > 0)) || fail "the run has not begun within 10 s"
        sleep 0.1
    done
}

watch() {
    local code=0
    [[ $1 != -* ]] || set -- train "$@"
    .venv/bin/python -m aggnets_jax "$@" &
    echo "$!" >"$RUN/pid"
    wait "$!" || code=$?
    echo "$code" >"$RUN/exit_code"
}

# A process that still waits for a lost one would keep the devices.
end_leftover() {
    local signal
    for signal in TERM KILL; do
        if running; then
            kill "-$signal" "$(<"$RUN/pid")" || true
            await_end 60
        fi
    done
}

await_end() {
    local tries=$(($1 * 10))
    while running && ((tries-- > 0)); do
        sleep 0.1
    done
}

follow() {
    tail --pid="$(<"$RUN/pid")" --sleep-interval=0.5 -c "+$1" -f "$RUN/log"
}

status() {
    if [[ ! -e $RUN/flags ]]; then
        echo none
        return
    elif running; then
        echo running
    else
        # If the watching process was ended, too, there is no code.
        local code=137 how=ended
        [[ -s $RUN/exit_code ]] && code=$(<"$RUN/exit_code")
        [[ -e $RUN/stopped ]] && how=stopped
        echo "$how $code"
    fi
    cat "$RUN/flags"
}

stop() {
    if ! running; then
        echo "nothing is running"
        return
    fi
    touch "$RUN/stopped"
    kill -TERM "$(<"$RUN/pid")"
    await_end 600
    ! running || fail "it has not ended within 600 s, and is still running"
    tail -n 1 "$RUN/log"
}

"$@"
