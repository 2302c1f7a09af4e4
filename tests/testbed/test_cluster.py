"""What holds of the cluster's test bed on any machine. What needs a cluster is in tests/cluster/test_testbed.py."""

from __future__ import annotations

import json
import os
import shutil
import ssl
import subprocess
import sys
import unittest
from contextlib import suppress
from ipaddress import IPv4Network
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.testbed import binaries, cluster, cluster_site, commands, control_plane
from tests.testbed.certificate import Authority, signing_key
from tests.testbed.cluster import Cluster, obstacle, open_cluster
from tests.testbed.cluster_site import ClusterError, Record, take
from tests.testbed.clusters import ENVIRONMENT_KUBECONFIG
from tests.testbed.golang import BuildError

if TYPE_CHECKING:
    from collections.abc import Callable


@pytest.fixture
def record(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the path of a record of the test's own; who finds it locked does not wait."""
    monkeypatch.setattr(cluster_site, "LOCK_SECONDS", 0.0)
    return tmp_path / "cluster.json"


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Make this machine look like one on which nothing is in the way of a cluster."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(cluster_site, "own_cgroups", lambda: dict.fromkeys(cluster_site.HIERARCHIES, "/"))
    monkeypatch.setattr(cluster, "CGROUPS", tmp_path)
    for hierarchy in cluster_site.HIERARCHIES:
        (tmp_path / hierarchy).mkdir()
    monkeypatch.setattr(shutil, "which", lambda program, path: f"{path}/{program}")


def fake_kubectl(tmp_path: Path, script: str) -> Cluster:
    """Return a given cluster whose kubectl is a shell script."""
    kubectl = tmp_path / "kubectl"
    kubectl.write_text(f"#!/bin/sh\n{script}\n")
    kubectl.chmod(0o755)
    return Cluster(tmp_path / "kubeconfig", kubectl)


def handshake(server: ssl.SSLContext, client: ssl.SSLContext, name: str) -> Any:  # noqa: ANN401 - as ssl has it
    """Let two sides agree in memory, the client expecting `name`; return what the server learns of the client."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    sides = [
        client.wrap_bio(to_client, to_server, server_hostname=name),
        server.wrap_bio(to_server, to_client, server_side=True),
    ]
    # The client has said its last word after its second turn, and the server then after its own.
    for _ in range(3):
        for side in sides:
            with suppress(ssl.SSLWantReadError):
                side.do_handshake()
    return sides[1].getpeercert()


def node(name: str, *, ready: str = "True", **spec: object) -> dict[str, object]:
    """Return a node as the API has it."""
    return {
        "metadata": {"name": name},
        "spec": spec,
        "status": {"conditions": [{"type": "Ready", "status": ready}]},
    }


@pytest.mark.usefixtures("able")
def test_nothing_is_in_the_way() -> None:
    """Where root has cgroup v1 and all programs, there is no obstacle."""
    assert obstacle() is None


@pytest.mark.usefixtures("able")
def test_who_is_not_root_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without root, one line says so, and what can be done instead."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    line = obstacle()

    assert line is not None
    assert "become root" in line
    assert "KUBECONFIG=FILE make test-cluster" in line
    assert "\n" not in line


@pytest.mark.usefixtures("able")
def test_a_machine_with_cgroup_v2_is_told_so(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where there is cgroup v2 alone, one line says that v1 is needed, and what can be done instead."""
    monkeypatch.setattr(cluster_site, "own_cgroups", lambda: {"": "/user.slice"})

    line = obstacle()

    assert line is not None
    assert "cgroup v1" in line
    assert "memory" in line
    assert "; use a cluster of yours: KUBECONFIG=FILE make test-cluster" in line


@pytest.mark.usefixtures("able")
def test_missing_programs_are_named_with_their_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not installed is named as one apt-get line, each package once."""
    absent = {"containerd", "ctr", "tini"}
    monkeypatch.setattr(shutil, "which", lambda program, path: None if program in absent else path)

    line = obstacle()

    assert line is not None
    assert "apt-get install containerd tini;" in line


def test_the_place_is_one_processs_at_a_time(record: Path, tmp_path: Path) -> None:
    """While one has the place, another is told who; when it is given back without a cluster, nothing is left."""
    first = take(tmp_path / "state", path=record)
    assert first is not None

    with pytest.raises(ClusterError, match=f"in use by process {os.getpid()} since "):
        take(tmp_path / "state", path=record)
    assert cluster_site.is_locked(record)

    first.leave()
    assert not record.exists()
    assert not cluster_site.is_locked(record)


def test_the_lock_goes_with_its_holder(record: Path, tmp_path: Path) -> None:
    """A process that is killed while it has the place does not keep it, and what it noted is found."""
    program = (
        "import os, pathlib, signal, sys\n"
        "from tests.testbed.cluster_site import take\n"
        "site = take(pathlib.Path(sys.argv[1]), path=pathlib.Path(sys.argv[2]))\n"
        "site.record.nodes = 7\n"
        "site.save()\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "state"), str(record)]
    subprocess.run(command, cwd=cluster_site.ROOT, check=False, timeout=60)

    site = take(path=record)

    assert site is not None
    assert site.record.nodes == 7
    assert site.folder == tmp_path / "state"
    site.leave()


def test_what_stands_stays_noted(record: Path, tmp_path: Path) -> None:
    """The record of a cluster that stays up outlives the lock, and can be rewritten with a shorter one."""
    site = take(tmp_path / "state", path=record)
    assert site is not None
    site.record.cgroups = {"pids": str(tmp_path / ("long" * 50))}
    site.record.standing = True
    site.save()
    site.record.cgroups = {"pids": str(tmp_path / "short")}
    site.leave()

    assert cluster_site.read_record(record) == site.record
    found = take(path=record)
    assert found is not None
    assert found.record.standing
    found.record.cgroups = {}
    found.leave()


def test_without_a_cluster_there_is_nothing_to_lock(record: Path) -> None:
    """Where no cluster is, none is found, and looking for it leaves nothing behind; an empty record goes as well."""
    assert take(path=record) is None
    assert cluster_site.peek(record) is None
    assert not record.exists()

    record.touch()
    assert take(path=record) is None
    assert not record.exists()


def test_clearing_removes_what_was_made_and_nothing_else(record: Path, tmp_path: Path) -> None:
    """State and empty folders go; a folder into which somebody else put a file stays."""
    empty, used = tmp_path / "empty", tmp_path / "used"
    for folder in (empty, used, tmp_path / "state" / "log"):
        folder.mkdir(parents=True)
    (used / "file").touch()
    site = take(tmp_path / "state", path=record)
    assert site is not None
    site.record.made = [str(empty), str(used)]

    site.clear()
    site.leave()

    assert sorted(path.name for path in tmp_path.iterdir()) == ["used"]


@pytest.mark.parametrize(("standing", "kept"), [(True, True), (False, False)])
def test_the_guard_clears_what_was_not_meant_to_stand(
    record: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, standing: bool, kept: bool
) -> None:
    """When the guard gets the lock, a cluster that stands stays as it is, and any other one is taken down."""
    state = tmp_path / "state"
    state.mkdir()
    record.write_text(json.dumps(vars(Record(folder=str(state), process=1, command="", since="", standing=standing))))
    monkeypatch.setattr(sys, "argv", ["cluster_site", str(record)])

    assert cluster_site.main() == 0

    assert state.exists() == kept
    assert record.exists() == kept


def test_the_guard_has_nothing_to_do_when_all_is_gone(record: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A guard that starts after its cluster is gone ends at once."""
    monkeypatch.setattr(sys, "argv", ["cluster_site", str(record)])

    assert cluster_site.main() == 0


@pytest.mark.parametrize(
    ("routes", "taken"),
    [
        ([{"dst": "default", "dev": "eth0"}, {"dst": "192.168.1.0/24", "dev": "eth0"}, {"dst": "127.0.0.1"}], False),
        ([{"dst": "0.0.0.0/1", "dev": "vpn0"}, {"dst": "128.0.0.0/1", "dev": "vpn0"}], False),
        ([{"dst": "10.187.0.77", "dev": "vpn0"}], True),
        ([{"dst": "10.0.0.0/8", "dev": "vpn0"}], True),
    ],
)
def test_addresses_that_are_taken_are_noticed(
    routes: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, *, taken: bool
) -> None:
    """A route into the cluster's addresses is an error that names it; a route to everywhere is none."""
    monkeypatch.setattr(commands, "run", lambda *_, **__: json.dumps(routes))

    if not taken:
        control_plane.check_addresses()
        return
    with pytest.raises(ClusterError, match="is vpn0"):
        control_plane.check_addresses()


def test_every_node_has_addresses_of_its_own() -> None:
    """Nodes and their pods never share an address, and all lie in the networks that are checked."""
    numbers = range(1, control_plane.MOST_NODES + 1)
    pods = [IPv4Network(control_plane.pod_range(number)) for number in numbers]

    assert len({control_plane.node_address(number) for number in numbers}) == len(numbers)
    assert all(pod.subnet_of(control_plane.POD_NETWORK) for pod in pods)
    assert not any(one.overlaps(other) for one in pods for other in pods if one is not other)


def test_volumes_lie_on_their_nodes() -> None:
    """The default storage class has so many volumes of each node, each to be found there only."""
    storage_class, *volumes = control_plane.storage(["n1", "n2"], 3)["items"]

    assert storage_class["metadata"]["annotations"] == {"storageclass.kubernetes.io/is-default-class": "true"}
    places = [
        volume["spec"]["nodeAffinity"]["required"]["nodeSelectorTerms"][0]["matchExpressions"][0]["values"]
        for volume in volumes
    ]
    assert places == [["n1"]] * 3 + [["n2"]] * 3
    assert len({volume["metadata"]["name"] for volume in volumes}) == 6


def test_pods_are_expected_where_they_can_run(tmp_path: Path) -> None:
    """Of a given cluster, nodes that are not ready, cordoned or tainted against pods are none of its nodes."""
    items = [
        node("ready"),
        node("not-ready", ready="False"),
        node("cordoned", unschedulable=True),
        node("control-plane", taints=[{"effect": "NoSchedule"}]),
        node("preferred-elsewhere", taints=[{"effect": "PreferNoSchedule"}]),
    ]
    given = fake_kubectl(tmp_path, f"echo '{json.dumps({'items': items})}'")

    assert given.nodes == ["ready", "preferred-elsewhere"]


def test_kubectl_gets_the_kubeconfig_and_its_input(tmp_path: Path) -> None:
    """Kubectl runs with the cluster's kubeconfig, reads what it is given, and what it prints comes back."""
    given = fake_kubectl(tmp_path, 'echo "$@"; cat')

    assert given.kubectl("apply", "-f", "-", stdin="input") == (
        f"--kubeconfig={tmp_path / 'kubeconfig'} apply -f -\ninput"
    )


def test_a_failure_of_kubectl_says_why(tmp_path: Path) -> None:
    """The error has the command and what kubectl complained of."""
    given = fake_kubectl(tmp_path, "echo no such pod >&2; exit 1")

    with pytest.raises(ClusterError, match=r"kubectl .*get pod example: no such pod"):
        given.kubectl("get", "pod", "example")


def test_kubectl_does_not_take_longer_than_it_may(tmp_path: Path) -> None:
    """A kubectl that hangs is ended at its deadline, with an error."""
    given = fake_kubectl(tmp_path, "exec sleep 60")

    with pytest.raises(ClusterError, match=r"not done after 0\.1 s"):
        given.kubectl("get", "pods", timeout=0.1)


@pytest.mark.parametrize(
    "event",
    [
        lambda given: given.kill("n1"),
        lambda given: given.boot("n1"),
        lambda given: given.cut("n1"),
        lambda given: given.heal("n1"),
        lambda given: given.network("n1"),
        lambda given: given.load(Path("image.tar")),
    ],
)
def test_nothing_happens_to_the_nodes_of_a_given_cluster(event: Callable[[Cluster], object], tmp_path: Path) -> None:
    """A test that asks for it is skipped, and the reason names the variable."""
    with pytest.raises(unittest.SkipTest, match=ENVIRONMENT_KUBECONFIG):
        event(fake_kubectl(tmp_path, "exit 1"))


def test_a_given_cluster_must_have_a_node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A given cluster on which no pod can run is an error, before any test runs."""
    fake_kubectl(tmp_path, "echo '{\"items\": []}'")
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr(cluster, "PATH", os.environ["PATH"])
    monkeypatch.setenv(ENVIRONMENT_KUBECONFIG, str(tmp_path / "kubeconfig"))

    with pytest.raises(ClusterError, match="no node is ready for pods"):
        open_cluster()


@pytest.mark.parametrize("option", ["--nodes=0", "--nodes=10", "--nodes=many", "--volumes=100", "--node-cpus=x"])
def test_impossible_sizes_are_refused(option: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A size that cannot be is a usage error, before anything is made."""
    monkeypatch.setattr(sys, "argv", ["cluster", "up", option])

    with pytest.raises(SystemExit) as ended:
        cluster.main()

    assert ended.value.code == 2


def test_sizes_may_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """What make was given on its command line reaches `up` as variables; empty ones count as not given."""
    monkeypatch.setattr(sys, "argv", ["cluster", "up"])
    for name, value in (("NODES", "2"), ("NODE_CPUS", "0.6"), ("PVS", "")):
        monkeypatch.setenv(name, value)

    options = cluster._options()

    assert (options.nodes, options.node_cpus, options.volumes) == (2, 0.6, 12)


def test_an_authority_vouches_for_servers_and_clients(tmp_path: Path) -> None:
    """A server and a client that trust the authority accept each other, by the strict rules of Python 3.13."""
    authority = Authority(tmp_path)
    server = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=authority.certificate)
    server.load_cert_chain(*authority.server("server", names=["kubernetes.default"], addresses=["10.0.0.1"]))
    client = ssl.create_default_context(cafile=authority.certificate)
    client.load_cert_chain(*authority.client("operator", group="operators"))
    for context in (server, client):
        context.verify_mode = ssl.CERT_REQUIRED
        context.verify_flags |= ssl.VERIFY_X509_STRICT

    for name in ("kubernetes.default", "10.0.0.1"):
        certificate = handshake(server, client, name)
        subject = {key: value for ((key, value),) in certificate["subject"]}
        assert subject == {"commonName": "operator", "organizationName": "operators"}
    with pytest.raises(ssl.SSLCertVerificationError, match="IP address mismatch"):
        handshake(server, client, "10.0.0.2")


def test_keys_are_their_owners(tmp_path: Path) -> None:
    """What is secret can be read by its owner alone."""
    authority = Authority(tmp_path)
    _, server_key = authority.server("server", names=["example"], addresses=[])
    _, client_key = authority.client("client", group="example")
    private, _ = signing_key(tmp_path)

    assert [file.stat().st_mode & 0o077 for file in (server_key, client_key, private)] == [0, 0, 0]


def test_the_programs_fit_each_other() -> None:
    """The module has one version of etcd's server and command, and the libraries that belong to its Kubernetes."""
    assert binaries.version("go.etcd.io/etcd/server/v3") == binaries.version("go.etcd.io/etcd/etcdctl/v3")
    minor = binaries.version("k8s.io/kubernetes").partition(".")[2]
    assert f"k8s.io/client-go => k8s.io/client-go v0.{minor}" in (binaries.MODULE / "go.mod").read_text()


def test_a_program_that_the_module_does_not_build_is_an_error() -> None:
    """Whoever asks for the version of a module that is not required is told so."""
    with pytest.raises(BuildError, match="does not require"):
        binaries.version("example.com/unknown")
