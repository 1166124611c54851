#!/usr/bin/env bash
# A throw-away SLURM on one machine, for the tests: two virtual nodes, three partitions. Everything lives in one folder.
#
#   slurm/local.sh install   Debian's packages (root); nothing where they are there already
#   slurm/local.sh start     until both nodes are idle; prints what to export:  eval "$(slurm/local.sh start)"
#   slurm/local.sh stop      end what start started, and remove the folder
#
# FOLDER is $FDIV_SLURM, or a new one that start makes and names. Exit code 3: this machine cannot host it, and why.
set -euo pipefail
export PATH=$PATH:/usr/sbin:/sbin
folder=${FDIV_SLURM:-}
port=${FDIV_SLURM_PORT:-26817}
cores=${FDIV_SLURM_CORES:-4} # per node; more than there are is fine

cannot() {
    echo "This machine cannot host a SLURM: $*" >&2
    exit 3
}

install() {
    if command -v munged && command -v slurmctld && command -v slurmd && command -v sbatch; then return; fi >/dev/null
    command -v apt-get >/dev/null || cannot "it has no apt-get to install one with."
    [ "$(id -u)" = 0 ] || cannot "installing munge, slurmctld, slurmd and slurm-client needs root."
    export DEBIAN_FRONTEND=noninteractive
    local log
    log=$(mktemp "${TMPDIR:-/tmp}/fdiv-slurm-install.XXXXXXXX") # a name that nobody can have prepared
    { apt-get update -q && apt-get install -q -y --no-install-recommends munge slurmctld slurmd slurm-client; } \
        >"$log" 2>&1 || cannot "apt-get failed; see $log."
    rm -f "$log"
}

configure() {
    local host user node
    host=$(hostname -s) user=$(id -un)
    cat <<CONF
ClusterName=fdiv
SlurmctldHost=$host(127.0.0.1)
SlurmctldPort=$port
SlurmUser=$user
SlurmdUser=$user
AuthInfo=socket=$folder/munge/socket,cred_expire=5
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool/%n
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
SlurmctldLogFile=$folder/slurmctld.log
SlurmdLogFile=$folder/slurmd.%n.log
# no cgroups, no accounting: this must come up in a container
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerParameters=bf_interval=1,sched_interval=2,sched_min_interval=0,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
PropagateResourceLimitsExcept=ALL
MinJobAge=3600
# the scheduler of jobs in "urgent" sends jobs in "low" back into the queue, after a grace in which they can save
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
KillWait=20
CONF
    for node in 1 2; do # loopback addresses as names: they resolve everywhere
        echo "NodeName=127.0.0.$node NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + node)) CPUs=$cores State=UNKNOWN"
    done
    echo "PartitionName=main Nodes=ALL Default=YES PriorityTier=50 PreemptMode=OFF DefaultTime=10 State=UP"
    echo "PartitionName=low Nodes=ALL PriorityTier=1 PreemptMode=REQUEUE GraceTime=20 DefaultTime=10 State=UP"
    echo "PartitionName=urgent Nodes=ALL PriorityTier=100 PreemptMode=OFF DefaultTime=10 State=UP"
}

daemon() { # name, command: in the background, its number kept
    setsid "${@:2}" >"$folder/$1.out" 2>&1 </dev/null &
    echo $! >"$folder/pids/$1"
}

until_true() { # seconds, command
    local deadline=$((SECONDS + $1))
    until "${@:2}" >/dev/null 2>&1; do
        [ $SECONDS -lt $deadline ] || return 1
        sleep 0.2
    done
}

idle() { [ "$(sinfo --noheader --Node --partition=main --states=idle --format=%N | wc -l)" = 2 ]; }

ours() { # a folder that somebody else has put there is not written to, nor removed
    [ -d "$folder" ] && [ ! -L "$folder" ] && [ -O "$folder" ]
}

start() {
    if [ -z "$folder" ]; then
        folder=$(mktemp -d "${TMPDIR:-/tmp}/fdiv-slurm.XXXXXXXX")
    else
        mkdir -p -m 700 "$folder"
        ours || cannot "$folder is a link or another user's."
    fi
    export SLURM_CONF=$folder/slurm.conf
    [ ! -e "$folder/pids" ] || stop
    mkdir -p -m 700 "$folder"
    ours || cannot "$folder is a link or another user's."
    for program in munged slurmctld slurmd sbatch; do
        command -v $program >/dev/null || cannot "$program is not installed; run: slurm/local.sh install"
    done
    mkdir -p "$folder"/{munge,pids,state,spool/127.0.0.1,spool/127.0.0.2}
    chmod 755 "$folder"
    chmod 711 "$folder/munge"
    (umask 077 && head -c 1024 /dev/urandom >"$folder/munge/key")
    configure >"$SLURM_CONF"
    echo "CgroupPlugin=cgroup/v1" >"$folder/cgroup.conf"
    daemon munged munged --foreground --force --socket="$folder/munge/socket" --key-file="$folder/munge/key" \
        --pid-file="$folder/munge/pid" --seed-file="$folder/munge/seed" --log-file="$folder/munge/log"
    until_true 10 munge --socket="$folder/munge/socket" --no-input || { stop; cannot "munged did not start."; }
    daemon slurmctld slurmctld -D -i -f "$SLURM_CONF"
    for node in 1 2; do daemon slurmd.$node slurmd -D -N 127.0.0.$node -f "$SLURM_CONF"; done
    if ! until_true 60 idle; then
        tail -n 5 "$folder"/*.log "$folder"/*.out >&2
        stop
        cannot "its nodes did not become idle in a minute."
    fi
    printf 'export FDIV_SLURM=%q SLURM_CONF=%q\n' "$folder" "$SLURM_CONF"
}

stop() {
    [ -n "$folder" ] || cannot "FDIV_SLURM says no folder; export what start printed."
    [ -d "$folder/pids" ] || return 0
    ours || cannot "$folder is a link or another user's."
    export SLURM_CONF=$folder/slurm.conf
    if until_true 1 sinfo; then
        scancel --quiet --full --user="$(id -un)" || true
        until_true 30 test -z "$(squeue --noheader)" || true
    fi
    for name in slurmd.1 slurmd.2 slurmctld munged; do
        pid=$(cat "$folder/pids/$name" 2>/dev/null || true)
        # the number may be somebody else's by now: only a process that is named as ours
        if [ -n "$pid" ] && [ "$(cat "/proc/$pid/comm" 2>/dev/null || true)" = "${name%.*}" ]; then
            kill "$pid"
            until_true 10 test ! -e "/proc/$pid" || kill -9 "$pid"
        fi
    done
    rm -rf "$folder"
}

case ${1:-} in
install | start | stop) "$1" ;;
*)
    sed -n '2,8p' "$0"
    exit 2
    ;;
esac
