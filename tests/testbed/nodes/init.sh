#!/bin/bash
# Inside the node, in namespaces of its own: mounts what a machine would have, and runs containerd, kubelet, kube-proxy.
# It ends when one of them does, and the node with it. Started by node.sh, with these variables:
#   NODE           the node's name
#   ADDRESS        its address
#   POD_RANGE      addresses of its pods
#   POD_NETWORK    addresses of the pods of all nodes
#   DNS            address of the cluster's DNS server
#   HIERARCHIES    the cgroup hierarchies
#   DISK           folder with what the node keeps when it is switched off
#   MOUNTS         what of it is mounted where: NAME=PATH, separated by spaces; the paths exist
#   IMAGES         folder with the docker archives that the node shall have
#   PAUSE          name of the pause image
#   PROGRAMS       folder with kubelet and kube-proxy
#   CA             certificate authority of the API server
#   KUBELET_CONFIG, PROXY_CONFIG    kubeconfigs
#   LOGS           folder for logs
set -euo pipefail

hostname "$NODE"
mount -t proc proc /proc
umount -R /sys/fs/cgroup
mount -t sysfs sysfs /sys
mount -t tmpfs -o mode=755 tmpfs /sys/fs/cgroup
for hierarchy in $HIERARCHIES; do
  mkdir "/sys/fs/cgroup/$hierarchy"
  # The one that systemd keeps has a name and no controller.
  case $hierarchy in systemd) options=none,name=systemd ;; *) options=$hierarchy ;; esac
  mount -t cgroup -o "$options" cgroup "/sys/fs/cgroup/$hierarchy"
done
mount -t tmpfs -o mode=755 tmpfs /run
mkdir -p /run/containerd /run/lock /run/cni
for pair in $MOUNTS; do
  mkdir -p "$DISK/${pair%%=*}"
  mount --bind "$DISK/${pair%%=*}" "${pair#*=}"
done
# Mounts that the kubelet makes for a pod are to be seen in its containers.
mount --make-rshared /
# Pods are reached through their node, and answer through it.
sysctl -qw net.ipv4.ip_forward=1 net.ipv4.conf.all.rp_filter=0

cat > /run/cni/10-pods.conflist <<END
{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "mtu": 1500,
      "ipam": {
        "type": "host-local",
        "ranges": [[{"subnet": "$POD_RANGE"}]],
        "routes": [{"dst": "0.0.0.0/0"}],
        "dataDir": "/var/lib/cni/networks"
      }
    }
  ]
}
END

cat > /run/containerd.toml <<END
version = 2
root = "/var/lib/containerd"
state = "/run/containerd"
[grpc]
  address = "/run/containerd/containerd.sock"
[plugins."io.containerd.internal.v1.opt"]
  path = "/var/lib/containerd/opt"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "$PAUSE"
  disable_apparmor = true
  # Without it no container starts where this process may not lower OOM scores.
  restrict_oom_score_adj = true
  [plugins."io.containerd.grpc.v1.cri".containerd]
    snapshotter = "overlayfs"
    default_runtime_name = "runc"
    [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
      runtime_type = "io.containerd.runc.v2"
      [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
        SystemdCgroup = false
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "/run/cni"
END
containerd --config /run/containerd.toml >> "$LOGS/$NODE.containerd.log" 2>&1 &

for _ in $(seq 300); do
  if ctr version > /dev/null 2>&1; then break; fi
  sleep 0.1
done
for archive in "$IMAGES"/*.tar; do
  # What was imported before the power was lost is still there.
  imported=/var/lib/containerd/imported-$(stat --format %i-%Y "$archive")
  if [ ! -e "$imported" ]; then
    ctr --namespace k8s.io images import "$archive"
    touch "$imported"
  fi
done

cat > /run/kubelet.yaml <<END
apiVersion: kubelet.config.k8s.io/v1beta1
kind: KubeletConfiguration
address: $ADDRESS
containerRuntimeEndpoint: unix:///run/containerd/containerd.sock
cgroupDriver: cgroupfs
failCgroupV1: false
failSwapOn: false
clusterDomain: cluster.local
clusterDNS: [$DNS]
# The machine's own may be a link into /run, which is the node's own here.
resolvConf: ""
authentication:
  anonymous: {enabled: false}
  webhook: {enabled: true}
  x509: {clientCAFile: "$CA"}
authorization: {mode: Webhook}
healthzBindAddress: 127.0.0.1
# All nodes share the machine's disk: however full it is, no image is collected and few pods are evicted.
imageGCHighThresholdPercent: 100
imageGCLowThresholdPercent: 99
evictionHard: {memory.available: 100Mi, nodefs.available: 1%, imagefs.available: 1%, nodefs.inodesFree: 1%}
END
# containerd answers before it serves kubelets, and one that is told so ends: as on a machine, it is started again.
for _ in $(seq 20); do
  "$PROGRAMS/kubelet" --config=/run/kubelet.yaml --kubeconfig="$KUBELET_CONFIG" --hostname-override="$NODE" \
    --node-ip="$ADDRESS" --root-dir=/var/lib/kubelet >> "$LOGS/$NODE.kubelet.log" 2>&1 || sleep 1
done &

cat > /run/kube-proxy.yaml <<END
apiVersion: kubeproxy.config.k8s.io/v1alpha1
kind: KubeProxyConfiguration
mode: nftables
clusterCIDR: $POD_NETWORK
hostnameOverride: $NODE
bindAddress: $ADDRESS
healthzBindAddress: $ADDRESS:10256
metricsBindAddress: 127.0.0.1:10249
clientConnection: {kubeconfig: "$PROXY_CONFIG"}
# The machine's table of connections is not the node's to size.
conntrack: {maxPerCore: 0, min: 0, tcpEstablishedTimeout: 0s, tcpCloseWaitTimeout: 0s}
END
"$PROGRAMS/kube-proxy" --config=/run/kube-proxy.yaml >> "$LOGS/$NODE.kube-proxy.log" 2>&1 &

wait -n || true
echo "a daemon of the node ended; the others:"
jobs -l
exit 1
