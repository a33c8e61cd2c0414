#!/usr/bin/env bash
# Trains on a Cloud TPU slice: makes the slice or takes an existing one, installs the package, starts
# the run on all workers, and prints the log of the first. After a preemption it does so again.
#
#   launch/tpu_vm.sh --name=NAME --zone=ZONE --type=TYPE [FLAG...] -- [train] FLAG_OF_THE_RUN...
#   launch/tpu_vm.sh --name=NAME --zone=ZONE --stop
#
#   --name          name of the slice; an existing slice is taken, and a run on it is followed
#   --zone          such as us-east5-a
#   --type          accelerator type, such as v6e-16
#   --project       project at Google Cloud; default from gcloud's configuration
#   --runtime       version of the machines' image; default by the type
#   --spot          cheaper, and may be preempted at any time
#   --queued        ask for the slice as a queued resource, and wait for it
#   --revision      git revision to install; default HEAD
#   --setup         command to run on each worker before the run, such as mounting a disk
#   --max_failures  how often to start again after exit codes other than 0, 2, 3, 75; default 5
#   --poll          seconds between two checks of the slice; default 30
#   --delete        delete the slice when the run has ended
#   --stop          stop the run: it saves its state
#   --dry_run       print the commands instead
#
# Exit codes: the run's, 0 done, 2 an input is wrong, 3 the run diverged, 75 stopped by --stop, or
# another one after --max_failures; 2 also for wrong flags, and 1 if gcloud fails.
set -euo pipefail

if ((BASH_VERSINFO[0] < 5)); then
    echo "error: bash 5 or newer is needed, this is $BASH_VERSION" >&2
    exit 2
fi
HERE="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
readonly HERE
declare -A flags=(
    [name]="" [zone]="" [type]="" [project]="" [runtime]="" [revision]=HEAD [setup]=:
    [max_failures]=5 [poll]=30 [spot]="" [queued]="" [delete]="" [stop]="" [dry_run]=""
)
readonly SWITCHES=" spot queued delete stop dry_run "
run=()          # flags of the run
commit=""       # that is installed
failures=0
made=""         # whether this script has made a slice
started=""      # whether the run is known to be started on the slice that is there
seen=0          # bytes of the log that were printed
temporary=""

fail() {
    echo "error: $1" >&2
    exit "${2:-2}"
}

say() {
    echo "tpu_vm: $*" >&2
}

parse() {
    local argument flag
    while (($#)); do
        argument="$1"
        shift
        if [[ $argument == -- ]]; then
            run=("$@")
            break
        elif [[ $argument == --help ]]; then
            sed -n '2,/^set /{/^#/s/^# \{0,1\}//p}' "${BASH_SOURCE[0]}"
            exit 0
        fi
        flag="${argument#--}"
        flag="${flag%%=*}"
        if [[ ! $argument =~ ^--[a-z_]+(=|$) || ! -v flags[$flag] ]]; then
            fail "unknown flag '${argument%%=*}'; allowed:$(printf ' --%s' "${!flags[@]}")"
        elif [[ $SWITCHES == *" $flag "* ]]; then
            [[ $argument != *=* ]] || fail "--$flag takes no value"
            flags[$flag]=1
        else
            [[ $argument == *=?* ]] || fail "--$flag needs a value: --$flag=VALUE"
            flags[$flag]="${argument#*=}"
        fi
    done
}

check() {
    local flag workdir="" argument
    for flag in name zone; do
        [[ -n ${flags[$flag]} ]] || fail "--$flag is missing"
    done
    for flag in max_failures poll; do
        [[ ${flags[$flag]} =~ ^[0-9]+$ ]] \
            || fail "--$flag must be a whole number, got '${flags[$flag]}'"
    done
    [[ -n ${flags[dry_run]} ]] || command -v gcloud >/dev/null || fail "gcloud is not installed"
    [[ -z ${flags[stop]} ]] || return 0
    [[ -n ${flags[type]} ]] || fail "--type is missing"
    [[ -n ${flags[runtime]} ]] || flags[runtime]="$(image_for "${flags[type]}")"
    for argument in "${run[@]}"; do
        [[ $argument != --workdir=* ]] || workdir="${argument#--workdir=}"
    done
    [[ -n $workdir ]] || fail "the flags of the run, after --, need a --workdir=DIRECTORY"
    # A relative one would be on the worker's own disk, which is deleted with the slice.
    [[ $workdir =~ ^(/|gs://) ]] \
        || fail "--workdir=$workdir must be in a bucket, gs://..., or absolute, on a shared disk"
    commit="$(git -C "$HERE" rev-parse --quiet --verify "${flags[revision]}^{commit}")" \
        || fail "--revision=${flags[revision]} is no revision of $HERE"
}

image_for() {
    case "$1" in
        v6e-*) echo v2-alpha-tpuv6e ;;
        v5p-*) echo v2-alpha-tpuv5 ;;
        v5litepod-* | v5e-*) echo v2-alpha-tpuv5-lite ;;
        v[234]-*) echo tpu-ubuntu2204-base ;;
        *) fail "no image is known for --type=$1; name one: --runtime=VERSION" ;;
    esac
}

