"""What the other tests rely on in the cluster of the test bed: its network, the losses of its nodes, and its end."""

from __future__ import annotations

import json
import os
import secrets
import signal
import subprocess
import sys
import time
import unittest
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.cluster.opening import LABEL
from tests.testbed import cluster_site, dockerarchive
from tests.testbed.cluster import ClusterError, LocalCluster, obstacle
from tests.testbed.processes import is_running

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.cluster.opening import Ground

PORT = 4040
READY = "--timeout=60s"


@pytest.fixture
def cluster(ground: Ground) -> Iterator[LocalCluster]:
    """Serve the cluster of this machine; whatever a test did to its nodes, the next one finds them in order."""
    if not isinstance(ground.cluster, LocalCluster):
        raise unittest.SkipTest("about the test bed's own cluster")
    yield ground.cluster
    ground.cluster.restore()


@pytest.fixture
def namespace(ground: Ground) -> Iterator[str]:
    """Make a namespace for the test; when the run ends, it is gone."""
    name = f"testbed-{secrets.token_hex(4)}"
    metadata = {"name": name, "labels": {LABEL: ground.run}}
    text = json.dumps({"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    ground.cluster.kubectl("create", "--filename=-", stdin=text)
    yield name
    ground.cluster.kubectl("delete", "namespace", name, "--wait=false")


def manifests(ground: Ground, nodes: int) -> str:
    """Return a StatefulSet with a pod on every node, each an HTTP server with a shell beside it, and its Services."""
    labels = {"app": "web"}
    spread = {
        "maxSkew": 1,
        "topologyKey": "kubernetes.io/hostname",
        "whenUnsatisfiable": "DoNotSchedule",
        "labelSelector": {"matchLabels": labels},
    }
    server = {
        "name": "server",
        "image": ground.image.name,
        "imagePullPolicy": ground.image.pull_policy,
        # It answers whoever leads, also when it may ask no API server about that.
        "args": ["--election=example", f"--http=:{PORT}"],
        "readinessProbe": {"httpGet": {"path": "/", "port": PORT}, "periodSeconds": 1},
    }
    shell = {"name": "shell", "image": ground.image.curl, "command": ["sleep", "infinity"]}
    claim = {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "1Mi"}}}
    pod = {"terminationGracePeriodSeconds": 1, "topologySpreadConstraints": [spread], "containers": [server, shell]}
    pod["containers"][1]["volumeMounts"] = [{"name": "data", "mountPath": "/data"}]  # type: ignore[index]
    stateful_set = {
        "serviceName": "web",
        "replicas": nodes,
        "podManagementPolicy": "Parallel",
        "selector": {"matchLabels": labels},
        "template": {"metadata": {"labels": labels}, "spec": pod},
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": claim}],
    }
    ports = [{"port": PORT}]
    items: list[dict[str, Any]] = [
        {"apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "web"}, "spec": stateful_set},
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"clusterIP": "None", "selector": labels, "ports": ports},
        },
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "any"},
            "spec": {"selector": labels, "ports": ports},
        },
    ]
    return json.dumps({"apiVersion": "v1", "kind": "List", "items": items})


def pod_on(cluster: LocalCluster, namespace: str, node: str) -> dict[str, Any]:
    """Return the test's pod on a node."""
    told = cluster.kubectl(
        "--namespace", namespace, "get", "pods", f"--field-selector=spec.nodeName={node}", "--output=json"
    )
    (pod,) = json.loads(told)["items"]
    return dict(pod)


def restarts(pod: dict[str, Any]) -> int:
    """Return how often a pod's containers were started again."""
    return sum(one["restartCount"] for one in pod["status"]["containerStatuses"])


def start(ground: Ground, cluster: LocalCluster, namespace: str) -> None:
    """Start the pods of `manifests`, and wait until they are ready."""
    text = manifests(ground, len(cluster.nodes))
    cluster.kubectl("--namespace", namespace, "apply", "--filename=-", stdin=text)
    cluster.kubectl("--namespace", namespace, "rollout", "status", "statefulset/web", READY, timeout=70)


def test_pods_reach_each_other_from_node_to_node(ground: Ground, cluster: LocalCluster, namespace: str) -> None:
    """From every node, the pods of all nodes are reached by name, a Service by its, and the API server by its."""
    start(ground, cluster, namespace)
    count = len(cluster.nodes)
    targets = [
        *(f"http://web-{number}.web:{PORT}/" for number in range(count)),
        f"http://any:{PORT}/",
        "https://kubernetes.default.svc/version",
    ]
    curl = ("curl", "--silent", "--show-error", "--max-time", "10", "--insecure")

    for number in range(count):
        ask = ("exec", f"web-{number}", "--container=shell", "--", *curl)
        answers = [cluster.kubectl("--namespace", namespace, *ask, target) for target in targets]
        assert answers[:-1] == ['{"name":""}'] * (count + 1)
        assert json.loads(answers[-1])["major"] == "1"
    assert {pod_on(cluster, namespace, node)["metadata"]["name"] for node in cluster.nodes} == {
        f"web-{number}" for number in range(count)
    }


