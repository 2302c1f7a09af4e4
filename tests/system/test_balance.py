"""Leaders spread over nodes, as real processes do it: what they say, what they write, and what they do without."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import aiohttp
import pytest

from tests.testbed.apiserver import STOCK_RULES, PolicyRule
from tests.testbed.monitor import Monitor
from tests.testbed.sidecar import PROGRAM, Sidecar, Sidecars, leader_of, until

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.embedded import APIServer

TTL = "3s"

ALL_RULES: tuple[PolicyRule, ...] = (
    {
        "apiGroups": [""],
        "resources": ["endpoints"],
        "verbs": ["get", "create", "update", "watch", "list", "patch"],
    },
)


@dataclass
class Group:
    """Elections in a namespace of their own, whose candidates may do what the rules say."""

    sidecars: Sidecars
    server: APIServer
    rules: Sequence[PolicyRule] = ALL_RULES
    namespace: str = field(init=False)

    def __post_init__(self) -> None:
        """Make the namespace."""
        self.namespace = self.server.namespace()

    def start(
        self, election: str, identity: str, node: str, *, program: Path = PROGRAM, env: Mapping[str, str] | None = None
    ) -> Sidecar:
        """Start a candidate on a node; `""` is one that does not know its node."""
        variables = {"POD_UID": f"uid-{identity}", **({"NODE_NAME": node} if node else {}), **(env or {})}
        return self.sidecars.start(
            election=election,
            identity=identity,
            namespace=self.namespace,
            ttl=TTL,
            kubeconfig=self.server.kubeconfig_for("candidate", self.rules, namespace=self.namespace),
            env=variables,
            program=program,
        )

    async def lock(self, election: str) -> dict[str, Any]:
        """Return the lock object's metadata."""
        headers = {"Authorization": f"Bearer {self.server.admin_token}"} if self.server.admin_token else {}
        url = f"{self.server.url}/api/v1/namespaces/{self.namespace}/endpoints/{election}"
        async with (
            aiohttp.ClientSession(headers=headers, raise_for_status=True) as session,
            session.get(url, ssl=self.server.ssl_context or True) as response,
        ):
            metadata: dict[str, Any] = (await response.json())["metadata"]
        return metadata

    async def registered(self, election: str) -> set[str]:
        """Return the identities that are registered."""
        prefix = "leader-elector/candidate."
        annotations = (await self.lock(election)).get("annotations", {})
        return {key.removeprefix(prefix) for key in annotations if key.startswith(prefix)}


@pytest.fixture
def group(sidecars: Sidecars, api_server: APIServer) -> Group:
    """Elections whose candidates have all permissions."""
    return Group(sidecars, api_server)


async def _two_leaders_on_one_node(group: Group) -> tuple[Sidecar, Sidecar]:
    one, other = group.start("one", "one-0", "n1"), group.start("other", "other-0", "n1")
    await one.leading()
    await other.leading()
    return one, other


async def test_a_leader_hands_over_to_a_better_placed_candidate(group: Group) -> None:
    """Two elections are led on one node; as soon as one of them has a candidate on another node, that one leads it.

    Never do both name themselves, both tell on /status why, and nobody else's leader moves.
    """
    one, other = await _two_leaders_on_one_node(group)
    newcomer = group.start("other", "other-1", "n2")
    async with Monitor(other, newcomer) as monitor:
        await newcomer.leading()
        await other.naming("other-1")
    assert monitor.at_once() == []
    assert await one.names_itself()

    told = await other.status()
    assert told["role"] == "following"
    assert told["leader"] == {"name": "other-1", "node": "n2"}
    assert told["balance"]["group"] == "default"
    assert told["balance"]["why"] == "handed over to other-1: n1 carries 2, n2 carries 0"
    assert told["balance"]["census"]["nodes"] == {"n1": 2, "n2": 0}
    assert told["balance"]["census"]["elections"] == 2


async def test_candidates_are_registered_as_long_as_they_live(group: Group) -> None:
    """The lock object has the group's label, and says who is there, from its first version on until each one's end."""
    first = group.start("example", "a", "n1")
    await first.leading()
    assert await group.registered("example") == {"a"}
    assert (await group.lock("example"))["labels"] == {"leader-elector/group": "default"}

    second = group.start("example", "b", "n2")

    async def both() -> bool:
        return await group.registered("example") == {"a", "b"}

    await until(both, "b is registered")
    assert await second.terminate() == 0
    assert await group.registered("example") == {"a"}
    assert await first.terminate() == 0
    assert await group.registered("example") == set()


