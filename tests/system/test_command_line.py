"""The program as it is called: flags, variables, exit codes, what goes to standard error, signals, addresses."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import socket
import subprocess
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from sidecar import settings
from tests.testbed.connection import write_kubeconfig
from tests.testbed.ports import free_port
from tests.testbed.sidecar import PATIENCE, PROGRAM, Sidecar, Sidecars, environment, exchange, until

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.embedded import APIServer

SLOW = "60s"
"""A ttl with which nothing that waits for a renewal, a retry or a time-out comes back before a test's patience ends."""


def run(folder: Path, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
    """Run the program to its end."""
    return subprocess.run(
        [PROGRAM, *arguments],
        env=environment(folder, variables),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )


def refusal(done: subprocess.CompletedProcess[str], exit_code: int) -> str:
    """Return the one line with which the program ended, having seen that it is all there is."""
    assert (done.returncode, done.stdout) == (exit_code, "")
    assert re.fullmatch(r"leader-elector: [^\n]+\n", done.stderr), done.stderr
    return done.stderr


@pytest.fixture
def nowhere(tmp_path: Path) -> Path:
    """A kubeconfig for an API server that refuses connections."""
    return write_kubeconfig(tmp_path / "nowhere", url="http://127.0.0.1:1", ca_file=None, token="none")


@pytest.fixture
def silent(tmp_path: Path) -> Iterator[Path]:
    """A kubeconfig for an API server that takes connections and never says a word."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        yield write_kubeconfig(tmp_path / "silent", url=url, ca_file=None, token="none")


# -- What is said and done instead of starting -------------------------------------------------------------------------


@pytest.mark.parametrize("flag", ["--help", "-h"])
def test_help_is_the_usage(tmp_path: Path, flag: str) -> None:
    """Help goes to standard output, names every flag, and is no failure; nothing else is needed for it."""
    done = run(tmp_path, flag)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == settings.usage()
    assert all(f"--{option.flag} " in done.stdout for option in (settings.ELECTION, settings.TTL, settings.HTTP))


def test_an_unknown_flag_prints_the_usage(tmp_path: Path) -> None:
    """An unknown flag: the usage and a line that names the flag on standard error, exit 2, as the stock image does."""
    done = run(tmp_path, "--election=x", "--elektion-namespace=y")

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(settings.usage())
    *_, last = done.stderr.splitlines()
    assert "--elektion-namespace" in last
    assert "did you mean --election-namespace?" in last


@pytest.mark.parametrize("arguments", [(), ("--election=", "example")])
def test_a_missing_election_is_said_in_one_line(tmp_path: Path, arguments: Sequence[str]) -> None:
    """Without an election it does not start: exit non-zero, one line that says how to name it."""
    line = refusal(run(tmp_path, *arguments), 2)

    assert "--election" in line
    assert "ELECTION_NAME" in line


@pytest.mark.parametrize(
    ("source", "value", "accepted"),
    [
        ("--ttl", "10", "10s"),
        ("ELECTION_TTL", "ten seconds", "10s"),
        ("--http", "::1:4040", "[::1]:4040"),
        ("ELECTION_HTTP", ":65536", ":4040"),
        ("--election", "Example_1", "lower-case letters"),
        ("--id", "$(POD_NAME)", "printable"),
        ("ELECTION_ID", "i" * 254, "253"),
        ("--use-cluster-credentials", "maybe", "true"),
        ("ELECTION_RETRY_PERIOD", "7s", "renew deadline"),
    ],
)
def test_a_bad_value_is_said_in_one_line(tmp_path: Path, source: str, value: str, accepted: str) -> None:
    """A bad value: one line that names the flag or variable, the value and what is accepted; exit 2, no traceback."""
    flags = [f"{source}={value}"] if source.startswith("-") else []
    variables = {} if source.startswith("-") else {source: value}

    line = refusal(run(tmp_path, "--election=example", *flags, **variables), 2)

    assert source in line
    assert value[:60] in line
    assert accepted in line


def test_a_bad_kubeconfig_is_said_in_one_line(tmp_path: Path) -> None:
    """A kubeconfig that is missing, damaged, a folder, or without a context: exit 2 and a line with its path."""
    empty, damaged, contextless = tmp_path / "empty", tmp_path / "damaged", tmp_path / "contextless"
    empty.touch()
    damaged.write_text("clusters: [\n\tnot yaml")
    contextless.write_text(json.dumps({"apiVersion": "v1", "kind": "Config", "clusters": [], "users": []}))

    for path in (tmp_path / "missing", empty, damaged, contextless, tmp_path):
        http = f"--http=127.0.0.1:{free_port()}"
        assert str(path) in refusal(run(tmp_path, "--election=x", http, f"--kubeconfig={path}"), 2)
    assert str(damaged) in refusal(run(tmp_path, "--election=x", http, KUBECONFIG=str(damaged)), 2)


def test_a_kubeconfig_with_a_missing_authority_is_said_in_one_line(tmp_path: Path) -> None:
    """A kubeconfig that names a certificate file that is not there: exit 2 and a line with that file's name."""
    kubeconfig = tmp_path / "kubeconfig"
    write_kubeconfig(kubeconfig, url="https://127.0.0.1:1", ca_file=tmp_path / "missing.crt", token="none")

    line = refusal(run(tmp_path, "--election=x", f"--http=127.0.0.1:{free_port()}", f"--kubeconfig={kubeconfig}"), 2)

    assert "missing.crt" in line


def test_no_api_server_to_talk_to_is_said_in_one_line(tmp_path: Path) -> None:
    """Neither in a pod nor with a kubeconfig: exit 2 and a line that says what to set."""
    assert "KUBECONFIG" in refusal(run(tmp_path, "--election=x", f"--http=127.0.0.1:{free_port()}"), 2)


def test_cluster_credentials_outside_of_a_pod_are_said_in_one_line(tmp_path: Path, nowhere: Path) -> None:
    """Asked for the pod's service account where there is none, it says so, though there is a kubeconfig; exit 2."""
    http = f"--http=127.0.0.1:{free_port()}"

    line = refusal(run(tmp_path, "--election=x", http, "--use-cluster-credentials", KUBECONFIG=str(nowhere)), 2)

    assert "service account" in line


@pytest.mark.parametrize("form", ["127.0.0.1:{port}", ":{port}", "localhost:{port}"])
def test_a_port_in_use_is_said_in_one_line(tmp_path: Path, nowhere: Path, form: str) -> None:
    """A port that somebody listens on: exit 1 and a line with the address, the flag and the reason."""
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        address = form.format(port=listener.getsockname()[1])
        line = refusal(run(tmp_path, "--election=x", f"--http={address}", KUBECONFIG=str(nowhere)), 1)

    assert address in line
    assert "--http" in line
    assert "in use" in line


@pytest.mark.parametrize("host", ["host.invalid", "a..b", "203.0.113.1"])
def test_a_host_that_is_not_here_is_said_in_one_line(tmp_path: Path, nowhere: Path, host: str) -> None:
    """A host that does not resolve, cannot be a host, or is another machine's: exit 1 and a line with the address."""
    # A resolver that does not answer costs a second, see resolv.conf(5).
    resolver = {"RES_OPTIONS": "timeout:1 attempts:1"}

    line = refusal(run(tmp_path, "--election=x", f"--http={host}:4040", KUBECONFIG=str(nowhere), **resolver), 1)

    assert f"{host}:4040" in line


# -- What is accepted --------------------------------------------------------------------------------------------------


PLAIN = "--election=example --id=pod-1 --election-namespace=team --http=:{port}"


FORMS = [
    "--election=example --id=pod-1 --election-namespace=team --ttl=1m30s --http=127.0.0.1:{port}",
    "--election example --id pod-1 --election-namespace team --ttl 90s --http 127.0.0.1:{port}",
    "-election example -id=pod-1 -election-namespace team -ttl=1.5m -http=127.0.0.1:{port} argument",
    "--election=other --election=example --id=pod-1 --election-namespace=team --http=0.0.0.0:{port}",
    f"first {PLAIN} --use-cluster-credentials=false --logtostderr=true --stderrthreshold=INFO -v=4 arg",
    f"{PLAIN} --log-format=json --log-level debug --probe-address=:8081 --metrics-address :8080 -v 2 -- --unknown",
]


async def test_every_form_of_a_command_line(sidecars: Sidecars, nowhere: Path) -> None:
    """The forms of the stock image and of its forks start the same candidate."""
    started = {}
    for form in FORMS:
        port = free_port()
        flags = form.format(port=port).split()
        started[form] = sidecars.start(flags=flags, http=None, port=port, kubeconfig=nowhere)

    for form, sidecar in started.items():
        await sidecar.answering()
        status = await sidecar.status()
        told = (status["election"], status["identity"], status["namespace"])
        assert (form, told) == (form, ("example", "pod-1", "team"))


async def test_variables_alone_are_enough(sidecars: Sidecars, nowhere: Path) -> None:
    """Without any flag, the variables say it all; those that a flag repeats lose, were they damaged or not."""
    port, other = free_port(), free_port()
    variables = {
        "ELECTION_NAME": "example",
        "ELECTION_ID": "pod-1",
        "ELECTION_NAMESPACE": "team",
        "ELECTION_TTL": "1m",
        "NODE_NAME": "node-1",
    }
    alone = sidecars.start(http=None, port=port, kubeconfig=nowhere, env={**variables, "ELECTION_HTTP": f":{port}"})
    flagged = sidecars.start(
        identity="pod-2",
        ttl="10s",
        kubeconfig=nowhere,
        port=other,
        env={**variables, "ELECTION_HTTP": "bad", "ELECTION_TTL": "bad"},
    )
    await alone.answering()
    await flagged.answering()

    told = [(await sidecar.status()) for sidecar in (alone, flagged)]

    assert [(one["election"], one["namespace"], one["node"]) for one in told] == [("example", "team", "node-1")] * 2
    assert [one["identity"] for one in told] == ["pod-1", "pod-2"]


async def test_what_was_not_said_is_as_in_the_stock_image(sidecars: Sidecars, nowhere: Path) -> None:
    """The namespace is `default`; the identity is the pod's name where that is known, else the host's."""
    plain = sidecars.start(election="example", kubeconfig=nowhere)
    pod = sidecars.start(election="example", kubeconfig=nowhere, env={"POD_NAME": "web-0", "POD_NAMESPACE": "team"})
    await plain.answering()
    await pod.answering()

    told = [await plain.status(), await pod.status()]

    assert [(one["identity"], one["namespace"]) for one in told] == [
        (socket.gethostname(), "default"),
        ("web-0", "default"),
    ]


async def test_an_unknown_variable_is_a_warning(sidecars: Sidecars, nowhere: Path) -> None:
    """A misspelt variable is warned of with the nearest name; what Kubernetes injects for a Service stays silent."""
    injected = {
        "ELECTION_SERVICE_HOST": "10.0.0.1",
        "ELECTION_PORT": "tcp://10.0.0.1:80",
        "ELECTION_SERVICE_PORT": "80",
    }
    sidecar = sidecars.start(election="x", kubeconfig=nowhere, env={"ELECTION_TLL": "10s", **injected})
    await sidecar.answering()

    (warning,) = sidecar.logged("no effect")

    assert warning["level"] == "warning"
    assert "ELECTION_TLL" in warning["event"]
    assert "ELECTION_TTL" in warning["event"]


# -- Where it listens --------------------------------------------------------------------------------------------------


def has_ipv6() -> bool:
    """Tell whether this machine has the IPv6 loopback address."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        return False
    return True


async def reaches(sidecar: Sidecar, host: str) -> bool:
    """Tell whether the sidecar answers on one of the machine's addresses."""
    try:
        return (await sidecar.ask(host=host)).status == 200
    except ConnectionRefusedError:
        return False


async def test_where_it_listens(sidecars: Sidecars, nowhere: Path) -> None:
    """Each form is listened on as Go does: without a host on all of IPv4 and IPv6, else on that address alone."""
    forms = {
        ":{port}": {"127.0.0.1": True, "::1": True},
        "0.0.0.0:{port}": {"127.0.0.1": True, "::1": False},
        "127.0.0.1:{port}": {"127.0.0.1": True, "127.0.0.2": False, "::1": False},
        "[::1]:{port}": {"127.0.0.1": False, "::1": True},
        "[::]:{port}": {"::1": True},
    }
    if not has_ipv6():
        del forms["[::1]:{port}"], forms["[::]:{port}"]
    started = {form: sidecars.start(election="x", identity="a", kubeconfig=nowhere, http=form) for form in forms}

    for form, sidecar in started.items():
        await sidecar.logging(str(sidecar.port))
        for host, expected in forms[form].items():
            if ":" not in host or has_ipv6():
                assert (form, host, await reaches(sidecar, host)) == (form, host, expected)


async def test_localhost_is_every_address_of_that_name(sidecars: Sidecars, nowhere: Path) -> None:
    """With `localhost` it answers on each loopback address that this name has here, and on no other."""
    sidecar = sidecars.start(election="x", identity="a", kubeconfig=nowhere, http="localhost:{port}")
    await sidecar.logging(str(sidecar.port))
    loop = asyncio.get_running_loop()

    for host in {str(found[4][0]) for found in await loop.getaddrinfo("localhost", 0, type=socket.SOCK_STREAM)}:
        if ":" not in host or has_ipv6():
            assert await reaches(sidecar, host)
    assert await reaches(sidecar, "localhost")
    assert not await reaches(sidecar, "127.0.0.2")


def listens(pid: int) -> bool:
    """Tell whether a process has a socket that it listens on, as Linux tells it."""
    listening = set()
    for table in ("tcp", "tcp6"):
        path = Path("/proc/net", table)
        rows = [row.split() for row in path.read_text().splitlines()[1:]] if path.exists() else []
        listening |= {f"socket:[{row[9]}]" for row in rows if row[3] == "0A"}
    folder = Path(f"/proc/{pid}/fd")
    return any(str(descriptor.readlink()) in listening for descriptor in folder.iterdir())


@pytest.mark.parametrize(("flags", "variable"), [(["--http="], ":4040"), ([], "")])
async def test_an_empty_address_is_no_server(
    sidecars: Sidecars, nowhere: Path, flags: list[str], variable: str
) -> None:
    """With an empty address it takes part without listening anywhere."""
    sidecar = sidecars.start(
        election="x", identity="a", kubeconfig=nowhere, http=None, flags=flags, env={"ELECTION_HTTP": variable}
    )
    other = sidecars.start(election="x", identity="b", kubeconfig=nowhere)
    await sidecar.logging("Cannot connect")
    await other.logging("Cannot connect")

    assert listens(other.pid)
    assert not listens(sidecar.pid)


# -- How it ends -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_a_leader_that_is_told_to_end_releases_and_exits_0(
    sidecars: Sidecars, real_api_server: RealAPIServer, number: signal.Signals
) -> None:
    """SIGTERM and SIGINT: exit 0 at once, with the lock released; the next start, right after, leads at once.

    With this ttl, an end or a start that waited for anything would be missed.
    """
    namespace = real_api_server.namespace()
    sidecar = sidecars.start(
        election="x",
        identity="a",
        namespace=namespace,
        ttl=SLOW,
        kubeconfig=real_api_server.admin_kubeconfig,
        flags=["--retry-period=30s"],
    )
    await sidecar.leading()

    sidecar.signal(number)

    assert await sidecar.ended(5) == 0
    path = f"/api/v1/namespaces/{namespace}/endpoints/x"
    record = real_api_server.request("GET", path)["metadata"]["annotations"]["control-plane.alpha.kubernetes.io/leader"]
    assert json.loads(record)["holderIdentity"] == ""
    sidecar.start()
    await sidecar.leading(10)


