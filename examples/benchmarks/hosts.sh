#!/usr/bin/env bash
# Several hosts on one machine: network namespaces that share nothing but a link of limited rate (Linux, as root).
#
#     examples/benchmarks/hosts.sh 2 '100mbit 10ms' gpt train --out runs/two --grad-accumulation 2
#
# starts the command on so many hosts, one process each, and prints the bytes that each host has sent. The second argument
# is what every host's link does with what the host sends:
#
#     RATE [DELAY]    sends it at that rate, and each packet after that delay: netem. A kernel without netem limits the
#                     rate by tbf and cannot delay, which is reported.
#     tbf rate ...    a queueing discipline in the words of tc
#     full            sends it as fast as it can
#
# MPICH of the extra `mpi` uses TCP between the hosts, as between real ones.
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

if [[ $link =~ ^([0-9][^ ]*)( +([0-9][^ ]*))?$ ]]; then
    rate=${BASH_REMATCH[1]} delay=${BASH_REMATCH[3]}
    link="netem rate $rate${delay:+ delay $delay}"
    if ! tc -n "$switch" qdisc add dev bridge root netem 2>/dev/null; then
        link="tbf rate $rate burst 64kb latency 400ms"
        echo "this kernel has no netem: the rate is limited by tbf${delay:+, and nothing is delayed}" >&2
    fi
    tc -n "$switch" qdisc del dev bridge root 2>/dev/null || true
fi

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