def test_a_node_that_lost_its_power_starts_its_pods_again(
    ground: Ground, cluster: LocalCluster, namespace: str
) -> None:
    """Without power, nothing runs on a node; with it, the node is ready again, and so are its pods and volumes."""
    node = cluster.nodes[-1]
    start(ground, cluster, namespace)
    before = pod_on(cluster, namespace, node)
    name = before["metadata"]["name"]
    shell = ("--namespace", namespace, "exec", name, "--container=shell", "--")

    cluster.kill(node)
    with pytest.raises(ClusterError, match=f"{node} has no power"):
        cluster.network(node)
    with pytest.raises(ClusterError):
        cluster.kubectl(*shell, "true", timeout=10)

    cluster.boot(node)
    cluster.await_ready(node)
    deadline = time.monotonic() + 60
    while restarts(pod_on(cluster, namespace, node)) < restarts(before) + 2:
        assert time.monotonic() < deadline, "the pod's containers were not started again"
        time.sleep(0.1)
    cluster.kubectl("--namespace", namespace, "wait", "--for=condition=Ready", f"pod/{name}", READY, timeout=70)
    assert cluster.kubectl(*shell, "ls", "-d", "/data") == "/data\n"


def test_a_node_that_is_cut_off_goes_on_alone(ground: Ground, cluster: LocalCluster, namespace: str) -> None:
    """A pod on such a node is not reached and runs on; when the node has its network again, the same one is reached."""
    node = cluster.nodes[0]
    start(ground, cluster, namespace)
    before = pod_on(cluster, namespace, node)
    shell = ("--namespace", namespace, "exec", before["metadata"]["name"], "--container=shell", "--")

    cluster.cut(node)
    with pytest.raises(ClusterError):
        cluster.kubectl(*shell, "true", timeout=10)
    address = before["status"]["podIP"]
    ask = "import socket, sys; socket.create_connection((sys.argv[1], int(sys.argv[2])), timeout=5)"
    cluster.inside(node, sys.executable, "-c", ask, address, str(PORT))

    cluster.heal(node)
    cluster.await_ready(node)
    assert cluster.kubectl(*shell, "echo", "here") == "here\n"
    after = pod_on(cluster, namespace, node)
    assert (after["metadata"]["uid"], restarts(after)) == (before["metadata"]["uid"], restarts(before))


def test_images_reach_nodes_that_were_without_power(cluster: LocalCluster, tmp_path: Path) -> None:
    """What is loaded while a node has no power is there when it is booted, as on the others."""
    name = "docker.io/library/leader-elector-testbed:loaded"
    (tmp_path / "root").mkdir()
    (tmp_path / "root" / "file").write_text("content")
    archive = tmp_path / "loaded.tar"
    dockerarchive.write(archive, name=name, root=tmp_path / "root", config={})
    off = cluster.nodes[0]

    cluster.kill(off)
    cluster.load(archive)
    cluster.boot(off)
    cluster.await_ready(off)

    for node in cluster.nodes:
        assert name in cluster.inside(node, "ctr", "--namespace=k8s.io", "images", "ls", "--quiet").split()


def test_nobody_else_gets_a_cluster_that_is_in_use(cluster: LocalCluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """While a test session has the cluster of this machine, another one is told which process that is."""
    monkeypatch.setattr(cluster_site, "LOCK_SECONDS", 0.0)

    with pytest.raises(ClusterError, match=f"in use by process {os.getpid()} since"):
        cluster_site.take(cluster.kubeconfig.parent)


def test_what_a_killed_session_had_is_taken_down(tmp_path: Path) -> None:
    """When the process that brings a cluster up is killed, its processes, cgroups and files are gone soon after."""
    if problem := obstacle():
        raise unittest.SkipTest(problem)
    state, record = tmp_path / "state", tmp_path / f"leader-elector-test-{os.getpid()}.json"
    program = (
        "import pathlib, sys\n"
        "from tests.testbed.cluster_site import take\n"
        "state, record = map(pathlib.Path, sys.argv[1:])\n"
        "site = take(state, path=record)\n"
        "site.prepare(link='')\n"
        "site.guard()\n"
        "site.start('one', ['sleep', 'infinity'])\n"
        # Not in the session of its parent, and told that its terminal is gone: no reason to end.
        "site.start('node', ['sh', '-c', 'trap : HUP; setsid sleep infinity & wait'], node=True)\n"
        "while len(site.pids()) < 3: pass\n"
        "print(*site.pids(), flush=True)\n"
        "input()\n"
    )
    command = [sys.executable, "-c", program, str(state), str(record)]
    with subprocess.Popen(
        command, cwd=cluster_site.ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as session:
        assert session.stdout is not None
        pids = [int(pid) for pid in session.stdout.readline().split()]
        known = cluster_site.read_record(record)
        session.send_signal(signal.SIGKILL)
    assert known is not None
    assert len(pids) == 3

    deadline = time.monotonic() + 30
    while record.exists():
        assert time.monotonic() < deadline, "the guard did not take the cluster down"
        time.sleep(0.05)
    assert [pid for pid in pids if is_running(pid)] == []
    assert [cgroup for cgroup in known.cgroups.values() if Path(cgroup).exists()] == []
    assert not state.exists()
