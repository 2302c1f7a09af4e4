"""One election on a Lease, today's client-go and ours in it: how operators and controllers elect their leaders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.testbed.monitor import Monitor
from tests.testbed.sidecar import PROGRAM, Sidecar, Sidecars, until

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from pathlib import Path

    from tests.testbed.apiserver import PolicyRule, RealAPIServer

ELECTION = "example"

RULES: tuple[PolicyRule, ...] = (
    {"apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "verbs": ["get", "create", "update"]},
)
"""What it takes to elect. So much has a controller of client-go's, and ours needs no more."""


@dataclass(frozen=True)
class Election:
    """An election on a Lease, in a namespace of its own."""

    server: RealAPIServer
    sidecars: Sidecars
    namespace: str
    kubeconfig: Path
    peer: Path
    ttl: str = "3s"

    def ours(self, identity: str) -> Sidecar:
        """Start a candidate of ours."""
        return self._start(PROGRAM, identity, env={"ELECTION_LOCK": "leases"})

    def theirs(self, identity: str) -> Sidecar:
        """Start client-go's, which releases on SIGTERM."""
        return self._start(self.peer, identity, "--release-on-cancel")

    def _start(self, program: Path, identity: str, *flags: str, env: dict[str, str] | None = None) -> Sidecar:
        return self.sidecars.start(
            election=ELECTION,
            identity=identity,
            namespace=self.namespace,
            ttl=self.ttl,
            kubeconfig=self.kubeconfig,
            flags=flags,
            env=env,
            program=program,
        )

    def spec(self) -> dict[str, Any]:
        """Return the spec of the Lease."""
        path = f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases/{ELECTION}"
        spec: dict[str, Any] = self.server.request("GET", path)["spec"]
        return spec


@pytest.fixture
def election(sidecars: Sidecars, real_api_server: RealAPIServer, clientgo_lease_peer: Path) -> Election:
    """An election without candidates."""
    namespace = real_api_server.namespace()
    kubeconfig = real_api_server.kubeconfig_for("candidate", RULES, namespace=namespace)
    return Election(real_api_server, sidecars, namespace, kubeconfig, clientgo_lease_peer)


@pytest.mark.parametrize("end", [Sidecar.terminate, Sidecar.kill], ids=["released", "killed"])
async def test_each_takes_over_from_the_other(
    election: Election, end: Callable[[Sidecar], Coroutine[None, None, object]]
) -> None:
    """Ours leads after theirs, theirs after ours, and so on: after a release, and after a lease that has run out.

    The spec says who holds the lock for how long; transitions are counted on by both; never do two name themselves.
    """
    leader = election.theirs("theirs-0")
    await leader.leading()
    async with Monitor(leader) as monitor:
        for term, start in enumerate((election.ours, election.theirs, election.ours), 1):
            follower = start(f"{start.__name__}-{term}")
            monitor.watch(follower)
            await follower.naming(leader.identity)
            spec = election.spec()
            assert (spec["holderIdentity"], spec["leaseDurationSeconds"]) == (leader.identity, 3)
            assert spec["leaseTransitions"] == term - 1
            assert spec["acquireTime"] <= spec["renewTime"]
            await end(leader)
            await follower.leading()
            leader = follower
        assert election.spec()["leaseTransitions"] == 3
    assert monitor.at_once() == []


async def test_a_release_is_a_release_to_both(election: Election) -> None:
    """What each writes as it gives the lock up is taken for that by the other, which does not wait the lease out."""
    election = replace(election, ttl="120s")  # longer than anybody waits here
    for first, second in ((election.theirs, election.ours), (election.ours, election.theirs)):
        leader = first(f"first-{first.__name__}")
        await leader.leading()
        await leader.terminate()
        await until(lambda: not election.spec().get("holderIdentity"), "the lock is released")
        assert election.spec()["leaseDurationSeconds"] == 1
        heir = second(f"second-{second.__name__}")
        await heir.leading()
        await heir.terminate()
