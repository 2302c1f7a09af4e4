"""How containers of the image end, and what becomes of their elections."""

from __future__ import annotations

import signal
import time
from typing import TYPE_CHECKING

import pytest

from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.image.conftest import Candidates
    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.engine import Engine
    from tests.testbed.monitored_election import LockObject

NOBODY = b'{"name":""}'
TRIES = 3


@pytest.mark.parametrize("entry_point", ["/run.sh", "/server"])
@pytest.mark.parametrize("end", ["stop", "SIGTERM", "SIGINT"])
async def test_a_signal_releases_the_lock(
    candidates: Candidates,
    lock: LockObject,
    engine: Engine,
    measured: Callable[[str, float], None],
    *,
    entry_point: str,
    end: str,
) -> None:
    """The leader exits 0 within a second, and the record has no holder; a follower leads at once.

    Docker's own time counts as well. Where that second was not enough, the one that leads now is told to end, three of
    them in all: the machine may have been busy with something else, but not each time.
    """
    leader = candidates.start("web-0", entrypoint=entry_point)
    await leader.leading()
    follower = candidates.start("web-1", entrypoint=entry_point)
    await follower.naming(leader.identity)

    took: list[float] = []
    while True:
        signalled_at = time.monotonic()
        if end == "stop":
            engine.run("stop", "--time=30", leader.id)
        else:
            engine.run("kill", f"--signal={end}", leader.id)
        assert await leader.ended() == 0
        took.append(time.monotonic() - signalled_at)
        # Waiting for the lease would take a minute.
        await follower.leading()
        assert (await lock.record())["holderIdentity"] == follower.identity
        assert leader.logged("the lock was released")
        if took[-1] < 1 or len(took) == TRIES:
            break
        leader.start()
        await leader.naming(follower.identity)
        leader, follower = follower, leader
    measured("seconds_until_the_end", min(took))
    assert min(took) < 1, took


async def test_a_single_leader_leaves_a_record_without_a_holder(candidates: Candidates, lock: LockObject) -> None:
    """Who finds the record after the only candidate ended by SIGTERM may take it at once."""
    leader = candidates.start("web-0")
    await leader.leading()

    assert await leader.terminate() == 0
    assert (await lock.record())["holderIdentity"] == ""


async def test_after_sigkill_the_lease_is_waited_out(candidates: Candidates, lock: LockObject) -> None:
    """A killed leader keeps its lease: another container takes over once that has passed without a renewal."""
    leader = candidates.start("web-0", ttl="4s")
    await leader.leading()
    follower = candidates.start("web-1", ttl="4s")
    await follower.naming("web-0")

    renewed_before = await lock.renewed()
    await leader.kill()
    assert int(leader.state()["ExitCode"]) == 128 + signal.SIGKILL
    await follower.leading()
    assert time.monotonic() - renewed_before >= 4
    assert (await lock.record())["holderIdentity"] == "web-1"


async def test_a_restarted_container_resumes(candidates: Candidates) -> None:
    """The same container, started again after SIGKILL, as Docker's restart policies do it, leads again."""
    container = candidates.start("web-0", ttl="3s", env={"POD_UID": "uid-of-web-0"})
    await container.leading()
    await container.kill()
    container.start()

    await container.leading()


async def test_a_port_that_is_taken(candidates: Candidates) -> None:
    """A second container in the same network namespace exits 1, with one line that names the port."""
    first = candidates.start("web-0")
    await first.leading()
    second = candidates.start("web-1", network_mode=f"container:{first.id}")

    assert await second.ended() == 1
    lines = second.output().splitlines()
    assert len(lines) == 1
    assert "4040" in lines[0]
    assert await first.names_itself()


async def test_without_an_api_server(candidates: Candidates, real_api_server: RealAPIServer) -> None:
    """While nobody answers there, 4040 does, and is healthy; once the server is there, the container leads."""
    real_api_server.stop_apiserver()
    container = candidates.start("web-0")
    await container.answering()

    assert (await container.ask()).body == NOBODY
    assert (await container.ask("/healthz")).status == 200
    await container.logging("get failed")
    await until(container.is_running, "it goes on")
    real_api_server.start_apiserver()
    await container.leading(seconds=40)
