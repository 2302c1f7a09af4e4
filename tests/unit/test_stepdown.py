"""Asking a leader to step down, when lock objects are deleted, watches fail or fall silent, and writes collide."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from sidecar.election import Changed, Deleted
from sidecar.kube import ApiError, ConflictError, ForbiddenError, NotFoundError
from sidecar.lab import stepdown
from sidecar.lab.commandline import CommandError
from sidecar.lab.stepdown import step_down
from sidecar.record import CHECKING, LEADING, STEP_DOWN_ANNOTATION, Claim, Record, Snapshot

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping

    from sidecar.lab.stepdown import Outcome
    from sidecar.locks import LockEvent


class FakeLock:
    """A lock object, and what goes wrong with it. `heed` is called when the request is written."""

    resource = "endpoints"
    name = "shop/store"

    def __init__(self, heed: Callable[[FakeLock], None] = lambda _: None) -> None:
        self.heed = heed
        self.snapshot: Snapshot | None = None
        self.annotations: dict[str, str] = {}
        self.version = 0
        self.reads = self.writes = 0
        self.conflicts = 0
        self.watch_fails: ApiError | None = None
        self.is_silent = False
        self._watches: list[asyncio.Queue[LockEvent]] = []

    def hold(self, holder: str, *, acquired: str = "T", renewed: str = "T", state: str = LEADING) -> None:
        """Let somebody hold it, and everybody who watches see that."""
        record = Record(holder=holder, lease_seconds=9, acquire_time=acquired, renew_time=renewed, transitions=0)
        claim = Claim(holder=holder, node=f"node-of-{holder}", pod_uid="u", state=state, renewed=renewed)
        self._put(record, claim if holder else None)

    def delete(self) -> None:
        """Delete it."""
        self.version += 1
        self.snapshot = None
        self._show(Deleted(self.version))

    def _put(self, record: Record, claim: Claim | None) -> None:
        self.version += 1
        self.snapshot = Snapshot(
            version=self.version,
            text=record.encode(),
            record=record,
            claim=claim,
            body={"metadata": {"annotations": dict(self.annotations)}},
        )
        self._show(Changed(self.snapshot))

    def _show(self, event: LockEvent) -> None:
        for queue in self._watches:
            queue.put_nowait(event)

    async def fetch(self) -> Snapshot | None:
        """See `Lock.fetch`."""
        self.reads += 1
        return self.snapshot

    async def swap(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """See `Lock.swap`."""
        self.writes += 1
        if self.snapshot is None:
            raise NotFoundError("there is none", status=404)
        if self.conflicts:
            self.conflicts -= 1
            raise ConflictError("it changed", status=409)
        (text,) = annotations.values()
        self.annotations = {} if text is None else {STEP_DOWN_ANNOTATION: text}
        record = self.snapshot.record
        assert isinstance(record, Record)
        self._put(record, self.snapshot.claim)
        written = self.snapshot
        if text is not None:
            self.heed(self)
        return written

    async def annotate(self, annotations: Mapping[str, str | None]) -> Snapshot:
        """See `Lock.annotate`."""
        raise NotImplementedError

    async def write(
        self, base: Snapshot | None, record: Record, claim: Claim | None, others: Mapping[str, str | None]
    ) -> Snapshot:
        """See `Lock.write`."""
        raise NotImplementedError

    @asynccontextmanager
    async def watch(self, version: int, seconds: int) -> AsyncIterator[AsyncIterator[LockEvent]]:
        """See `Lock.watch`."""
        del seconds
        if self.watch_fails is not None:
            raise self.watch_fails
        queue: asyncio.Queue[LockEvent] = asyncio.Queue()
        if self.snapshot is not None and self.snapshot.version > version:
            queue.put_nowait(Changed(self.snapshot))

        async def events() -> AsyncIterator[LockEvent]:
            while True:
                event = await queue.get()
                if not self.is_silent:
                    yield event

        self._watches.append(queue)
        try:
            yield events()
        finally:
            self._watches.remove(queue)


async def asked(lock: FakeLock, *, timeout: float = 20.0) -> Outcome:  # noqa: ASYNC109 - handed on
    """Ask, and return what became of it; the request must be gone then."""
    outcome = await step_down([lock], timeout=timeout, progress=lambda _: None)
    assert lock.annotations == {}
    return outcome


def handed_over(lock: FakeLock) -> None:
    """Do what a leader that heeds it does, and then another candidate."""
    lock.annotations = {}
    lock.hold("")
    lock.hold("b", acquired="U", state=CHECKING)
    lock.hold("b", acquired="U", renewed="V")


def handed_over_soon(lock: FakeLock) -> None:
    """Do it a little later."""
    asyncio.get_running_loop().call_later(0.05, handed_over, lock)


def deleted(lock: FakeLock) -> None:
    """Delete it, with all that stands on it."""
    lock.annotations = {}
    lock.delete()


async def test_all_is_well() -> None:
    """Another leads: who, where, and when the other one's term was over."""
    lock = FakeLock(handed_over)
    lock.hold("a")
    outcome = await asked(lock)
    assert (outcome.asked, outcome.asked_node) == ("a", "node-of-a")
    assert (outcome.leader, outcome.leader_node, outcome.moved) == ("b", "node-of-b", True)
    assert (outcome.stepped_down_after or 0) <= (outcome.leads_after or 0)


