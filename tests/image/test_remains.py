"""The promise that tests leave nothing behind on an engine, nor a private engine on the machine, however they end."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.testbed import engine as engines
from tests.testbed import standins
from tests.testbed.cluster_site import CGROUPS
from tests.testbed.containers import remove_remains
from tests.testbed.exclusive import try_lock

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.testbed.engine import Engine

ROOT = Path(__file__).parents[2]

# Makes things as the tests make them, says so, and waits to be killed.
MAKER = """
import sys, time
from testcontainers.core.container import DockerContainer
from testcontainers.core.network import Network
from tests.testbed.containers import mark

network = Network(docker_network_kw={"labels": mark()}).create()
container = DockerContainer(sys.argv[1]).with_command("sleep 600").with_network(network).with_kwargs(labels=mark())
container.start()
print(container.get_container_id(), network.id, flush=True)
time.sleep(600)
"""

# A private engine with a container in a network that runs a command with an argument of its own.
PRIVATE = """
import sys, time
from tests.testbed import engine as engines
from tests.testbed import standins

engine = engines.start_private("not asked")
standins.ensure(engine, standins.CURL)
engine.run("network", "create", "test")
engine.run("run", "--detach", "--network=test", standins.CURL, "sleep", sys.argv[1])
print(engine._bridge, engine._name, engine.run("network", "ls", "--quiet", "--filter=name=test").strip(), flush=True)
if sys.argv[2] == "close":
    engine.close()
else:
    time.sleep(600)
"""


def until(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition; fails the test after 20 s."""
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)


def running(argument: str) -> list[str]:
    """Return the processes with this argument on their command line, but for Python's and docker's own."""
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            arguments = file.read_bytes().split(b"\0")
        except OSError:
            continue
        if argument.encode() in arguments and b"python" not in arguments[0] and b"docker" not in arguments[0]:
            found.append(file.parent.name)
    return found


def test_what_a_killed_session_made_is_removed_by_the_next(engine: Engine) -> None:
    """Containers and networks of a process that was killed go; those of one that is alive stay."""
    standins.ensure(engine, standins.CURL)
    makers = [
        subprocess.Popen(
            [sys.executable, "-c", MAKER, standins.CURL], cwd=ROOT, env=engine.environment, stdout=subprocess.PIPE
        )
        for _ in range(2)
    ]
    try:
        made = [maker.stdout.readline().decode().split() for maker in makers if maker.stdout]
        (dead_container, dead_network), (container, network) = made
        makers[0].kill()
        makers[0].wait()

        remove_remains(engine)
        containers = engine.run("ps", "--all", "--quiet", "--no-trunc").split()
        networks = engine.run("network", "ls", "--quiet", "--no-trunc").split()
        assert (dead_container in containers, dead_network in networks) == (False, False)
        assert (container in containers, network in networks) == (True, True)
    finally:
        for maker in makers:
            maker.kill()
            maker.communicate()
        remove_remains(engine)


@pytest.fixture
def other_cache(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Give a private engine a place of its own, with the archive of the one image that it needs."""
    if os.geteuid() != 0:
        pytest.skip("only root may start a private engine")
    standins.ensure(engine, standins.CURL)
    # Short, because the path of a socket must be.
    folder = Path(tempfile.mkdtemp(prefix="le-"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder))
    archive = standins.archive_path(standins.CURL)
    archive.parent.mkdir(parents=True)
    engine.run("save", "--output", str(archive), standins.CURL)
    standins.unpulled_path(standins.CURL).touch()
    yield folder
    shutil.rmtree(folder)


@pytest.mark.usefixtures("other_cache")
@pytest.mark.parametrize("end", ["close", "SIGTERM", "SIGKILL"])
def test_a_private_engine_leaves_nothing(end: str) -> None:
    """When its process ends, in order or not, so does the container; the next start, or the end, removes the rest."""
    argument = str(10**6 + secrets.randbelow(10**6))
    with subprocess.Popen([sys.executable, "-c", PRIVATE, argument, end], cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        told = process.stdout.readline().decode().split()
        assert len(told) == 3, "it did not start"
        bridge, name, network = told
        if end != "close":
            assert running(argument)
            process.send_signal(signal.Signals[end])
        process.wait(60)
    until(lambda: not running(argument), "the container ends with the process that started the engine")
    if end != "close":
        lock = try_lock(engines.LOCKS / f"{name}.lock")
        assert lock is not None
        engines.PrivateEngine(int(name.rpartition("-")[2]), lock).close()

    assert not Path("/sys/class/net", bridge).exists()
    assert not Path("/sys/class/net", f"br-{network}").exists()
    assert [*CGROUPS.glob(f"*/{name}"), *CGROUPS.glob(name)] == []
    assert name not in engines._command("iptables", "-S", "FORWARD")


@pytest.mark.usefixtures("other_cache")
def test_a_private_engine_beside_another(engine: Engine) -> None:
    """Neither removes the other's bridge: both go on starting containers with networks."""
    standins.ensure(engine, standins.CURL)
    bridges = {path.name for path in Path("/sys/class/net").iterdir() if (path / "bridge").exists()}
    # The second start finds what the first wrote down about its networks.
    for _ in range(2):
        with engines.start_private("not asked") as private:
            standins.ensure(private, standins.CURL)
            for one in (engine, private):
                assert one.run("run", "--rm", standins.CURL, "sh", "-c", "echo started") == "started\n"
    assert bridges <= {path.name for path in Path("/sys/class/net").iterdir()}
