"""What a test can do with a cluster: with any, and with the one of this machine."""

from __future__ import annotations

import json
import os
import shutil
import time
import unittest
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tests.testbed import control_plane, standins
from tests.testbed.cluster_site import HIERARCHIES, MOUNTS, ClusterError, Processor, Site, run
from tests.testbed.connection import APIError, Connection
from tests.testbed.control_plane import node_address, pod_range

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from typing import Any, NoReturn, Self

ENVIRONMENT_KUBECONFIG = "LEADER_ELECTOR_TEST_CLUSTER"
CONTROL_PLANE = ("switch", "etcd", "kube-apiserver", "kube-controller-manager", "kube-scheduler", "coredns")
READY_SECONDS = 180.0
LOAD_SECONDS = 300.0


class Cluster:
    """A cluster, seen by its administrator. Made by `open_cluster`.

    This class serves any cluster. A test that asks it for what only a cluster of our own can do is skipped, with the
    reason.
    """

    given = True
    """The cluster is not ours: `load`, and all that happens to a node, is impossible."""

    def __init__(self, kubeconfig: Path, kubectl: Path) -> None:
        self.kubeconfig = kubeconfig
        self._kubectl = kubectl
        self._environment: Mapping[str, str] = os.environ

    def command(self, *arguments: str) -> list[str]:
        """Return the command line of kubectl on this cluster, for a process that the caller starts."""
        return [str(self._kubectl), f"--kubeconfig={self.kubeconfig}", *arguments]

    def kubectl(self, *arguments: str, stdin: str | None = None, timeout: float = 60) -> str:
        """Run kubectl to its end, at most `timeout` seconds, and return what it printed. Raises ClusterError."""
        command = self.command(*arguments)
        return run(command, seconds=timeout, stdin=stdin, environment=self._environment, tether=True)

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes on which pods without tolerations can run. Raises ClusterError."""
        return [
            node["metadata"]["name"]
            for node in json.loads(self.kubectl("get", "nodes", "--output=json"))["items"]
            if _is_ready(node)
            and not node["spec"].get("unschedulable")
            and not any(taint["effect"] != "PreferNoSchedule" for taint in node["spec"].get("taints", []))
        ]

    def network(self, node: str) -> Path:
        """Return the file of a node's network namespace, for setns(2); it is another one after `boot`."""
        _unavailable(node)

    def load(self, archive: Path) -> None:
        """Put a docker archive's images on every node, also on those that are booted later. Raises ClusterError."""
        _unavailable(str(archive))

    def kill(self, node: str) -> None:
        """Take a node's power: all that runs there is gone at once, and what is on its disk stays."""
        _unavailable(node)

    def boot(self, node: str) -> None:
        """Give a node its power back. It takes a few seconds until it is ready: `await_ready`."""
        _unavailable(node)

    def cut(self, node: str) -> None:
        """Take a node's network: what runs there goes on, and hears of nothing outside of the node."""
        _unavailable(node)

    def heal(self, node: str) -> None:
        """Give a node its network back. It takes a few seconds until it is ready: `await_ready`."""
        _unavailable(node)

    def await_ready(self, *nodes: str, seconds: float = READY_SECONDS) -> None:
        """Wait until the API server has heard from these nodes, or from all, that they are ready.

        Their word counts from after the last `boot` or `heal`. Raises ClusterError.
        """
        names = [f"node/{node}" for node in nodes or self.nodes]
        self.kubectl("wait", "--for=condition=Ready", f"--timeout={seconds:.0f}s", *names, timeout=seconds + 10)

    def restore(self) -> None:
        """Undo what was done to nodes, and wait until all are ready. Raises ClusterError."""

    @property
    def stays(self) -> bool:
        """Whether the cluster, and what was made there, is still there after `close`."""
        return True

    def close(self) -> None:
        """Take down what `open_cluster` brought up. Raises ClusterError."""

    def __enter__(self) -> Self:
        """Return the cluster itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the cluster."""
        self.close()


