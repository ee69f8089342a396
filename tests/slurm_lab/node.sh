#!/bin/bash
# Switches on node $2 of the lab in folder $1: namespaces of its own, a cable to the switch, and slurmd. Its process
# is in $2.power: the end of it is a power failure.
set -euo pipefail
cd "$1"
export SLURM_CONF=$PWD/slurm.conf
PATH=$PATH:/usr/sbin:/sbin
name=$2 i=${2#n}

# The node waits for its cable, we for its namespaces.
node='
  hostname "$1"
  mount -t tmpfs tmpfs /dev/shm
  echo booted >"$1.booted"
  until ip link show eth0 >/dev/null 2>&1; do sleep 0.02; done
  ip link set lo up
  ip addr add "$2/24" dev eth0
  ip link set eth0 up
  slurmd -D -N "$1" &
  wait # bash, not slurmd, is process 1: it reaps orphans
'
mkdir -p "$name"
rm -f "$name.booted"
ip link delete "port$i" 2>/dev/null || true
setsid unshare --net --mount --uts --pid --fork --mount-proc --kill-child \
  bash -c "$node" node "$name" "10.66.0.$i" >>"$name.out" 2>&1 </dev/null &
echo $! >"$name.power"
until [ -e "$name.booted" ]; do sleep 0.02; done
ip link add "port$i" type veth peer name eth0 netns $!
ip link set "port$i" master switch up
