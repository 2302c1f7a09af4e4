"""What the laboratory's observer concludes from answers on port 4040, given by servers that say what they are told."""

from __future__ import annotations

import asyncio
import json
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, cast

import pytest
from aiohttp import web

from sidecar.lab.fleet import KILLED, Sidecar
from sidecar.lab.observer import Change, ObservationError, Observer
from sidecar.lab.placement import Pod
from sidecar.lab.resources import ENDPOINTS
from sidecar.lab.store import Store
from sidecar.record import CLAIM_ANNOTATION, Claim

if TYPE_CHECKING:
    from asyncio.subprocess import Process
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

PATIENCE = 20.0
"""Seconds; far more than anything here takes."""


class StandIn:
    """What is there instead of a process: a server that names whom it is told to name."""

    def __init__(self) -> None:
        self.names = ""
        self.asked = 0
        self.returncode: int | None = None

    async def answer(self, _request: web.Request) -> web.Response:
        """Answer as port 4040 does."""
        self.asked += 1
        return web.json_response({"name": self.names})


class Scene:
    """Sidecars app-1-0, app-1-1 and app-1-2 of one election, and their observer."""

    def __init__(self, observer: Observer, store: Store, sidecars: list[Sidecar], stand_ins: list[StandIn]) -> None:
        self.observer = observer
        self.store = store
        self.sidecars = sidecars
        self.stand_ins = stand_ins

    def name(self, *names: str) -> None:
        """Let the sidecars name these from now on, in turn."""
        for stand_in, name in zip(self.stand_ins, names, strict=True):
            stand_in.names = name

    async def until(self, holds: Callable[[], object]) -> None:
        """Wait until something holds; what the observer stumbles over is raised."""
        async with asyncio.timeout(PATIENCE):
            while not holds():
                self.observer.check()
                await asyncio.sleep(0.01)

    async def seen(self) -> None:
        """Wait until the observer has had an answer from everybody to a question asked after now."""
        asked = [stand_in.asked for stand_in in self.stand_ins]
        await self.until(
            lambda: all(one.asked >= before + 2 for one, before in zip(self.stand_ins, asked, strict=True))
        )


@asynccontextmanager
async def _scene(folder: Path) -> AsyncIterator[Scene]:
    async with AsyncExitStack() as stack:
        store = Store(now=lambda: datetime.now(UTC), random=Random(1))  # noqa: S311 - uids, no secrets
        sidecars, stand_ins = [], []
        for number in range(3):
            stand_in = StandIn()
            app = web.Application()
            app.router.add_get("/", stand_in.answer)
            runner = web.AppRunner(app, access_log=None)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            log = folder / f"{number}.log"
            log.write_text(json.dumps({"event": "taking part", "ports": [runner.addresses[0][1]]}) + "\n")
            pod = Pod("app-1", f"app-1-{number}", f"node-{number}")
            sidecars.append(Sidecar(pod, {}, log, cast("Process", stand_in)))
            stand_ins.append(stand_in)
        observer = Observer(store, "default")
        observer.follow(sidecars)
        async with observer:
            yield Scene(observer, store, sidecars, stand_ins)


async def test_a_leader_is_whom_all_its_candidates_name(tmp_path: Path) -> None:
    """Nobody leads while one candidate does not know yet; then the one does whom all of them name."""
    async with _scene(tmp_path) as scene:
        scene.name("app-1-1", "app-1-1", "")
        await scene.until(lambda: scene.observer.names_itself(scene.sidecars[1]))
        await scene.seen()
        assert scene.observer.leaders() == {}
        scene.name("app-1-1", "app-1-1", "app-1-1")
        await scene.until(lambda: scene.observer.leaders() == {"app-1": scene.sidecars[1]})


async def test_whom_all_name_must_be_there(tmp_path: Path) -> None:
    """A name that no living candidate has leads nothing, though all agree on it."""
    async with _scene(tmp_path) as scene:
        scene.name("app-1-9", "app-1-9", "app-1-9")
        await scene.seen()
        assert scene.observer.leaders() == {}


async def test_two_that_name_themselves_are_seen(tmp_path: Path) -> None:
    """Two candidates of one election that lead at once are an error that names both."""
    async with _scene(tmp_path) as scene:
        scene.name("app-1-0", "app-1-1", "")
        with pytest.raises(ObservationError, match="app-1 named themselves at once: app-1-0 and app-1-1") as raised:
            await scene.until(lambda: False)
        assert set(raised.value.sidecars) == set(scene.sidecars[:2])