# Runs gcloud compute tpus GROUP COMMAND ... with common flags; a dry run only prints it.
tpus() {
    local command=(gcloud compute tpus "$@" "--zone=${flags[zone]}" --quiet)
    [[ -z ${flags[project]} ]] || command+=("--project=${flags[project]}")
    if [[ -n ${flags[dry_run]} ]]; then
        printf '%s' "${command[0]}"
        printf ' %q' "${command[@]:1}"
        echo
    else
        "${command[@]}" </dev/null
    fi
}

# on WORKER COMMAND...: runs a command of tpu_worker.sh on one worker or on all.
on() {
    local worker="$1"
    shift
    tpus tpu-vm ssh "${flags[name]}" "--worker=$worker" \
        --ssh-flag='-o ServerAliveInterval=15 -o ServerAliveCountMax=4' \
        "--command=bash tpu_worker.sh$(printf ' %q' "$@")"
}

# state_of GROUP FORMAT: prints the state, or MISSING; fails if gcloud can't tell.
state_of() {
    local message="$temporary/message"
    tpus "$1" describe "${flags[name]}" "--format=value($2)" 2>"$message" && return
    grep -q NOT_FOUND "$message" || {
        cat "$message" >&2
        return 1
    }
    echo MISSING
}

slice_state() {
    local state
    state="$(state_of tpu-vm state)" || return 1
    if [[ $state == MISSING && -n ${flags[queued]} ]]; then
        state="QUEUE_$(state_of queued-resources state.state)" || return 1
    fi
    echo "$state"
}

make_slice() {
    local options=("--accelerator-type=${flags[type]}")
    [[ -z ${flags[spot]} ]] || options+=(--spot)
    if [[ -n ${flags[queued]} ]]; then
        tpus queued-resources create "${flags[name]}" "--node-id=${flags[name]}" \
            "${options[@]}" "--runtime-version=${flags[runtime]}"
    else
        tpus tpu-vm create "${flags[name]}" "${options[@]}" "--version=${flags[runtime]}"
    fi
}

remove_slice() {
    if [[ -n ${flags[queued]} ]]; then
        tpus queued-resources delete "${flags[name]}" --force
    else
        tpus tpu-vm delete "${flags[name]}"
    fi
}

# Waits until the slice is ready; replaces a slice that was preempted.
ensure_slice() {
    local state before="" unknown=0
    while :; do
        if ! state="$(slice_state)"; then
            if [[ -z $before$started$made ]] || ((++unknown == 20)); then
                fail "gcloud can't tell the state of the slice" 1
            fi
            state=UNKNOWN
        fi
        [[ $state == "$before" ]] || say "slice ${flags[name]}: $state"
        before="$state"
        case "$state" in
            READY) return ;;
            MISSING | QUEUE_MISSING)
                started=""
                try_to_make
                continue
                ;;
            PREEMPTED | TERMINATED | QUEUE_FAILED | QUEUE_SUSPENDED)
                started=""
                remove_slice >&2 || say "it can't be deleted now; trying again"
                [[ $state != QUEUE_FAILED ]] || fail_once "the slice could not be made" 1
                ;;
            STOPPED)
                started=""
                tpus tpu-vm start "${flags[name]}" || say "it can't be started now; trying again"
                ;;
        esac
        sleep "${flags[poll]}"
    done
}

try_to_make() {
    local message="$temporary/message"
    if make_slice 2>&1 | tee "$message" >&2; then
        made=1
        return
    fi
    # The first request is refused because of its name, type or quota; a later one was right before.
    grep -qi 'no more capacity' "$message" || [[ -n $made ]] || fail "the slice can't be made" 1
    say "trying again in ${flags[poll]} s"
    sleep "${flags[poll]}"
}

