"""One election, client-go's candidates and ours in it, as during a rolling update and its way back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from tests.testbed.apiserver import STOCK_RULES
from tests.testbed.monitor import Monitor
from tests.testbed.sidecar import PROGRAM, Sidecar, Sidecars, leader_of

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from tests.testbed.apiserver import RealAPIServer

TTL = "3s"


@dataclass(frozen=True)
class Election:
    """An election in a namespace of its own, with the permissions of the stock image."""

    sidecars: Sidecars
    namespace: str
    kubeconfig: Path
    peer: Path

    def ours(self, identity: str) -> Sidecar:
        """Start a candidate of ours."""
        return self._start(PROGRAM, identity)

    def theirs(self, identity: str, *flags: str) -> Sidecar:
        """Start client-go's."""
        return self._start(self.peer, identity, *flags)

    def _start(self, program: Path, identity: str, *flags: str) -> Sidecar:
        return self.sidecars.start(
            election="example",
            identity=identity,
            namespace=self.namespace,
            ttl=TTL,
            kubeconfig=self.kubeconfig,
            flags=flags,
            program=program,
        )


@pytest.fixture
def election(sidecars: Sidecars, real_api_server: RealAPIServer, clientgo_peer: Path) -> Election:
    """An election without candidates."""
    namespace = real_api_server.namespace()
    kubeconfig = real_api_server.kubeconfig_for("candidate", STOCK_RULES, namespace=namespace)
    return Election(sidecars, namespace, kubeconfig, clientgo_peer)


async def taken_over(
    leader: Sidecar, follower: Sidecar, end: Callable[[Sidecar], Coroutine[None, None, object]]
) -> None:
    """End the leader, see the follower lead after it, and never both name themselves at once."""
    await leader.leading()
    await follower.naming(leader.identity)
    async with Monitor(leader, follower) as monitor:
        await end(leader)
        await follower.leading()
    assert monitor.at_once() == []


@pytest.mark.parametrize("end", [Sidecar.kill, Sidecar.terminate])
async def test_ours_takes_over_from_theirs(
    election: Election, end: Callable[[Sidecar], Coroutine[None, None, object]]
) -> None:
    """A client-go leader that is killed, or ends without a release as the stock image does: ours leads after it."""
    theirs = election.theirs("theirs")
    await theirs.leading()

    await taken_over(theirs, election.ours("ours"), end)


async def test_ours_takes_what_theirs_releases(election: Election) -> None:
    """A client-go leader that releases as it ends: ours leads after it."""
    theirs = election.theirs("theirs", "--release-on-cancel")
    await theirs.leading()

    await taken_over(theirs, election.ours("ours"), Sidecar.terminate)


@pytest.mark.parametrize("end", [Sidecar.kill, Sidecar.terminate])
async def test_theirs_takes_over_from_ours(
    election: Election, end: Callable[[Sidecar], Coroutine[None, None, object]]
) -> None:
    """A leader of ours that is killed, or releases as it ends: client-go's leads after it."""
    ours = election.ours("ours")
    await ours.leading()

    await taken_over(ours, election.theirs("theirs"), end)


@pytest.mark.parametrize("direction", ["update", "rollback"])
async def test_a_rolling_update_never_has_two_leaders(election: Election, direction: str) -> None:
    """Three members are replaced one by one, under their names, by the other kind: never two leaders, in the end one.

    Every member is asked for its leader many times a second all the while. The leader goes first while it is one of
    the old, so that there is a take-over as often as there can be.
    """
    old, new = (election.theirs, election.ours) if direction == "update" else (election.ours, election.theirs)
    members = {identity: old(identity) for identity in ("web-0", "web-1", "web-2")}
    async with Monitor(*members.values()) as monitor:
        left = set(members)
        while left:
            leader = (await leader_of(members.values(), seconds=30)).identity
            # Members that were replaced may have come to lead; then one of the others goes.
            identity = leader if leader in left else min(left)
            left.remove(identity)
            await members[identity].terminate()
            members[identity] = new(identity)
            monitor.watch(members[identity])
        await leader_of(members.values(), seconds=30)
    assert monitor.at_once() == []
    assert {sidecar.command[0] for sidecar, _ in monitor.self_namings()} == {str(PROGRAM), str(election.peer)}