async def test_whoever_checks_does_not_lead() -> None:
    """A holder that is still checking is not told as the leader."""

    def checking(lock: FakeLock) -> None:
        lock.annotations = {}
        lock.hold("b", acquired="U", state=CHECKING)

    lock = FakeLock(checking)
    lock.hold("a")
    outcome = await asked(lock, timeout=0.1)
    assert (outcome.moved, outcome.leader, outcome.problem) == (False, "", "nobody else led within 0 s")
    assert outcome.stepped_down_after is not None


@pytest.mark.parametrize(
    "error", [ForbiddenError("no", status=403), ApiError("broken", status=500)], ids=["forbidden", "broken"]
)
async def test_nothing_can_be_watched(error: ApiError) -> None:
    """Then it is looked at instead."""
    lock = FakeLock(handed_over_soon)
    lock.watch_fails = error
    lock.hold("a")
    outcome = await asked(lock)
    assert (outcome.leader, outcome.moved) == ("b", True)


async def test_a_watch_that_has_fallen_silent() -> None:
    """What it did not show is seen at the end."""
    lock = FakeLock(handed_over_soon)
    lock.is_silent = True
    lock.hold("a")
    outcome = await asked(lock, timeout=0.3)
    assert (outcome.leader, outcome.moved) == ("b", True)


async def test_a_lock_object_that_is_deleted() -> None:
    """Its leader leads no more; another one may lead on a new one, and a request is not looked for there."""

    def remade(lock: FakeLock) -> None:
        deleted(lock)
        lock.hold("b", acquired="U")

    lock = FakeLock(remade)
    lock.hold("a")
    outcome = await asked(lock)
    assert (outcome.leader, outcome.moved) == ("b", True)

    gone = FakeLock(deleted)
    gone.hold("a")
    outcome = await asked(gone, timeout=0.1)
    assert (outcome.moved, outcome.leader) == (False, "")


async def test_the_same_one_again() -> None:
    """Another term of the same candidate is not what was asked for."""

    def again(lock: FakeLock) -> None:
        lock.annotations = {}
        lock.hold("a", acquired="U")

    lock = FakeLock(again)
    lock.hold("a")
    outcome = await asked(lock)
    assert (outcome.moved, outcome.problem) == (False, "a leads again: nobody else did")


async def test_another_operator_asked_as_well() -> None:
    """A request of a later term is not taken back: it is somebody else's."""

    def asked_again(lock: FakeLock) -> None:
        handed_over(lock)
        lock.annotations = {STEP_DOWN_ANNOTATION: "of b"}
        lock.hold("b", acquired="U", renewed="W")

    lock = FakeLock(asked_again)
    lock.hold("a")
    outcome = await step_down([lock], timeout=20.0, progress=lambda _: None)
    assert outcome.moved
    assert lock.annotations == {STEP_DOWN_ANNOTATION: "of b"}


async def test_writes_that_collide(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is tried again, but not for ever."""
    monkeypatch.setattr(stepdown, "ATTEMPT_SECONDS", 0.001)
    lock = FakeLock(handed_over)
    lock.hold("a")
    lock.conflicts = stepdown.ATTEMPTS - 1
    assert (await asked(lock)).moved
    assert lock.writes == stepdown.ATTEMPTS

    lock.conflicts = 10 * stepdown.ATTEMPTS
    with pytest.raises(ConflictError):
        await asked(lock)
    assert lock.writes <= 3 * stepdown.ATTEMPTS


async def test_deleted_before_it_was_asked() -> None:
    """Nobody is asked then, and it is said why."""
    lock = FakeLock()
    lock.hold("a")
    fetched = lock.snapshot

    async def fetch() -> Snapshot | None:
        lock.snapshot = None
        return fetched

    lock.fetch = fetch  # type: ignore[method-assign]
    with pytest.raises(CommandError, match="has just been deleted"):
        await step_down([lock], timeout=1.0, progress=lambda _: None)


async def test_told_to_end() -> None:
    """Cancelled, it takes its request back."""
    lock = FakeLock()
    lock.hold("a")
    told = asyncio.Event()
    task = asyncio.ensure_future(step_down([lock], timeout=20.0, progress=lambda _: told.set()))
    await told.wait()
    assert lock.annotations
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert lock.annotations == {}
