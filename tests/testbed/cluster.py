"""A real cluster for the tests: three nodes with pods, services, volumes and DNS, or the cluster that you name.

    python -m tests.testbed.cluster up [ARCHIVE...]    until `down`; says how to reach it
    python -m tests.testbed.cluster --help             the other commands

etcd, API server, controller manager, scheduler and CoreDNS run on this machine. A node is a set of namespaces with a
containerd, a kubelet and a kube-proxy of its own; it can lose its power and its network. The nodes share the machine's
kernel, clock and disk. Their addresses exist on this machine only.
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed import binaries, cluster_site, control_plane, golang, standins
from tests.testbed.cluster_site import CGROUPS, HIERARCHIES, PATH, ClusterError
from tests.testbed.clusters import CONTROL_PLANE, ENVIRONMENT_KUBECONFIG, Cluster, LocalCluster

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType
    from typing import NoReturn

    from tests.testbed.cluster_site import Site

__all__ = [
    "ENVIRONMENT_KUBECONFIG",
    "Cluster",
    "ClusterError",
    "LocalCluster",
    "given_kubeconfig",
    "obstacle",
    "open_cluster",
    "prepare",
]

CNI = Path("/usr/lib/cni")
PACKAGES = {
    "containerd": "containerd",
    "ctr": "containerd",
    "hostname": "hostname",
    "ip": "iproute2",
    "mount": "mount",
    "nft": "nftables",
    "nsenter": "util-linux",
    "runc": "runc",
    "sysctl": "procps",
    "tini": "tini",
    "unshare": "util-linux",
    str(CNI / "host-local"): "containernetworking-plugins",
    str(CNI / "loopback"): "containernetworking-plugins",
    str(CNI / "ptp"): "containernetworking-plugins",
}
"""What the nodes run, and Debian's package for it."""


def obstacle() -> str | None:
    """Say in one line why no cluster can be brought up here; None when nothing is known to be in the way."""
    instead = "or use a cluster of yours: KUBECONFIG=FILE make test-cluster"
    if sys.platform != "linux" or os.geteuid() != 0:
        return f"its nodes are made by root on Linux; become root, {instead}"
    own = cluster_site.own_cgroups()
    lacking = [one for one in HIERARCHIES if one not in own or not os.access(CGROUPS / one, os.W_OK)]
    if lacking:
        return (
            f"its nodes need cgroup v1, and {CGROUPS} has no writable hierarchy for {', '.join(lacking)}; {instead[3:]}"
        )
    missing = {package for program, package in PACKAGES.items() if shutil.which(program, path=PATH) is None}
    if missing:
        return f"missing programs; on Debian: apt-get install {' '.join(sorted(missing))}; {instead}"
    return None


def prepare() -> None:
    """Find or build what `open_cluster` needs; progress goes to stderr. Raises ClusterError, which says why not."""
    try:
        if given_kubeconfig():
            _any_kubectl()
            return
        if problem := obstacle():
            raise ClusterError(problem)
        binaries.ensure_cluster()
        standins.archive(standins.PAUSE)
    except (golang.BuildError, standins.StandInError) as error:
        raise ClusterError(str(error)) from error


def open_cluster(
    *, nodes: int = 3, cpus: float | None = None, volumes: int = 12, archives: Sequence[Path] = ()
) -> Cluster:
    """Return the cluster of `LEADER_ELECTOR_TEST_CLUSTER`, else the one that is up here, else bring one up.

    One that is up is used as it stands, and stays up; one that is brought up has so many `nodes`, each with at most
    `cpus` of the processor and so many `volumes` (each is used once), and goes down with `close` or when this process
    ends. The images in the docker archives are put on every node. Nobody else can use it meanwhile. Raises
    ClusterError.
    """
    prepare()
    given = given_kubeconfig()
    if given:
        cluster = Cluster(given, _any_kubectl())
        if not cluster.nodes:
            raise ClusterError(f"{ENVIRONMENT_KUBECONFIG}={given}: no node is ready for pods")
        return cluster
    local, fresh = _take_local(nodes=nodes, cpus=cpus, volumes=volumes, archives=archives, say=lambda _: None)
    if not fresh:
        try:
            local.restore()
            for archive in archives:
                local.load(archive)
        except BaseException:
            local.leave_standing()
            raise
    return local


def _take_local(
    *,
    nodes: int,
    cpus: float | None,
    volumes: int,
    archives: Sequence[Path],
    say: Callable[[str], None],
) -> tuple[LocalCluster, bool]:
    """Return the cluster of this machine, locked, and whether it was brought up just now."""
    programs = binaries.ensure_cluster()
    folder = golang.cache() / "cluster"
    site = cluster_site.take(folder)
    if site is None:
        raise ClusterError(f"{cluster_site.RECORD} cannot be made")
    if site.record.standing and all(site.pids(part) for part in CONTROL_PLANE):
        return LocalCluster(site, programs), False
    try:
        # What a killed session left behind.
        site.clear()
        site.record.folder = str(folder)
        control_plane.check_addresses()
        cluster = LocalCluster(site, programs)
        cluster.bring_up(nodes=nodes, cpus=cpus, volumes=volumes, archives=archives, say=say)
    except OSError as error:
        _abandon(site)
        raise ClusterError(f"the cluster cannot be brought up: {error}") from error
    except BaseException:
        _abandon(site)
        raise
    return cluster, True


def _abandon(site: Site) -> None:
    try:
        site.clear()
    finally:
        site.leave()


def given_kubeconfig() -> Path | None:
    """Return the kubeconfig of the cluster that the environment names; None where the tests use one of this machine."""
    value = os.environ.get(ENVIRONMENT_KUBECONFIG)
    if not value:
        return None
    # `make cluster-up` says: export KUBECONFIG=...
    record = cluster_site.read_record()
    own = record is not None and Path(value).absolute() == Path(record.folder, control_plane.ADMIN_KUBECONFIG)
    return None if own else Path(value).absolute()


