#!/usr/bin/env bash
# A SLURM in a folder of its own, for the tests; of several nodes (n1, n2, ...) each is a slurmd on this machine.
#   tests/deploy/slurm.sh start DIR [CPUS] [MEMORY_MB] [NODES]   then: export SLURM_CONF=DIR/slurm.conf
#   tests/deploy/slurm.sh slurmd DIR [NODE]                      start slurmd again after it was killed (its id is in DIR/slurmd.NODE.pid)
#   tests/deploy/slurm.sh stop DIR
set -e -u -o pipefail

command=$1
folder=$(mkdir -p "$2" && cd "$2" && pwd)
export SLURM_CONF=$folder/slurm.conf

stop_by_id() {
    local file=$folder/$1.pid id
    [ -s "$file" ] || return 0
    id=$(cat "$file")
    kill "$id" 2> /dev/null || return 0
    for _ in $(seq 50); do
        kill -0 "$id" 2> /dev/null || return 0
        sleep 0.1
    done
    kill -9 "$id" 2> /dev/null || true
}

start_slurmd() { # node
    rm -f "$folder/slurmd.$1.pid"
    mkdir -p "$folder/spool.$1"
    slurmd -N "$1" -f "$SLURM_CONF" -L "$folder/slurmd.$1.log"
}

nodes() { sed -n 's/^NodeName=\([^ ]*\).*/\1/p' "$SLURM_CONF"; }

case "$command" in
    start)
        cpus=${3:-$(env -u OMP_NUM_THREADS nproc)}
        memory=${4:-$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)}
        count=${5:-1}
        host=$(hostname -s)
        port=$((20000 + $(printf %s "$folder" | cksum | cut -d ' ' -f 1) % 10000)) # several may run beside each other
        mkdir -p "$folder"/{state,munge}
        chmod 0755 "$folder" "$folder/munge"
        if [ ! -s "$folder/munge/key" ]; then
            (umask 077 && head -c 1024 /dev/urandom > "$folder/munge/key")
        fi
        munged --force --key-file "$folder/munge/key" --socket "$folder/munge/socket" --pid-file "$folder/munged.pid" \
            --log-file "$folder/munge/log" --seed-file "$folder/munge/seed"
        cat > "$SLURM_CONF" << CONF
ClusterName=test
SlurmctldHost=$host(127.0.0.1)
SlurmUser=root
SlurmctldPort=$port
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.%n.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool.%n
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SwitchType=switch/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
SchedulerParameters=sched_interval=1,batch_sched_delay=0
ReturnToService=2
SlurmdTimeout=20
SlurmctldTimeout=10
MinJobAge=300
JobCompType=jobcomp/none
PartitionName=normal Nodes=ALL Default=YES MaxTime=INFINITE State=UP
CONF
        for index in $(seq "$count"); do
            name=n$index
            if [ "$count" = 1 ]; then
                name=$host
            fi
            echo "NodeName=$name NodeHostname=$host NodeAddr=127.0.0.1 Port=$((port + index)) CPUs=$cpus RealMemory=$memory State=UNKNOWN"
        done >> "$SLURM_CONF"
        slurmctld -c -f "$SLURM_CONF" -L "$folder/slurmctld.log"
        for name in $(nodes); do
            start_slurmd "$name"
        done
        for _ in $(seq 100); do
            if [ "$(sinfo --noheader --Node --format %t 2> /dev/null | grep -c -E '^(idle|mix|alloc)$')" = "$count" ]; then
                exit 0
            fi
            sleep 0.2
        done
        tail -n 20 "$folder/slurmctld.log" "$folder"/slurmd.*.log >&2
        exit 1
        ;;
    slurmd) start_slurmd "${3:-$(nodes | head -n 1)}" ;;
    stop)
        for name in $(nodes); do
            stop_by_id "slurmd.$name"
        done
        for daemon in slurmctld munged; do
            stop_by_id "$daemon"
        done
        ;;
esac