@pytest.mark.parametrize(
    ("node", "env", "said"),
    [("n1", {"ELECTION_BALANCE": "off"}, ""), ("", {}, "NODE_NAME")],
    ids=["off", "no node"],
)
async def test_without_balance_nothing_is_written_for_it(
    group: Group, node: str, env: Mapping[str, str], said: str
) -> None:
    """Switched off, or without a node's name: elected as ever, no label, no registration; the log says once why."""
    candidates = [group.start("example", identity, node, env=env) for identity in ("a", "b")]
    leader = await leader_of(candidates)
    metadata = await group.lock("example")
    assert "labels" not in metadata
    assert await group.registered("example") == set()
    assert (await leader.status())["balance"] == {"group": "", "why": "", "census": None}
    assert [len(candidate.logged(said)) for candidate in candidates if said] == [1] * len(candidates if said else [])


async def test_a_leader_that_may_not_move_stays(group: Group) -> None:
    """With ELECTION_REBALANCE=never nobody is handed anything, however badly it is placed."""
    never = {"ELECTION_REBALANCE": "never"}
    one, other = (group.start(name, f"{name}-0", "n1", env=never) for name in ("one", "other"))
    await one.leading()
    await other.leading()
    newcomer = group.start("other", "other-1", "n2", env=never)
    await newcomer.naming("other-0")
    record = (await group.lock("other"))["annotations"]

    async def renewed() -> bool:
        return bool((await group.lock("other"))["annotations"] != record)

    await until(renewed, "the leader renews")
    assert await other.names_itself()
    assert await group.registered("other") == set()


@pytest.mark.parametrize(
    ("verbs", "missing"),
    [
        (["get", "create", "update"], {"watch", "list", "patch"}),
        (["get", "create", "update", "watch"], {"list", "patch"}),
        (["get", "create", "update", "watch", "patch"], {"list"}),
        (["get", "create", "update", "watch", "list"], {"patch"}),
    ],
    ids=["the stock image's", "no list and no patch", "no list", "no patch"],
)
async def test_missing_permissions_are_no_obstacle(
    sidecars: Sidecars, api_server: APIServer, verbs: list[str], missing: set[str]
) -> None:
    """Whatever is not allowed: there is a leader, another one after it, and each says once which verb is missing."""
    rules: tuple[PolicyRule, ...] = ({"apiGroups": [""], "resources": ["endpoints"], "verbs": verbs},)
    group = Group(sidecars, api_server, rules)
    candidates = [group.start("example", identity, f"n-{identity}") for identity in ("a", "b", "c")]
    leader = await leader_of(candidates)
    await leader.terminate()
    candidates.remove(leader)
    await leader_of(candidates)
    for candidate in sidecars.started:
        warnings = [line["event"] for line in candidate.lines() if line["level"] == "warning"]
        said = [event.split()[0] for event in warnings]
        assert len(said) == len(set(said))
        assert set(said) <= missing
    assert {event.split()[0] for each in sidecars.started for event in _warnings(each)} == missing


def _warnings(sidecar: Sidecar) -> list[str]:
    return [line["event"] for line in sidecar.lines() if line["level"] == "warning"]


async def test_without_patch_leaders_move_all_the_same(sidecars: Sidecars, api_server: APIServer) -> None:
    """Registrations and acceptances are written with the whole object where patches are not allowed."""
    rules: tuple[PolicyRule, ...] = (
        {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update", "watch", "list"]},
    )
    group = Group(sidecars, api_server, rules)
    await _two_leaders_on_one_node(group)
    newcomer = group.start("other", "other-1", "n2")
    await newcomer.leading()


async def test_stock_candidates_are_never_nominated(
    sidecars: Sidecars, real_api_server: RealAPIServer, clientgo_peer: Path
) -> None:
    """A client-go candidate in the same election is left alone: what it leads stays, and it follows ours."""
    group = Group(sidecars, real_api_server, (*ALL_RULES, *STOCK_RULES))
    theirs = group.start("one", "theirs", "", program=clientgo_peer)
    await theirs.leading()
    ours = group.start("one", "ours", "n1")
    await ours.naming("theirs")

    async def registered() -> bool:
        return await group.registered("one") == {"ours"}

    await until(registered, "ours is registered, theirs is not")
    async with Monitor(ours, theirs) as monitor:
        await theirs.kill()
        await ours.leading()
    assert monitor.at_once() == []
    again = group.start("one", "theirs", "", program=clientgo_peer)
    await again.naming("ours")
    assert await group.registered("one") == {"ours"}