def _any_kubectl() -> Path:
    found = shutil.which("kubectl")
    return Path(found) if found else binaries.ensure_programs("kubectl") / "kubectl"


def _running() -> LocalCluster:
    site = cluster_site.peek()
    if site is None:
        raise ClusterError("no cluster is up; bring one up: make cluster-up")
    return LocalCluster(site, binaries.ensure_cluster())


def _up(options: argparse.Namespace) -> None:
    started = time.monotonic()

    def say(line: str) -> None:
        if sys.stderr.isatty():
            sys.stderr.write(f"{time.monotonic() - started:6.1f} s  {line}\n")

    prepare()
    cluster, fresh = _take_local(
        nodes=options.nodes, cpus=options.node_cpus, volumes=options.volumes, archives=options.archives, say=say
    )
    try:
        if not fresh:
            cluster.restore()
            for archive in options.archives:
                cluster.load(archive)
    finally:
        cluster.leave_standing()
    sys.stdout.write(f"export KUBECONFIG={shlex.quote(str(cluster.kubeconfig))}\n")
    sys.stdout.flush()
    word = "was up already" if not fresh else f"is up after {time.monotonic() - started:.0f} s"
    kubectl = cluster.command()[0]
    sys.stderr.write(f"the cluster {word}: {', '.join(cluster.nodes)}; kubectl: {kubectl}; end it: make cluster-down\n")


def _down(_options: argparse.Namespace) -> None:
    if cluster_site.read_record() is not None and os.geteuid() != 0:
        raise ClusterError("only root can take the cluster down")
    site = cluster_site.take()
    if site is None:
        sys.stderr.write("no cluster is up\n")
        return
    _abandon(site)


def _status(_options: argparse.Namespace) -> int:
    site = cluster_site.peek()
    if site is None:
        sys.stdout.write("no cluster is up\n")
        return 1
    record = site.record
    cluster = LocalCluster(site, binaries.ensure_cluster())
    used = f"in use by process {record.process} since {record.since}: {record.command}"
    lines = {
        "cluster": used if cluster_site.is_locked() else "up" if record.standing else "left behind",
        **cluster.state(),
        "kubeconfig": str(cluster.kubeconfig),
        "kubectl": cluster.command()[0],
        "logs": str(cluster.logs),
    }
    sys.stdout.write("".join(f"{name:25}{value}\n" for name, value in lines.items()))
    return 0


def _kubeconfig(_options: argparse.Namespace) -> None:
    sys.stdout.write(f"{_running().kubeconfig}\n")


def _load(options: argparse.Namespace) -> None:
    cluster = _running()
    for archive in options.archives:
        cluster.load(archive)


def _node(options: argparse.Namespace) -> None:
    cluster = _running()
    getattr(cluster, options.event)(options.node)
    if options.event in ("boot", "heal"):
        cluster.await_ready(options.node)


def _exec(options: argparse.Namespace) -> int:
    return subprocess.run([*_running().entering(options.node), *options.command], check=False).returncode


def _options() -> argparse.Namespace:
    def count(most: int) -> Callable[[str], int]:
        def parse(text: str) -> int:
            if not 1 <= int(text) <= most:
                raise ValueError(text)
            return int(text)

        parse.__name__ = f"number from 1 to {most}"
        return parse

    parser = argparse.ArgumentParser(
        prog="python -m tests.testbed.cluster", description="A real cluster on this machine."
    )
    commands = parser.add_subparsers(required=True, metavar="COMMAND")
    up = commands.add_parser("up", help="bring a cluster up; it stays until `down`")
    up.set_defaults(run=_up)
    variable = os.environ.get
    nodes = count(control_plane.MOST_NODES)
    up.add_argument("--nodes", type=nodes, default=variable("NODES") or "3", help="number of nodes ($NODES, 3)")
    up.add_argument(
        "--node-cpus",
        type=float,
        default=variable("NODE_CPUS") or None,
        help="of how many processors each node has the time ($NODE_CPUS, no limit)",
    )
    up.add_argument(
        "--volumes", type=count(99), default=variable("PVS") or "12", help="local volumes of each node ($PVS, 12)"
    )
    up.add_argument(
        "archives", nargs="*", type=Path, metavar="ARCHIVE", help="docker archive with images for the nodes"
    )
    commands.add_parser("down", help="remove all of it").set_defaults(run=_down)
    commands.add_parser("status", help="say in what state it is; status 1 when there is none").set_defaults(run=_status)
    commands.add_parser("kubeconfig", help="print the path of the kubeconfig").set_defaults(run=_kubeconfig)
    load = commands.add_parser("load", help="put images on every node")
    load.set_defaults(run=_load)
    load.add_argument("archives", nargs="+", type=Path, metavar="ARCHIVE", help="docker archive")
    node = commands.add_parser("node", help="power loss, power on, network partition, and its end")
    node.set_defaults(run=_node)
    node.add_argument("event", choices=("kill", "boot", "cut", "heal"))
    node.add_argument("node", help="n1, n2, ...")
    execute = commands.add_parser("exec", help="run a command on a node")
    execute.set_defaults(run=_exec)
    execute.add_argument("node", help="n1, n2, ...")
    execute.add_argument("command", nargs=argparse.REMAINDER, metavar="COMMAND", help="with its arguments")
    return parser.parse_args()


def main() -> int:
    """Run one command; status 1 and the reason on stderr when it fails."""

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    options = _options()
    try:
        return options.run(options) or 0
    except (ClusterError, golang.BuildError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 130


if __name__ == "__main__":
    sys.exit(main())
