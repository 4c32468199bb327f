#!/usr/bin/env bash
# A SLURM of one node in a folder of its own, for the tests.
#   tests/deploy/slurm.sh start DIR [CPUS] [MEMORY_MB]      then: export SLURM_CONF=DIR/slurm.conf
#   tests/deploy/slurm.sh slurmd DIR                        start slurmd again after it was killed (its id is in DIR/slurmd.pid)
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

start_slurmd() {
    rm -f "$folder/slurmd.pid"
    slurmd -f "$SLURM_CONF" -L "$folder/slurmd.log"
}

case "$command" in
    start)
        cpus=${3:-$(nproc)}
        memory=${4:-$(awk '/^MemTotal/ {print int($2 / 1024 * 0.9)}' /proc/meminfo)}
        host=$(hostname -s)
        port=$((20000 + $(printf %s "$folder" | cksum | cut -d ' ' -f 1) % 10000)) # several may run beside each other
        mkdir -p "$folder"/{state,spool,munge}
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
SlurmdPort=$((port + 1))
AuthType=auth/munge
AuthInfo=socket=$folder/munge/socket
CredType=cred/munge
SlurmctldPidFile=$folder/slurmctld.pid
SlurmdPidFile=$folder/slurmd.pid
StateSaveLocation=$folder/state
SlurmdSpoolDir=$folder/spool
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
NodeName=$host NodeAddr=127.0.0.1 CPUs=$cpus RealMemory=$memory State=UNKNOWN
PartitionName=normal Nodes=$host Default=YES MaxTime=INFINITE State=UP
CONF
        slurmctld -c -f "$SLURM_CONF" -L "$folder/slurmctld.log"
        start_slurmd
        for _ in $(seq 100); do
            if sinfo --noheader --format %t 2> /dev/null | grep -q -E '^(idle|mix|alloc)$'; then
                exit 0
            fi
            sleep 0.2
        done
        tail -n 20 "$folder/slurmctld.log" "$folder/slurmd.log" >&2
        exit 1
        ;;
    slurmd) start_slurmd ;;
    stop)
        for daemon in slurmd slurmctld munged; do
            stop_by_id "$daemon"
        done
        ;;
esac
