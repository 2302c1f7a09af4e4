"""The API server of an explored world: the lock object under compare-and-swap, and what watches have to show of it."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, TypeVar

from sidecar.balance import LockSeen, take_census
from sidecar.election import Changed, Deleted, Fetched, State, Written
from sidecar.record import (
    CLAIM_ANNOTATION,
    RECORD_ANNOTATION,
    STEP_DOWN_ANNOTATION,
    Record,
    Snapshot,
    step_down_request,
)
from tests.safety.explore.core import KEPT, Core
from tests.safety.explore.objects import changed, changes_of
from tests.safety.explore.scenarios import LOCK
from tests.safety.explore.stock import Stock

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from sidecar.balance import Census
    from sidecar.election import Write
    from tests.safety.explore.scenarios import Scenario
    from tests.safety.explore.world import Process, World

K = TypeVar("K")
E = TypeVar("E")


class Server:
    """Serves the worlds of one scenario. What it hands out is one object for each event and each census."""

    def __init__(self, scenario: Scenario, core: Core) -> None:
        self._scenario = scenario
        self._core = core
        self._read: dict[tuple[int, float], Fetched] = {}
        self._wrote: dict[tuple[int, float], Written] = {}
        self._showed: dict[int, Changed] = {}
        self._ended: dict[int, Deleted] = {}
        self._changes: dict[int, tuple[Mapping[str, str | None], Write]] = {}
        self._censuses: dict[tuple[int, int], tuple[Census, Snapshot | None]] = {}

    # -- Answers and watch events --

    def fetched(self, snapshot: Snapshot | None, asked_at: float) -> Fetched:
        """Return the answer to a read."""
        return _kept(self._read, (id(snapshot), asked_at), Fetched, snapshot, asked_at)

    def written(self, snapshot: Snapshot, asked_at: float) -> Written:
        """Return the answer to a write that was applied."""
        return _kept(self._wrote, (id(snapshot), asked_at), Written, snapshot, asked_at)

    def shown(self, snapshot: Snapshot) -> Changed:
        """Return the watch event of a change."""
        return _kept(self._showed, id(snapshot), Changed, snapshot)

    def deleted(self, version: int) -> Deleted:
        """Return the watch event of a deletion."""
        return _kept(self._ended, version, Deleted, version)

    # -- The lock object --

    def swap(
        self, world: World, base: Snapshot | None, changes: Mapping[str, str | None]
    ) -> tuple[World, Snapshot | None]:
        """Compare and swap; the snapshot is `None` when the lock object is not `base` any more."""
        stored = world.stored
        if (stored.version if stored is not None else None) != (base.version if base is not None else None):
            return world, None
        if stored is not None and all(stored.annotations.get(key) == text for key, text in changes.items()):
            # The API server makes no new version of what did not change.
            return world, stored
        after = changed(base, world.version + 1, changes)
        return self.changed(world, after), after

    def annotated(self, world: World, changes: Mapping[str, str | None]) -> tuple[World, Snapshot | None]:
        """Patch the lock object, whatever it is by now. A patch that changes nothing makes no new version."""
        stored = world.stored
        if stored is None:
            return world, None
        if all(stored.annotations.get(key) == text for key, text in changes.items()):
            return world, stored
        after = changed(stored, world.version + 1, changes)
        return self.changed(world, after), after

    def changed(self, world: World, stored: Snapshot | None) -> World:
        """Let the lock object be this from now on, and every watch have it to show."""
        version = world.version + 1
        entry = self.shown(stored) if stored is not None else self.deleted(version)
        processes = tuple(self._fallen_back(process, entry, version) for process in world.processes)
        if self._scenario.faults.get("swapped") and stored is not None:
            processes = self._without_namesakes(world, processes, stored)
        return self.pruned(world._replace(version=version, stored=stored, processes=processes))

    def _fallen_back(self, process: Process, entry: Changed | Deleted, version: int) -> Process:
        state = process.state
        if process.gone or not isinstance(state, State):
            return process
        request = process.request
        answered = request is not None and isinstance(request.answer, Fetched | Written)
        if not (state.watching or answered or not is_blind(state)):
            return process
        if process.gap or len(process.behind) >= self._scenario.lag:
            return process._replace(gap=version)
        return process._replace(behind=(*process.behind, entry))

    def _without_namesakes(self, world: World, processes: tuple[Process, ...], stored: Snapshot) -> tuple[Process, ...]:
        """End a stock candidate, unless it leads, once one of ours has written the record under its name.

        Two living pods of one name are not promised to be told apart by a stock candidate.
        """
        before = world.stored.text if world.stored is not None else None
        claimed = stored.annotations.get(CLAIM_ANNOTATION)
        rewritten = claimed != (world.stored.annotations.get(CLAIM_ANNOTATION) if world.stored is not None else None)
        if stored.text == before or not rewritten:
            return processes
        return tuple(
            process._replace(gone=True, request=None)
            if isinstance(process.state, Stock)
            and process.state.identity == stored.holder
            and not process.state.is_leading(self._core.moment(number, world.tick, 0.0).now)
            else process
            for number, process in enumerate(processes)
        )

    def pruned(self, world: World) -> World:
        """Drop late writes that can never fit again, because versions only grow."""
        if not world.late:
            return world
        version = world.stored.version if world.stored is not None else None
        may_vanish = version is None or world.left("deleted") > 0
        late = tuple(
            write for write in world.late if (may_vanish if write.base is None else write.base.version == version)
        )
        return world if len(late) == len(world.late) else world._replace(late=late)

    def edited(self, world: World, edit: str) -> World:
        """Let somebody's editor change the record."""
        if world.stored is None:
            return world
        return self.changed(world, changed(world.stored, world.version + 1, _edited(world.stored, edit)))

    def changes_of(self, write: Write) -> Mapping[str, str | None]:
        """Return what a candidate's write sets, and removes."""
        known = self._changes.get(id(write))
        if known is None:
            known = changes_of(write), write
            if len(self._changes) > KEPT:
                self._changes.clear()
            self._changes[id(write)] = known
        return known[0]

    # -- The group --

    def census(self, world: World) -> Census:
        """Return who leads where, in the whole group."""
        key = (id(world.stored), world.group)
        known = self._censuses.get(key)
        if known is None:
            seen = list(self._scenario.group[world.group])
            if world.stored is not None:
                seen.append(LockSeen(LOCK, world.stored.version, world.stored.annotations))
            known = take_census(seen, {}), world.stored
            self._censuses[key] = known
        return known[0]


def is_blind(state: State) -> bool:
    """Tell whether a candidate reads before it watches, so that nothing which came before that can be shown to it."""
    return state.observed is None or state.must_read


def _edited(stored: Snapshot, edit: str) -> dict[str, str | None]:
    """Return what somebody's editor changes."""
    if edit == "damaged":
        return {RECORD_ANNOTATION: "{"}
    if edit == "stripped":
        return {RECORD_ANNOTATION: None}
    record = stored.record
    if edit == "holder" and isinstance(record, Record):
        return {RECORD_ANNOTATION: replace(record, holder="x").encode()}
    if edit == "step-down" and isinstance(record, Record):
        return {STEP_DOWN_ANNOTATION: step_down_request(record)}
    return {}


def _kept(kept: dict[K, E], key: K, kind: Callable[..., E], *parts: object) -> E:
    """Return one object for each event, so that what was answered to it can be kept."""
    known = kept.get(key)
    if known is None:
        if len(kept) > KEPT:
            kept.clear()
        known = kept[key] = kind(*parts)
    return known
