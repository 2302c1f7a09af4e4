#!/bin/bash
# The machine's side of one node: connects it to the switch, and becomes the node's first process.
# Started by cluster.py in the node's cgroups and in a new network namespace, with these variables and init.sh's:
#   NODE       the node's name
#   ADDRESS    its address
#   PREFIX     length of the nodes' network prefix
#   GATEWAY    the machine's address in that network
#   SWITCH     pid of a process in the switch's network namespace
#   ROUTES     the other nodes' pods: RANGE=NODE_ADDRESS, separated by spaces
set -euo pipefail
ip link set lo up
ip link add eth0 type veth peer name "$NODE" netns "$SWITCH"
ip addr add "$ADDRESS/$PREFIX" dev eth0
ip link set eth0 up
ip route add default via "$GATEWAY"
for route in $ROUTES; do
  ip route add "${route%=*}" via "${route#*=}"
done
nsenter --net --target "$SWITCH" ip link set "$NODE" master switch up
# With --kill-child, and as the first process of its pid namespace, it takes all that runs on the node with it.
exec unshare --mount --pid --fork --kill-child --uts --ipc --cgroup --propagation private \
  tini -- bash "${BASH_SOURCE[0]%/*}/init.sh"