async def test_a_follower_that_is_told_to_end_leaves_the_lock_alone(sidecars: Sidecars, api_server: APIServer) -> None:
    """A follower exits 0 at once, and the leader goes on leading."""
    namespace = api_server.namespace()
    start = partial(sidecars.start, election="x", namespace=namespace, ttl=SLOW, kubeconfig=api_server.admin_kubeconfig)
    leader = start(identity="a")
    await leader.leading()
    follower = start(identity="b")
    await follower.naming("a")

    follower.signal(signal.SIGTERM)

    assert await follower.ended(5) == 0
    assert await leader.names_itself()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
async def test_told_to_end_before_the_api_server_ever_answered(
    sidecars: Sidecars, nowhere: Path, silent: Path, number: signal.Signals
) -> None:
    """With an API server that refuses, or takes the connection and says nothing: exit 0 at once all the same."""
    started = [
        sidecars.start(election="x", identity=kubeconfig.name, ttl=SLOW, kubeconfig=kubeconfig)
        for kubeconfig in (nowhere, silent)
    ]
    for sidecar in started:
        await sidecar.logging(str(sidecar.port))
        await sidecar.naming("")
    await started[0].logging("Cannot connect")

    for sidecar in started:
        sidecar.signal(number)

    for sidecar in started:
        assert await sidecar.ended(5) == 0


