#!/usr/bin/env bash
# Several hosts on one machine: network namespaces that share nothing but a link of limited rate (Linux, as root).
#
#     examples/benchmarks/hosts.sh 2 'netem rate 1gbit delay 0.1ms' gpt train --out runs/two --grad-accumulation 2
#
# starts the command on so many hosts, one process each, with the queueing discipline of `tc` on every host's link (full:
# none, for a kernel without them), and prints the bytes that each host has sent. MPICH of the extra `mpi` uses TCP between
# them, as between real hosts.
set -euo pipefail
hosts=$1 link=$2
shift 2
prefix="h$$"
remove() { for i in $(seq 0 "$hosts"); do ip netns del "$prefix-$i" 2>/dev/null || true; done; }
trap remove EXIT
switch="$prefix-$hosts"
ip netns add "$switch"
ip -n "$switch" link add bridge type bridge
ip -n "$switch" link set bridge up
command=()
for i in $(seq 0 $((hosts - 1))); do
    host="$prefix-$i"
    ip netns add "$host"
    ip link add net0 netns "$host" type veth peer name "port$i" netns "$switch"
    ip -n "$switch" link set "port$i" master bridge up
    ip -n "$host" addr add "10.9.0.$((i + 1))/24" dev net0
    ip -n "$host" link set net0 up
    ip -n "$host" link set lo up
    [ "$link" = full ] || tc -n "$host" qdisc add dev net0 root $link
    command+=(-n 1 ip netns exec "$host" "$@" :)
done
export MPIR_CVAR_NOLOCAL=1 UCX_TLS=tcp,self UCX_NET_DEVICES=net0
mpiexec "${command[@]::${#command[@]}-1}"
for i in $(seq 0 $((hosts - 1))); do
    echo "host $i sent $(ip netns exec "$prefix-$i" sh -c "grep net0 /proc/net/dev" | awk '{print $10}') bytes"
done
