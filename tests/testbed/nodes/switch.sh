#!/bin/bash
# The switch between the machine and the nodes: a bridge in a network namespace that this process holds.
# In a namespace of its own it is out of reach of the machine's firewall: a Docker Engine drops what is forwarded there,
# bridged packets included. Started by cluster.py in a new network namespace, with these variables:
#   LINK       name of the link to the switch, on the machine
#   MACHINE    pid of a process in the machine's network namespace
# Says "ready" on its output once the link is there.
set -euo pipefail
if [ -e /proc/sys/net/bridge/bridge-nf-call-iptables ]; then
  echo 0 > /proc/sys/net/bridge/bridge-nf-call-iptables
fi
ip link add switch type bridge
ip link set switch up
ip link add machine type veth peer name "$LINK" netns "$MACHINE"
ip link set machine master switch up
echo ready
exec sleep infinity > /dev/null
