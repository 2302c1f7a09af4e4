"""Asking a leader to step down: by an annotation on the lock object that asks for the end of that very term.

The record is never touched: the leader reads the request, stops leading, and only then gives the lock up itself, so
there is no moment with two of them. This takes the permissions `get` and `update` on the lock object; where `watch` is
not allowed it looks, after a quarter of a second at first, up to once a second. A request that is not heeded is taken
back.
"""

from __future__ import annotations

import asyncio
import math
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING

from sidecar.election import Changed, Deleted
from sidecar.kube import ApiError, ConflictError, ForbiddenError, GoneError, NotFoundError
from sidecar.lab.commandline import CommandError
from sidecar.lab.lockkinds import fetch_all
from sidecar.record import CHECKING, STEP_DOWN_ANNOTATION, Record, UnreadableRecord, step_down_request

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from sidecar.locks import Lock
    from sidecar.record import Snapshot

ATTEMPTS = 8
"""At a compare-and-swap: somebody renews, registers or looks at the same moment."""

ATTEMPT_SECONDS = 0.1
"""From one attempt to the next."""

FIRST_PAUSE, LONGEST_PAUSE = 0.25, 1.0
"""Seconds from one look to the next where nothing can be watched; twice as long each time, up to once a second."""

WATCH_GRACE = 1
"""Seconds that a watch is asked for beyond the time that there is."""

TAKE_BACK_SECONDS = 5.0
"""For taking a request back, also when the command is told to end."""

_Term = tuple[str, str]
"""A holder, and since when it holds the lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What became of a request. Times are in seconds from the moment before it was written."""

    namespace: str
    election: str
    locks: tuple[str, ...]
    """The kinds of the lock objects that the request was written on."""
    asked: str
    """Who was asked: the holder."""
    asked_node: str
    stepped_down_after: float | None = None
    """When the holder's term was seen to be over."""
    leader: str = ""
    """Who led at the end, or holds the lock after all."""
    leader_node: str = ""
    leads_after: float | None = None
    problem: str = ""
    """Why this is not what was asked for."""

    @property
    def moved(self) -> bool:
        """Whether somebody else leads now."""
        return not self.problem


class _Scene:
    """The lock objects as they are seen to change."""

    def __init__(self, found: Mapping[Lock, Snapshot]) -> None:
        self._first = {lock: _term(snapshot) for lock, snapshot in found.items()}
        self._texts = {lock: snapshot.text for lock, snapshot in found.items()}
        self.now: dict[Lock, Snapshot | None] = dict(found)
        self.changed = asyncio.Event()

    def see(self, lock: Lock, snapshot: Snapshot | None) -> None:
        """Take in one lock object as it now is."""
        before = self.now[lock]
        if snapshot is None or before is None or snapshot.version >= before.version:
            self.now[lock] = snapshot
            self.changed.set()

    @property
    def ended(self) -> _Term | None:
        """The term that is over: another one, or none, is on every lock object that it was on."""
        for term in dict.fromkeys(self._first.values()):
            if term is not None and all(_term(self.now[lock]) != term for lock in self._of(term)):
                return term
        return None

    @property
    def leading(self) -> Snapshot | None:
        """Where somebody is named who leads since."""
        term = self.ended
        if term is None:
            return None
        for lock in self._of(term):
            snapshot = self.now[lock]
            if snapshot is not None and snapshot.holder and _leads(snapshot):
                return snapshot
        return None

    def has_renewed(self, lock: Lock) -> bool:
        """Tell whether a record has changed."""
        snapshot = self.now[lock]
        return snapshot is not None and snapshot.text != self._texts[lock]

    def _of(self, term: _Term) -> list[Lock]:
        return [lock for lock, first in self._first.items() if first == term]


def _term(snapshot: Snapshot | None) -> _Term | None:
    record = snapshot.record if snapshot is not None else None
    return (record.holder, record.acquire_time) if isinstance(record, Record) and record.holder else None


def _leads(snapshot: Snapshot) -> bool:
    claim = snapshot.valid_claim
    return claim is None or claim.state != CHECKING


def _node(snapshot: Snapshot) -> str:
    claim = snapshot.valid_claim
    return claim.node if claim is not None else ""


async def step_down(
    locks: list[Lock],
    *,
    timeout: float,  # noqa: ASYNC109 - what is told at its end is more than that it came
    progress: Callable[[str], None],
) -> Outcome:
    """Ask the leader to step down, and wait until somebody else leads.

    `progress` is told who was asked. Raises `CommandError` when there is nobody to ask or asking is not allowed, and
    `ApiError`. Lock objects that may not be read do not matter as long as there is one that may: of two, the leader
    reads both.
    """
    found, denied = await fetch_all(locks)
    requests = {
        lock: step_down_request(snapshot.record)
        for lock, snapshot in found.items()
        if isinstance(snapshot.record, Record) and snapshot.holder
    }
    if not requests:
        raise CommandError(
            "; ".join((_nobody([lock for lock in locks if lock.resource not in denied], found), *denied.values()))
        )
    held = {lock: found[lock] for lock in requests}
    holder = next(iter(held.values()))
    began = time.monotonic()
    scene = _Scene(held)
    asked: dict[Lock, str] = {}
    try:
        for lock, request in requests.items():
            asked[lock] = request
            scene.see(lock, await _swap(lock, request))
        progress(f"asked {holder.holder} to step down; waiting for another leader for up to {timeout:g} s")
        return await _wait(scene, holder, asked=asked, began=began, timeout=timeout)
    finally:
        await _take_back(asked)


