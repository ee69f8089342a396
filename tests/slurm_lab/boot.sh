#!/bin/bash
# Boots the cluster configured in folder $1 with $2 nodes, each by the script $3. Runs as process 1 of the submit host's own namespaces
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

for i in $(seq "$2"); do
  bash "$3" "$PWD" "n$i"
done

until [ "$(sinfo --noheader --states=idle --partition=main --format=%D)" = "$2" ]; do sleep 0.1; done
touch ready
while :; do sleep 1000000 & wait; done
