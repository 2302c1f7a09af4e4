"""The control plane of the test bed's cluster: its addresses, its users, and the programs that run on this machine."""

from __future__ import annotations

import secrets
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tests.testbed import addresses
from tests.testbed.certificate import Authority, signing_key
from tests.testbed.cluster_site import MOUNTS, ClusterError
from tests.testbed.connection import write_kubeconfig

if TYPE_CHECKING:
    from collections.abc import Sequence

NODE_NETWORK = IPv4Network("10.187.0.0/24")
POD_NETWORK = IPv4Network("10.188.0.0/16")
SERVICE_NETWORK = IPv4Network("10.189.0.0/16")
MACHINE = str(NODE_NETWORK[1])
"""The machine's address in the nodes' network: of the API server and of the DNS server."""
LINK = "le-cluster"
"""The machine's link to the nodes."""
API_PORT = 6443
# Below the ports that the tests pick from, and on loopback.
ETCD_PORT, ETCD_PEER_PORT, CONTROLLER_MANAGER_PORT, SCHEDULER_PORT = 19379, 19380, 19257, 19259
MOST_NODES = 9
ADMIN_KUBECONFIG = "admin.kubeconfig"


def node_address(number: int) -> str:
    """Return the address of a node, by its number."""
    return str(NODE_NETWORK[10 + number])


def pod_range(number: int) -> str:
    """Return the addresses of a node's pods."""
    return str(list(POD_NETWORK.subnets(new_prefix=24))[number])


def check_addresses() -> None:
    """Raise ClusterError when the machine has a route to one of the cluster's addresses, and so uses it already."""
    addresses.check((NODE_NETWORK, POD_NETWORK, SERVICE_NETWORK), error=ClusterError)


def write_credentials(folder: Path, nodes: Sequence[str]) -> None:
    """Write certificates and keys into `folder`/pki, and into `folder` the users' tokens and kubeconfigs."""
    pki = folder / "pki"
    authority = Authority(pki)
    names = ["kubernetes", "kubernetes.default", "kubernetes.default.svc", "kubernetes.default.svc.cluster.local"]
    authority.server("kube-apiserver", names=names, addresses=[MACHINE, "127.0.0.1", str(SERVICE_NETWORK[1])])
    authority.client("kubelet-client", group="system:masters")
    signing_key(pki)
    users = {
        Path(ADMIN_KUBECONFIG).stem: ("admin", "system:masters"),
        "kube-controller-manager": ("system:kube-controller-manager", ""),
        "kube-scheduler": ("system:kube-scheduler", ""),
        "kube-proxy": ("system:kube-proxy", ""),
        **{node: (f"system:node:{node}", "system:nodes") for node in nodes},
    }
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    with tokens.open("w") as lines:
        for file, (user, group) in users.items():
            token = secrets.token_hex(16)
            lines.write(f"{token},{user},{user},{group}\n")
            write_kubeconfig(
                folder / f"{file}.kubeconfig",
                url=f"https://{MACHINE}:{API_PORT}",
                ca_file=authority.certificate,
                token=token,
            )


def commands(folder: Path, programs: Path) -> dict[str, list[str]]:
    """Return the command lines, in the order of their start, with `folder` for data and `programs` to be run."""
    pki = folder / "pki"
    etcd, etcd_peer = f"http://127.0.0.1:{ETCD_PORT}", f"http://127.0.0.1:{ETCD_PEER_PORT}"
    (folder / "Corefile").write_text(
        f". {{\n  bind {MACHINE}\n  kubernetes cluster.local in-addr.arpa {{\n"
        f"    kubeconfig {folder / ADMIN_KUBECONFIG}\n  }}\n  cache 5\n}}\n"
    )
    return {
        "etcd": [
            str(programs / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={etcd}",
            f"--advertise-client-urls={etcd}",
            f"--listen-peer-urls={etcd_peer}",
            f"--initial-advertise-peer-urls={etcd_peer}",
            f"--initial-cluster=default={etcd_peer}",
        ],
        "kube-apiserver": [
            str(programs / "kube-apiserver"),
            f"--etcd-servers={etcd}",
            f"--bind-address={MACHINE}",
            f"--advertise-address={MACHINE}",
            f"--secure-port={API_PORT}",
            f"--tls-cert-file={pki / 'kube-apiserver.crt'}",
            f"--tls-private-key-file={pki / 'kube-apiserver.key'}",
            f"--client-ca-file={pki / 'ca.crt'}",
            f"--kubelet-client-certificate={pki / 'kubelet-client.crt'}",
            f"--kubelet-client-key={pki / 'kubelet-client.key'}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            f"--service-cluster-ip-range={SERVICE_NETWORK}",
            "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
            f"--service-account-key-file={pki / 'service-account.pub'}",
            f"--service-account-signing-key-file={pki / 'service-account.key'}",
        ],
        "kube-controller-manager": [
            str(programs / "kube-controller-manager"),
            *_as_user(folder / "kube-controller-manager.kubeconfig"),
            f"--secure-port={CONTROLLER_MANAGER_PORT}",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki / 'service-account.key'}",
            f"--root-ca-file={pki / 'ca.crt'}",
        ],
        "kube-scheduler": [
            str(programs / "kube-scheduler"),
            *_as_user(folder / "kube-scheduler.kubeconfig"),
            f"--secure-port={SCHEDULER_PORT}",
        ],
        # A process on the machine instead of pods, so that no test loses it with a node.
        "coredns": [str(programs / "coredns"), "-conf", str(folder / "Corefile")],
    }


def volume_folder(number: int) -> str:
    """Return where a volume is on its node. It has to be there before the first pod."""
    return f"{MOUNTS['kubelet']}/volumes/{number}"


def storage(nodes: Sequence[str], volumes: int) -> dict[str, Any]:
    """Return a default storage class, and volumes made ahead, as where an administrator prepared disks."""
    storage_class = {
        "apiVersion": "storage.k8s.io/v1",
        "kind": "StorageClass",
        "metadata": {"name": "standard", "annotations": {"storageclass.kubernetes.io/is-default-class": "true"}},
        "provisioner": "kubernetes.io/no-provisioner",
        "volumeBindingMode": "WaitForFirstConsumer",
    }

    def volume(node: str, number: int) -> dict[str, Any]:
        here = {"key": "kubernetes.io/hostname", "operator": "In", "values": [node]}
        return {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": f"{node}-{number}"},
            "spec": {
                "storageClassName": "standard",
                "capacity": {"storage": "1Gi"},
                "accessModes": ["ReadWriteOnce"],
                "persistentVolumeReclaimPolicy": "Retain",
                # Unlike a hostPath, it gets the owner that a pod's fsGroup asks for.
                "local": {"path": volume_folder(number)},
                "nodeAffinity": {"required": {"nodeSelectorTerms": [{"matchExpressions": [here]}]}},
            },
        }

    items = [storage_class, *(volume(node, number) for node in nodes for number in range(1, volumes + 1))]
    return {"apiVersion": "v1", "kind": "List", "items": items}


def _as_user(kubeconfig: Path) -> list[str]:
    options = ("--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig")
    return [*(f"{option}={kubeconfig}" for option in options), "--leader-elect=false", "--bind-address=127.0.0.1"]
