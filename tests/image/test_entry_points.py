"""The image as its users start it: by each of its entry points, with flags or with variables alone."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.testbed.containers import mark
from tests.testbed.monitored_election import ELECTION
from tests.testbed.sidecar import leader_of
from tests.testbed.standins import CURL

if TYPE_CHECKING:
    from tests.image.conftest import Candidates
    from tests.testbed.containers import Containers
    from tests.testbed.credentials import Credentials
    from tests.testbed.engine import Engine
    from tests.testbed.monitored_election import LockObject

ENTRY_POINTS = ["/run.sh", "/server", "/app/server", "leader-elector"]


@pytest.mark.parametrize("entry_point", [None, *ENTRY_POINTS])
async def test_each_entry_point_takes_the_stock_flags(
    containers: Containers, access: Credentials, lock: LockObject, entry_point: str | None
) -> None:
    """The stock image's command line elects: the record names the container, and `/` is answered to the byte."""
    flags = [f"--election={ELECTION}", f"--election-namespace={access.namespace}", "--id", "web-0", "--ttl=7s"]
    container = containers.start(
        [*flags, "--http=0.0.0.0:4040"], identity="web-0", mounts=access.mounts, env=access.env, entrypoint=entry_point
    )
    await container.leading()

    answer = await container.ask()
    assert (answer.status, answer.body) == (200, b'{"name":"web-0"}')
    assert answer.headers["content-type"] == "application/json"
    record = await lock.record()
    assert (record["holderIdentity"], record["leaseDurationSeconds"]) == ("web-0", 7)
    # A shell in between would keep the signals that end a pod.
    assert "leader-elector" in container.processes()[0]
    assert len(container.processes()) == 1


async def test_variables_alone(containers: Containers, access: Credentials, lock: LockObject) -> None:
    """Every flag has its variable; without any flag the container elects as the variables say."""
    variables = {
        "ELECTION_NAME": ELECTION,
        "ELECTION_NAMESPACE": access.namespace,
        "ELECTION_TTL": "9s",
        "POD_NAME": "web-0",
        "POD_UID": "uid-of-web-0",
        "NODE_NAME": "node-1",
    }
    container = containers.start(identity="web-0", mounts=access.mounts, env={**access.env, **variables})
    await container.leading()

    assert (await lock.record())["leaseDurationSeconds"] == 9
    assert (await container.status())["node"] == "node-1"


async def test_the_host_name_is_the_default_identity(candidates: Candidates) -> None:
    """Without `--id` a container is known by its host name, and two containers agree on one of the two."""
    one, two = candidates.start(), candidates.start(hostname="web-1")

    assert one.id.startswith(one.identity)
    assert two.identity == "web-1"
    assert (await leader_of([one, two])).identity in {one.identity, "web-1"}


async def test_the_main_container_asks_localhost(candidates: Candidates, engine: Engine) -> None:
    """A container in the same network namespace, as the main one of a pod, gets the stock image's bytes from curl."""
    leader = candidates.start("web-0")
    await leader.leading()
    follower = candidates.start("web-1")
    await follower.naming("web-0")

    label = "".join(f"--label={name}={value}" for name, value in mark().items())
    for container in (leader, follower):
        curl = ("run", "--rm", label, f"--network=container:{container.id}", CURL)
        assert engine.run(*curl, "--silent", "http://localhost:4040") == '{"name":"web-0"}'


async def test_the_network_of_the_machine(containers: Containers, access: Credentials) -> None:
    """With `--network=host` the container answers on a port of the machine, which `--http` names."""
    flags = [f"--election={ELECTION}", f"--election-namespace={access.namespace}", "--id=web-0"]
    container = containers.start(
        [*flags, "--http=127.0.0.1:{port}"],
        identity="web-0",
        mounts=access.mounts,
        env=access.env,
        network_mode="host",
    )

    await container.leading()


@pytest.mark.parametrize("entry_point", ENTRY_POINTS)
async def test_help(containers: Containers, entry_point: str) -> None:
    """`--help` prints the usage, with every stock flag, and the container exits 0."""
    container = containers.start(["--help"], entrypoint=entry_point)

    assert await container.ended() == 0
    assert container.output().startswith("Usage: ")
    for flag in ("election", "id", "election-namespace", "ttl", "http", "use-cluster-credentials"):
        assert re.search(rf"^ *--{flag}\b", container.output(), re.MULTILINE), flag


@pytest.mark.parametrize(
    ("flags", "named"),
    [
        ([], "election"),
        (["--election=x", "--ttl=soon"], "soon"),
        (["--election=x", "--no-such-flag"], "no-such-flag"),
        (["--election=x", "--http=4040"], "4040"),
    ],
)
async def test_a_wrong_command_line(containers: Containers, flags: list[str], named: str) -> None:
    """The container exits 2, and the last thing that it says names what was wrong."""
    container = containers.start(flags)

    assert await container.ended() == 2
    assert named in container.output().splitlines()[-1]