async def test_told_twice_to_end(sidecars: Sidecars, api_server: APIServer) -> None:
    """A second signal changes nothing: the release is still done, and the exit code is still 0."""
    sidecar = sidecars.start(
        election="x", identity="a", namespace=api_server.namespace(), ttl=SLOW, kubeconfig=api_server.admin_kubeconfig
    )
    await sidecar.leading()

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGTERM):
        sidecar.signal(number)

    assert await sidecar.ended(5) == 0
    assert sidecar.logged("the lock was released")


async def test_open_connections_do_not_hold_up_the_end(sidecars: Sidecars, nowhere: Path) -> None:
    """Idle connections, half a request and a body that never comes: exit 0 at once all the same."""
    sidecar = sidecars.start(election="x", identity="a", ttl=SLOW, kubeconfig=nowhere)
    await sidecar.answering()
    opened = [await asyncio.open_connection("127.0.0.1", sidecar.port) for _ in range(3)]
    for (_, writer), sent in zip(
        opened, (b"", b"GET / HT", b"POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 9\r\n\r\n"), strict=True
    ):
        writer.write(sent)
        await writer.drain()

    sidecar.signal(signal.SIGTERM)

    assert await sidecar.ended(5) == 0
    for _, writer in opened:
        writer.transport.abort()
    with pytest.raises(ConnectionRefusedError):
        await exchange("127.0.0.1", sidecar.port, b"")
    sidecar.start()
    await sidecar.answering()


# -- A namespace that is not there -------------------------------------------------------------------------------------


async def test_a_namespace_that_does_not_exist_yet(sidecars: Sidecars, real_api_server: RealAPIServer) -> None:
    """It says once what is missing, keeps trying without naming anybody, and leads once the namespace is there."""
    name = f"{real_api_server.namespace()}-later"
    sidecar = sidecars.start(
        election="x",
        identity="a",
        namespace=name,
        ttl="2s",
        kubeconfig=real_api_server.admin_kubeconfig,
        flags=["--log-level=debug"],
    )
    told = await sidecar.logging(f'namespaces "{name}" not found')
    assert told["level"] == "warning"
    await until(lambda: len(sidecar.logged("failed again")) >= 3, "it tries again")
    assert await sidecar.leader_name() == ""

    real_api_server.request(
        "POST", "/api/v1/namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
    )
    try:
        await sidecar.leading()
        assert len([line for line in sidecar.logged("not found") if line["level"] != "debug"]) == 1
    finally:
        real_api_server.request("DELETE", f"/api/v1/namespaces/{name}")