class LocalCluster(Cluster):
    """The cluster of this machine, at the place where it is or shall be."""

    given = False

    def __init__(self, site: Site, programs: Path) -> None:
        super().__init__(site.folder / control_plane.ADMIN_KUBECONFIG, programs / "kubectl")
        # No proxy stands between this machine and itself.
        self._environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
        self._site = site
        self._programs = programs
        self._standing = site.record.standing
        self._returned: dict[str, datetime] = {}

    @property
    def nodes(self) -> list[str]:
        """The names of the nodes, whatever state they are in."""
        return [f"n{number}" for number in range(1, self._site.record.nodes + 1)]

    @property
    def logs(self) -> Path:
        """The folder with the logs of the cluster's programs."""
        return self._site.logs

    def network(self, node: str) -> Path:
        """Return the file of a node's network namespace, for setns(2); it is another one after `boot`."""
        return Path(f"/proc/{self._first_process(node)}/ns/net")

    def load(self, archive: Path) -> None:
        """Put a docker archive's images on every node, also on those that are booted later. Raises ClusterError."""
        kept = self._site.folder / "images" / archive.name
        self._keep(archive, kept)
        running = [node for node in self.nodes if self._site.pids(node)]
        command = ("ctr", "--namespace=k8s.io", "images", "import", str(kept))
        with ThreadPoolExecutor() as nodes:
            for _ in nodes.map(lambda node: self.inside(node, *command, seconds=LOAD_SECONDS), running):
                pass

    def inside(self, node: str, *command: str, seconds: float = 30) -> str:
        """Run a command on a node, in its namespaces, and return what it printed. Raises ClusterError."""
        return run([*self.entering(node), *command], seconds=seconds)

    def entering(self, node: str) -> list[str]:
        """Return what stands before a command that shall run on a node."""
        namespaces = ("--mount", "--net", "--pid", "--uts", "--ipc", "--cgroup")
        return ["nsenter", f"--target={self._first_process(node)}", *namespaces, "--"]

    @property
    def node_cpus(self) -> float | None:
        """Of how many processors each node has the time; None where that is not limited."""
        return self._site.record.node_cpus

    def processor(self, node: str) -> Processor:
        """Return how much of the processor a node has used since it was booted. Raises ClusterError."""
        self._number(node)
        return self._site.processor(node)

    def control_plane_processes(self) -> list[int]:
        """Return the processes of the control plane, which run on the machine and not on a node."""
        return [pid for part in CONTROL_PLANE for pid in self._site.pids(part)]

    def address(self, node: str) -> str:
        """Return the address at which this machine reaches a node, and the ports that it has for Services."""
        return node_address(self._number(node))

    def kill(self, node: str) -> None:
        """Take a node's power: all that runs there is gone at once, and what is on its disk stays."""
        # Its connections do not end; nobody hears from it any more.
        self._set_link(node, "down")
        self._site.end(node)

    def boot(self, node: str) -> None:
        """Give a node its power back. It takes a few seconds until it is ready: `await_ready`."""
        if self._site.pids(node):
            raise ClusterError(f"{node} is running")
        number = self._number(node)
        # It lives as long as somebody has a socket in the network that the node had before.
        if self._link(node) is not None:
            self._in_switch("del", node)
        record, folder = self._site.record, self._site.folder
        disk = folder / "nodes" / node
        disk.mkdir(parents=True, exist_ok=True)
        routes = [f"{pod_range(i)}={node_address(i)}" for i in range(1, record.nodes + 1) if i != number]
        variables = {
            "NODE": node,
            "ADDRESS": node_address(number),
            "PREFIX": control_plane.NODE_NETWORK.prefixlen,
            "GATEWAY": control_plane.MACHINE,
            "SWITCH": self._switch(),
            "ROUTES": " ".join(routes),
            "POD_RANGE": pod_range(number),
            "POD_NETWORK": control_plane.POD_NETWORK,
            "DNS": control_plane.MACHINE,
            "HIERARCHIES": " ".join(HIERARCHIES),
            "DISK": disk,
            "MOUNTS": " ".join(f"{name}={path}" for name, path in MOUNTS.items()),
            "IMAGES": folder / "images",
            "PAUSE": standins.PAUSE,
            "PROGRAMS": self._programs,
            "CA": folder / "pki" / "ca.crt",
            "KUBELET_CONFIG": folder / f"{node}.kubeconfig",
            "PROXY_CONFIG": folder / "kube-proxy.kubeconfig",
            "LOGS": self._site.logs,
        }
        self._returned[node] = datetime.now(UTC)
        script = Path(__file__).with_name("nodes") / "node.sh"
        self._site.start(
            node, ["unshare", "--net", "bash", script], variables=variables, cpus=record.node_cpus, node=True
        )

    def cut(self, node: str) -> None:
        """Take a node's network: what runs there goes on, and hears of nothing outside of the node."""
        self._set_link(node, "down")

    def heal(self, node: str) -> None:
        """Give a node its network back. It takes a few seconds until it is ready: `await_ready`."""
        self._returned[node] = datetime.now(UTC)
        self._set_link(node, "up")

    def await_ready(self, *nodes: str, seconds: float = READY_SECONDS) -> None:
        """Wait until the API server has heard from these nodes, or from all, that they are ready.

        Their word counts from after the last `boot` or `heal`. Raises ClusterError.
        """
        for node in nodes or self.nodes:
            self._await(partial(self._has_reported, node), f"{node} is not ready", node, seconds=seconds)

    def restore(self) -> None:
        """Undo what was done to nodes, and wait until all are ready. Raises ClusterError."""
        for node in self.nodes:
            if not self._site.pids(node):
                self.boot(node)
            elif self._is_cut(node):
                self.heal(node)
        self.await_ready()

    @property
    def stays(self) -> bool:
        """Whether the cluster was up already."""
        return self._standing

    def close(self) -> None:
        """Take the cluster down if `open_cluster` brought it up, or leave it as it was found. Raises ClusterError."""
        if self._standing:
            try:
                self.restore()
            finally:
                self._site.leave()
            return
        try:
            self._site.clear()
        finally:
            self._site.leave()

    def bring_up(
        self, *, nodes: int, cpus: float | None, volumes: int, archives: Sequence[Path], say: Callable[[str], None]
    ) -> None:
        """Start everything, and wait until it works. The place must be clear. Raises ClusterError."""
        site, folder = self._site, self._site.folder
        site.record.nodes, site.record.node_cpus = nodes, cpus
        site.prepare(link=control_plane.LINK)
        site.guard()
        for archive in (standins.archive(standins.PAUSE), *archives):
            self._keep(archive, folder / "images" / archive.name)
        control_plane.write_credentials(folder, self.nodes)
        self._connect_switch()
        for part, command in control_plane.commands(folder, self._programs).items():
            site.start(part, command)
            if part == "kube-apiserver":
                self._await(self._api_is_ready, "the API server is not ready", "etcd", part)
                say("the API server is ready")
        for node in self.nodes:
            self.boot(node)
        self.kubectl("apply", "--filename=-", stdin=json.dumps(control_plane.storage(self.nodes, volumes)))
        # Nobody has reported for them before.
        self._returned.clear()
        self._await(self._has_accounts, "the controller manager does not work", *CONTROL_PLANE)
        for node in self.nodes:
            self.await_ready(node)
            self.inside(node, "mkdir", "--parents", *map(control_plane.volume_folder, range(1, volumes + 1)))
            say(f"{node} is ready")

    def leave_standing(self) -> None:
        """Leave the cluster up when this process ends, until `down`."""
        self._site.record.standing = True
        self._site.leave()

    def state(self) -> dict[str, str]:
        """Return in what state each part is: its processes', or for a node what the API server says."""
        site = self._site
        parts = {part: "running" if site.pids(part) else "ended" for part in CONTROL_PLANE}
        for node in self.nodes:
            if not site.pids(node):
                parts[node] = "without power"
            elif self._is_cut(node):
                parts[node] = "without network"
            else:
                try:
                    parts[node] = "ready" if _is_ready(self._request("GET", f"/api/v1/nodes/{node}")) else "not ready"
                except (OSError, APIError) as error:
                    parts[node] = f"unknown: {error}"
        return parts

    def _number(self, node: str) -> int:
        if node not in self.nodes:
            raise ClusterError(f"there is no node {node}, only {', '.join(self.nodes)}")
        return self.nodes.index(node) + 1

    def _switch(self) -> int:
        self._site.check("switch")
        return self._site.pids("switch")[0]

    def _in_switch(self, *command: str) -> str:
        return run(["nsenter", "--net", f"--target={self._switch()}", "ip", "-json", "link", *command])

    def _link(self, node: str) -> dict[str, Any] | None:
        links: list[dict[str, Any]] = json.loads(self._in_switch("show"))
        return next((link for link in links if link["ifname"] == node), None)

    def _set_link(self, node: str, state: str) -> None:
        self._number(node)
        if not self._site.pids(node):
            raise ClusterError(f"{node} has no power")
        self._in_switch("set", node, state)

    def _is_cut(self, node: str) -> bool:
        link = self._link(node)
        return link is None or "UP" not in link["flags"]

    def _first_process(self, node: str) -> int:
        self._number(node)
        for pid in self._site.pids(node):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except OSError:
                continue
            numbers = status.partition("NSpid:")[2].partition("\n")[0].split()
            # A process has a number in each pid namespace around it; pods' are one level deeper.
            if len(numbers) == len(_own_numbers()) + 1 and numbers[-1] == "1":
                return pid
        raise ClusterError(f"{node} has no power")

    def _keep(self, archive: Path, kept: Path) -> None:
        kept.unlink(missing_ok=True)
        try:
            kept.hardlink_to(archive.resolve())
        except FileNotFoundError:
            raise ClusterError(f"{archive}: there is no such archive") from None
        except OSError:  # on another file system
            shutil.copyfile(archive, kept)

    def _connect_switch(self) -> None:
        script = Path(__file__).with_name("nodes") / "switch.sh"
        reading, writing = os.pipe()
        with os.fdopen(reading) as output:
            try:
                self._site.start(
                    "switch",
                    ["unshare", "--net", "bash", script],
                    variables={"LINK": control_plane.LINK, "MACHINE": os.getpid()},
                    output=writing,
                )
            finally:
                os.close(writing)
            if output.readline() != "ready\n":
                raise ClusterError(f"no network for the nodes:\n{self._site.tail('switch')}")
        address = f"{control_plane.MACHINE}/{control_plane.NODE_NETWORK.prefixlen}"
        run(["ip", "addr", "add", address, "dev", control_plane.LINK])
        run(["ip", "link", "set", control_plane.LINK, "up"])
        for number in range(1, self._site.record.nodes + 1):
            run(["ip", "route", "add", pod_range(number), "via", node_address(number)])

    def _await(self, condition: Callable[[], bool], problem: str, *parts: str, seconds: float = READY_SECONDS) -> None:
        deadline = time.monotonic() + seconds
        why = ""
        while True:
            try:
                if condition():
                    return
            except (OSError, APIError) as error:
                why = f" ({error})"
            self._site.check(*parts)
            if time.monotonic() > deadline:
                logs = "\n".join(self._site.tail(part) for part in parts)
                raise ClusterError(f"{problem} after {seconds:g} s{why}\n{logs}")
            time.sleep(0.05)

    def _connection(self) -> Connection:
        config = json.loads(self.kubeconfig.read_text())
        cluster, user = config["clusters"][0]["cluster"], config["users"][0]["user"]
        ca_file = Path(cluster["certificate-authority"])
        return Connection.trusting(cluster["server"], ca_file=ca_file, token=user["token"])

    def _request(self, method: str, path: str) -> Any:  # noqa: ANN401 - JSON
        return self._connection().request(method, path)

    def _api_is_ready(self) -> bool:
        # It serves before the roles of its clients are there; who asks then is refused, and ends.
        return bool(self._connection().read("GET", "/readyz"))

    def _has_accounts(self) -> bool:
        return bool(self._request("GET", "/api/v1/namespaces/default/serviceaccounts/default"))

    def _has_reported(self, node: str) -> bool:
        found = self._request("GET", f"/api/v1/nodes/{node}")
        if not _is_ready(found):
            return False
        returned = self._returned.get(node)
        if returned is None:
            return True
        # A kubelet reports its state when it starts, and renews its lease every ten seconds.
        heartbeats = [condition["lastHeartbeatTime"] for condition in found["status"]["conditions"]]
        lease = self._request("GET", f"/apis/coordination.k8s.io/v1/namespaces/kube-node-lease/leases/{node}")
        return any(
            datetime.fromisoformat(reported) > returned for reported in (*heartbeats, lease["spec"]["renewTime"])
        )


def _own_numbers() -> list[str]:
    return Path("/proc/self/status").read_text().partition("NSpid:")[2].partition("\n")[0].split()


def _is_ready(node: Any) -> bool:  # noqa: ANN401 - JSON
    conditions = node["status"].get("conditions", [])
    return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)


def _unavailable(*_: str) -> NoReturn:
    raise unittest.SkipTest(f"needs a cluster of its own: the nodes of {ENVIRONMENT_KUBECONFIG} are not ours")
