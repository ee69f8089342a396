#!/bin/bash
# Boots the cluster configured in folder $1 with $2 nodes. Runs as process 1 of the submit host's own namespaces
# (mounts, network, host name, processes), so that the end of it is the end of everything here.
set -euo pipefail
cd "$1"
export SLURM_CONF=$PWD/slurm.conf
PATH=$PATH:/usr/sbin:/sbin # daemons live there, and not every user's path does

# The submit host: its name, its end of the network, /etc/hosts for all.
hostname submit
mount --bind hosts /etc/hosts
ip link set lo up
ip link add switch type bridge
ip addr add 10.66.0.254/24 dev switch
ip link set switch up
mknod -m 666 gpu0 c 1 3 # GPUs are counted by device files: two more of /dev/null
mknod -m 666 gpu1 c 1 3
munged --key-file="$PWD/munge.key" --socket="$PWD/munge.sock" --pid-file="$PWD/munged.pid" \
  --log-file="$PWD/munged.log" --seed-file="$PWD/munge.seed"
slurmctld

# A node: namespaces of its own, a cable to the switch, and slurmd. It waits for its cable, we for its namespaces.
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
for i in $(seq "$2"); do
  mkdir "n$i"
  unshare --net --mount --uts --pid --fork --mount-proc --kill-child \
    bash -c "$node" node "n$i" "10.66.0.$i" >"n$i.out" 2>&1 </dev/null &
  until [ -e "n$i.booted" ]; do sleep 0.02; done
  ip link add "port$i" type veth peer name eth0 netns $!
  ip link set "port$i" master switch up
done

until [ "$(sinfo --noheader --states=idle --format=%D)" = "$2" ]; do sleep 0.1; done
touch ready
while :; do sleep 1000000 & wait; done