# Packs a shallow clone, so that the summary of the run can name the commit.
pack() {
    local clone="$temporary/clone"
    [[ -z $(git -C "$HERE" status --porcelain --untracked-files=no) ]] \
        || say "changes that are not committed stay here; installing $commit"
    git init --quiet "$clone"
    git -C "$clone" fetch --quiet --depth=1 \
        --upload-pack='git -c uploadpack.allowAnySHA1InWant=true upload-pack' \
        "file://$(git -C "$HERE" rev-parse --show-toplevel)" "$commit"
    git -C "$clone" -c advice.detachedHead=false checkout --quiet FETCH_HEAD
    tar -czf "$temporary/aggnets_checkout.tar.gz" -C "$clone" .
}

install_and_start() {
    local files=("$temporary/aggnets_checkout.tar.gz" "$HERE/tpu_worker.sh")
    tpus tpu-vm scp "${files[@]}" "${flags[name]}:" --worker=all \
        && on all install "$commit" "${flags[setup]}" \
        && on all start "${run[@]}"
}

# Prints the state of the run on the first worker: none, running, ended CODE, stopped CODE; nothing
# if there is no answer.
run_state() {
    local ask='if [ -e tpu_worker.sh ]; then bash tpu_worker.sh status; else echo none; fi'
    tpus tpu-vm ssh "${flags[name]}" --worker=0 "--command=$ask" || true
}

begin() {
    local state
    state="$(run_state)"
    if [[ $state == running* ]]; then
        [[ ${state#*$'\n'} == "${run[*]}" ]] \
            || fail "slice ${flags[name]} runs something else: ${state#*$'\n'}; see --stop"
        say "the run goes on already"
    elif [[ -z $state ]] || ! install_and_start >&2; then  # stdout is for the log alone
        [[ $(slice_state) != READY ]] || fail_once "the run could not be started" 1
        return 0
    fi
    started=1
    : >"$temporary/log"
    seen=0
}

fail_once() {
    ((++failures <= flags[max_failures])) || finish "$2" "$1, for the ${failures}th time"
    say "$1; trying again"
    sleep "${flags[poll]}"
}

follow() {
    on 0 follow "$((seen + 1))" | tee -a "$temporary/log" || true
    seen=$(wc -c <"$temporary/log")
}

finish() {
    say "$2"
    [[ -z ${flags[delete]} ]] || remove_slice >&2 ||
        say "the slice could not be deleted, and goes on costing money"
    exit "$1"
}

# Decides how to go on after the log has ended or the connection was lost.
decide() {
    local state code
    state="$(run_state)"
    state="${state%%$'\n'*}"
    code="${state##* }"
    case "$state" in
        "ended 0" | "ended 3" | stopped*) finish "$code" "the run has ended with exit code $code" ;;
        running | "") sleep "${flags[poll]}" ;;
        *)
            started=""
            # On a slice that is going away, processes may end with any code.
            [[ $(slice_state) == READY ]] || return 0
            [[ $code != 2 ]] || finish 2 "the run has ended with exit code 2"
            if [[ $code == 75 ]]; then
                say "the run was stopped; starting it again"
                sleep "${flags[poll]}"
            else
                fail_once "the run has ended with exit code $code" "$code"
            fi
            ;;
    esac
}

plan() {
    echo "# if there is no such slice:"
    make_slice
    echo "# until it is READY, every ${flags[poll]} s:"
    tpus tpu-vm describe "${flags[name]}" '--format=value(state)'
    [[ -z ${flags[queued]} ]] \
        || tpus queued-resources describe "${flags[name]}" '--format=value(state.state)'
    echo "# revision $commit:"
    temporary=/tmp/aggnets
    install_and_start
    echo "# until it has ended with 0, 2 or 3:"
    on 0 follow 1
    run_state
    echo "# when it was preempted, and then all of this again:"
    remove_slice
}

main() {
    parse "$@"
    check
    if [[ -n ${flags[stop]} ]]; then
        on 0 stop
        exit
    elif [[ -n ${flags[dry_run]} ]]; then
        plan
        exit
    fi
    temporary="$(mktemp -d)"
    trap 'rm -rf "$temporary"' EXIT
    trap 'say "the run goes on: this command follows it again, --stop stops it"; exit 130' INT TERM
    pack
    while :; do
        ensure_slice
        [[ -n $started ]] || begin
        [[ -z $started ]] || { follow && decide; }
    done
}

main "$@"