async def test_a_hand_over_is_no_error_and_its_gap_is_told(tmp_path: Path) -> None:
    """Who leads after another, that lives on, was handed the election over; the gap is what nobody led."""
    async with _scene(tmp_path) as scene:
        scene.name(*["app-1-0"] * 3)
        await scene.until(scene.observer.leaders)
        assert scene.observer.changes == []
        scene.name("", "", "")
        await scene.seen()
        scene.name(*["app-1-2"] * 3)
        await scene.until(lambda: scene.observer.changes)
        [change] = scene.observer.changes
        assert change == Change(scene.sidecars[0], scene.sidecars[2], handed_over=True, gap=change.gap)
        assert change.gap > 0


async def test_who_was_killed_did_not_hand_over(tmp_path: Path) -> None:
    """After the leader's end, the gap counts from the signal; and what it said before counts no more."""
    async with _scene(tmp_path) as scene:
        scene.name(*["app-1-0"] * 3)
        await scene.until(scene.observer.leaders)
        killed = scene.sidecars[0]
        killed.state, killed.ended_at = KILLED, asyncio.get_running_loop().time()
        scene.stand_ins[0].returncode = -9
        assert not scene.observer.names_itself(killed)
        assert scene.observer.leaders() == {}
        scene.name("app-1-0", "app-1-1", "app-1-1")
        await scene.until(lambda: scene.observer.leaders() == {"app-1": scene.sidecars[1]})
        [change] = scene.observer.changes
        assert not change.handed_over
        assert 0 < change.gap < asyncio.get_running_loop().time() - killed.ended_at + 0.001


async def test_who_was_told_to_end_must_not_lead_on(tmp_path: Path) -> None:
    """A terminated leader is asked as long as its process runs: leading beside its successor is an error."""
    async with _scene(tmp_path) as scene:
        scene.name(*["app-1-0"] * 3)
        await scene.until(scene.observer.leaders)
        scene.sidecars[0].state = "terminated"
        scene.name("app-1-0", "app-1-1", "app-1-1")
        with pytest.raises(ObservationError, match="at once"):
            await scene.until(lambda: False)


async def test_a_process_that_ends_unasked_is_an_error(tmp_path: Path) -> None:
    """Who exits without a signal is named, with its exit status."""
    async with _scene(tmp_path) as scene:
        scene.stand_ins[1].returncode = 2
        with pytest.raises(ObservationError, match=r"^app-1-1 exited 2$"):
            await scene.until(lambda: False)


async def test_who_takes_part_in_a_hand_over_is_asked_more_often(tmp_path: Path) -> None:
    """While a claim names a successor, it and the holder are asked many times as often as the others."""
    async with _scene(tmp_path) as scene:
        scene.name(*["app-1-0"] * 3)
        await scene.until(scene.observer.leaders)
        claim = Claim(holder="app-1-0", node="node-0", pod_uid="", successor="app-1-2")
        annotations = {CLAIM_ANNOTATION: claim.encode()}
        scene.store.create(ENDPOINTS, "default", {"metadata": {"name": "app-1", "annotations": annotations}})
        before = [stand_in.asked for stand_in in scene.stand_ins]

        def asked_more_often() -> bool:
            holder, other, successor = (one.asked - count for one, count in zip(scene.stand_ins, before, strict=True))
            return min(holder, successor) >= other + 20

        await scene.until(asked_more_often)


async def test_a_sidecar_that_has_not_told_its_port_is_waited_for(tmp_path: Path) -> None:
    """A log that is empty, or whose line is not whole yet, has no port; it is looked for again."""
    async with _scene(tmp_path) as scene:
        late = tmp_path / "late.log"
        late.touch()
        stand_in = StandIn()
        pod = Pod("app-2", "app-2-0", "node-1")
        sidecar = Sidecar(pod, {}, late, cast("Process", stand_in))
        whole = scene.sidecars[0].log.read_text()
        assert sidecar.find_port() == 0
        late.write_text(whole[:-1])
        assert sidecar.find_port() == 0
        late.write_text(whole)
        assert sidecar.find_port() == scene.sidecars[0].find_port() > 0