def _nobody(locks: Sequence[Lock], found: Mapping[Lock, Snapshot]) -> str:
    name = locks[0].name
    for snapshot in found.values():
        if isinstance(snapshot.record, UnreadableRecord):
            return f"{name}: nobody can be asked: the record cannot be read ({snapshot.record.reason})"
    if found:
        return f"{name}: nobody leads; there is nobody to ask"
    return f"{name}: there is no such election: no {' and no '.join(lock.resource for lock in locks)} of that name"


async def _swap(lock: Lock, request: str | None) -> Snapshot:
    """Write the request, or remove it, whatever else is written at the same time."""
    for attempt in range(ATTEMPTS):
        try:
            return await lock.swap({STEP_DOWN_ANNOTATION: request})
        except ConflictError:
            if attempt == ATTEMPTS - 1:
                raise
            await asyncio.sleep(ATTEMPT_SECONDS)
        except ForbiddenError as error:
            namespace = lock.name.partition("/")[0]
            raise CommandError(
                f"not allowed to update {lock.resource} in namespace {namespace}; "
                f"a Role with get and update on {lock.resource} allows it ({error})"
            ) from error
        except NotFoundError as error:
            raise CommandError(f"{lock.name}: the lock object has just been deleted; there is nobody to ask") from error
    raise AssertionError  # the last attempt returns or raises


async def _wait(
    scene: _Scene,
    holder: Snapshot,
    *,
    asked: Mapping[Lock, str],
    began: float,
    timeout: float,  # noqa: ASYNC109 - see `step_down`
) -> Outcome:
    following = [
        asyncio.ensure_future(_follow(lock, scene, seconds=math.ceil(timeout) + WATCH_GRACE)) for lock in asked
    ]
    over_after: float | None = None
    try:
        async with asyncio.timeout(timeout):
            while scene.leading is None:
                await scene.changed.wait()
                scene.changed.clear()
                if over_after is None and scene.ended is not None:
                    over_after = time.monotonic() - began
    except TimeoutError:
        await _look_again(scene)
    finally:
        for one in following:
            one.cancel()
        await asyncio.gather(*following, return_exceptions=True)
    after = time.monotonic() - began
    if over_after is None and scene.ended is not None:
        over_after = after
    return _outcome(scene, holder, asked=asked, over_after=over_after, after=after)


async def _look_again(scene: _Scene) -> None:
    """Look at what may have been missed: a watch can fall silent."""
    for lock in scene.now:
        with suppress(ApiError):
            scene.see(lock, await lock.fetch())


def _outcome(
    scene: _Scene, holder: Snapshot, *, asked: Mapping[Lock, str], over_after: float | None, after: float
) -> Outcome:
    namespace, _, election = next(iter(asked)).name.partition("/")
    leading = scene.leading
    # Where the lock objects name two holders, it is one of them that ends.
    ended = scene.ended
    name = holder.holder if ended is None else ended[0]
    problem = ""
    if over_after is None:
        problem = _not_heeded(scene, holder, after)
    elif leading is None:
        problem = f"nobody else led within {after:.0f} s"
    elif leading.holder == name:
        problem = f"{name} leads again: nobody else did"
    return Outcome(
        namespace=namespace,
        election=election,
        locks=tuple(lock.resource for lock in asked),
        asked=name,
        asked_node=_node(holder) if name == holder.holder else "",
        stepped_down_after=over_after,
        leader=leading.holder if leading is not None else name if over_after is None else "",
        leader_node=_node(leading) if leading is not None else _node(holder) if over_after is None else "",
        leads_after=after if leading is not None else None,
        problem=problem,
    )


def _not_heeded(scene: _Scene, holder: Snapshot, after: float) -> str:
    lease = holder.record.lease_seconds if isinstance(holder.record, Record) else 0
    if not any(scene.has_renewed(lock) for lock in scene.now):
        return (
            f"{holder.holder} has not renewed its lease for {after:.0f} s either: it is gone or cut off, and others "
            f"take over when its lease of {lease} s has run out"
        )
    who = "an older version" if holder.valid_claim is not None else "the stock image, or another elector"
    return (
        f"{holder.holder} goes on renewing and did not heed the request within {after:.0f} s: {who}, which knows no "
        "such request; delete its pod instead"
    )


async def _follow(lock: Lock, scene: _Scene, *, seconds: int) -> None:
    """Tell the scene of every change of one lock object, until cancelled."""
    watching, pause = True, FIRST_PAUSE
    while True:
        snapshot = scene.now[lock]
        if watching and snapshot is not None:
            try:
                async with lock.watch(snapshot.version, seconds) as events:
                    async for event in events:
                        if isinstance(event, Changed):
                            scene.see(lock, event.snapshot)
                        elif isinstance(event, Deleted):
                            scene.see(lock, None)
            except ForbiddenError:
                watching = False
            except GoneError:
                pass  # what happened since is in the object as it is now
            except ApiError:
                pass  # it is looked at instead, and watched again
        await asyncio.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)
        with suppress(ApiError):
            scene.see(lock, await lock.fetch())


async def _take_back(asked: Mapping[Lock, str]) -> None:
    """Remove what stands there of these requests: whoever heeds one removes it itself."""
    with suppress(ApiError, CommandError, TimeoutError):
        async with asyncio.timeout(TAKE_BACK_SECONDS):
            for lock, request in asked.items():
                snapshot = await lock.fetch()
                if snapshot is not None and snapshot.annotations.get(STEP_DOWN_ANNOTATION) == request:
                    await _swap(lock, None)
