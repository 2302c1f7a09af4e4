"""Cordoned nodes: what a watch says, what a candidate does about it, and that nothing is sent in between."""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.cordon import BACKOFF, SILENCE, CordonWatch, is_cordoned
from sidecar.kube import DENIAL_SECONDS
from sidecar.lab.network import Network
from sidecar.lab.resources import NODES
from tests.unit.arena import TTL, Arena
from tests.unit.beside import accompany, play

if TYPE_CHECKING:
    from sidecar.lab.network import LabClient, Request
    from tests.unit.arena import Process


@pytest.mark.parametrize(
    ("kind", "node", "cordoned"),
    [
        ("ADDED", {"spec": {"unschedulable": True}}, True),
        ("MODIFIED", {"spec": {"unschedulable": True}}, True),
        ("ADDED", {"spec": {"unschedulable": False}}, False),
        ("ADDED", {"spec": {}}, False),
        ("MODIFIED", {}, False),
        ("MODIFIED", {"spec": None}, False),
        ("MODIFIED", {"spec": {"unschedulable": "yes"}}, False),
        ("DELETED", {"spec": {}}, True),
        ("BOOKMARK", {"spec": {}}, None),
        ("NEWS", {}, None),
    ],
)
def test_what_an_event_says(kind: str, node: dict[str, Any], cordoned: bool | None) -> None:  # noqa: FBT001 - a case
    """A node is cordoned where it says so in as many words, or is deleted; what is no news says nothing."""
    assert is_cordoned(kind, node) is cordoned


def node(arena: Arena, name: str) -> None:
    """Create a node."""
    arena.store.create(NODES, "", {"metadata": {"name": name}})


def cordon(arena: Arena, name: str, *, cordoned: bool = True) -> None:
    """Cordon a node, or uncordon it."""
    arena.store.patch(NODES, "", name, {"spec": {"unschedulable": cordoned or None}})


def minding(arena: Arena, identity: str, *, network: Network | None = None) -> tuple[Process, list[Request]]:
    """Start a candidate on a node of its own that minds its cordon; return it with the requests for that."""
    process = arena.start(identity)

    def make(client: LabClient, log: Any) -> CordonWatch:  # noqa: ANN401 - structlog's own type for a bound logger
        return CordonWatch(
            process.candidate,
            client,
            node=process.node,
            patience=TTL,
            random=Random(1),  # noqa: S311 - plays, protects nothing
            log=log,
        )

    return process, accompany(arena, process, make, network=network)


def test_leadership_leaves_a_cordoned_node() -> None:
    """At once, to a candidate elsewhere; it does not come back, and an uncordoned candidate stands again."""

    async def scene(arena: Arena) -> None:
        node(arena, "node-a")
        node(arena, "node-b")
        a, _ = minding(arena, "a")
        await arena.until(lambda: arena.leaders() == [a])
        b, _ = minding(arena, "b")
        await asyncio.sleep(1)
        cordon(arena, "node-a")
        assert await arena.until(lambda: arena.leaders() == [b]) < 1.0
        await asyncio.sleep(5 * TTL)
        assert arena.leaders() == [b]
        cordon(arena, "node-a", cordoned=False)
        await asyncio.sleep(1)
        cordon(arena, "node-b")
        assert await arena.until(lambda: arena.leaders() == [a]) < 1.0

    play(scene)


def test_somebody_has_to_lead() -> None:
    """Where every node is cordoned, one leads again after a lease, and keeps it however long, and whatever is shown."""

    async def scene(arena: Arena) -> None:
        node(arena, "node-a")
        a, _ = minding(arena, "a")
        await arena.until(lambda: arena.leaders() == [a])
        cordon(arena, "node-a")
        await arena.until(lambda: not arena.leaders())
        assert TTL <= await arena.until(lambda: arena.leaders() == [a]) < TTL + 2
        since = arena.loop.time()
        for count in range(3):
            arena.store.patch(NODES, "", "node-a", {"status": {"heartbeat": count}})
            await asyncio.sleep(60)
        await asyncio.sleep(2 * SILENCE)
        assert not any("stopped leading" in line for line in arena.said(a, since))

    play(scene)


def test_a_node_that_is_cordoned_already() -> None:
    """A candidate that starts on a cordoned node leaves the lock to others."""

    async def scene(arena: Arena) -> None:
        node(arena, "node-a")
        cordon(arena, "node-a")
        minding(arena, "a", network=Network(latency=(0.0, 0.0)))
        await asyncio.sleep(TTL / 2)
        assert arena.leaders() == []
        b = arena.start("b")
        await arena.until(lambda: arena.leaders() == [b], within=1.0)

    play(scene)


def test_in_the_steady_state_there_is_one_watch() -> None:
    """Nothing is sent but a new watch when one has ended, also where there is no such node."""

    async def scene(arena: Arena) -> None:
        node(arena, "node-a")
        _, known = minding(arena, "a")
        _, unknown = minding(arena, "b")
        await asyncio.sleep(2 * 3600)
        for sent in (known, unknown):
            assert {request.verb for request in sent} == {"watch"}
            assert len(sent) < 15, "the laboratory sends no bookmarks, so each counts as dead after ten minutes"

    play(scene)


def test_without_permission_it_is_off() -> None:
    """A 403 is told once, at info; it is tried again every ten minutes, and works once it is granted."""

    async def scene(arena: Arena) -> None:
        node(arena, "node-a")
        network = Network(watch="forbidden")
        a, sent = minding(arena, "a", network=network)
        await asyncio.sleep(3.5 * DENIAL_SECONDS)
        assert len(sent) == 4
        told = [line for line in arena.log if line.sender == a.name and "nodes may not be watched" in line.event]
        assert [line.level for line in told] == ["info"]
        cordon(arena, "node-a")
        network.heal()
        await arena.until(lambda: not arena.leaders(), within=DENIAL_SECONDS + 1)
        assert "nodes may be watched again" in arena.said(a)

    play(scene)


@pytest.mark.parametrize("watch", ["ends", "gone"])
def test_a_watch_that_does_not_hold_is_not_hammered(watch: str) -> None:
    """One that ends as soon as it began, or is refused, is asked for less and less often."""

    async def scene(arena: Arena) -> None:
        node(arena, "node-a")
        _, sent = minding(arena, "a", network=Network(watch=watch))
        await asyncio.sleep(3600)
        assert 3600 / BACKOFF[1] / 2 < len(sent) < 2.5 * 3600 / BACKOFF[1]

    play(scene)


def test_a_silent_watch_is_replaced() -> None:
    """A watch over which nothing has come for ten minutes counts as dead: what happened meanwhile is learned then."""

    async def scene(arena: Arena) -> None:
        node(arena, "node-a")
        network = Network()
        a, _ = minding(arena, "a", network=network)
        await arena.until(lambda: arena.leaders() == [a])
        network.watch = "silent"
        cordon(arena, "node-a")
        await asyncio.sleep(60)
        assert arena.leaders() == [a]
        # What is open stays silent; a new one works.
        await asyncio.sleep(500)
        network.watch = "works"
        network.cut_watch()
        await arena.until(lambda: not arena.leaders(), within=60)

    play(scene)
