"""One term of leadership, with followers that answer what the test says, in virtual time."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import pytest
from store.leader import WAITING_WRITES, WRITE_SECONDS, Leader, NotStoredError, UnknownError
from store.log import BehindError, Entry, FencedError, Position, Standing
from store.peers import Peer, UnavailableError

from sidecar.lab.virtualtime import run
from tests.store.simulated import SimulatedReplica
from tests.store.test_log import made

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncGenerator, AsyncIterator
    from pathlib import Path

    from store.log import Append


class Instant:
    """The chance of a disk that takes no time."""

    def expovariate(self, _: float) -> float:
        """Return the seconds that a write takes."""
        return 0.0


@dataclass(frozen=True, slots=True)
class Scripted(Peer):
    """A follower that does as it is told."""

    standings: list[Standing | Exception] = field(default_factory=list)
    """What it answers when it is prepared; the last one again and again."""
    answers: list[Exception | None] = field(default_factory=list)
    """What it answers to what is sent; the last one again and again. None: it has it."""
    sent: list[Append] = field(default_factory=list)
    copies: list[dict[str, Any]] = field(default_factory=list)

    async def prepare(self, token: int) -> Standing:  # noqa: ARG002 - it takes anybody
        """Answer as told."""
        answer = self.standings.pop(0) if len(self.standings) > 1 else self.standings[0]
        return _given(answer)

    async def append(self, append: Append) -> None:
        """Answer as told, a moment later."""
        await asyncio.sleep(0.01)
        self.sent.append(append)
        answer = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if answer is not None:
            raise answer

    async def copy(self, token: int, after: int) -> AsyncGenerator[dict[str, Any]]:  # noqa: ARG002 - one log for all
        """Yield what there is to copy."""
        for line in self.copies:
            yield line


def _given(answer: Standing | Exception) -> Standing:
    if isinstance(answer, Exception):
        raise answer
    return answer


AWAY = UnavailableError("away")
EMPTY = Standing(promised=0, last=Position(0, 0), member=True)


def peer(name: str, *answers: Exception | None, standing: Standing | Exception = EMPTY) -> Scripted:
    """Return a follower; one that says nothing else takes whatever it is sent."""
    return Scripted(name, "", cast("Any", None), standings=[standing], answers=list(answers) or [None])


def replica(folder: Path, *peers: Scripted) -> SimulatedReplica:
    """Return the leader's own replica."""
    made_ = SimulatedReplica("s-0", made(folder), {one.name: one for one in peers})
    made_.chance, made_.turn = cast("random.Random", Instant()), asyncio.Lock()
    return made_


@asynccontextmanager
async def leading(own: SimulatedReplica, token: int = 5) -> AsyncIterator[Leader]:
    """Lead in the background while the block runs."""
    leader = Leader(own, token)
    term = asyncio.create_task(leader.run())
    try:
        yield leader
    finally:
        term.cancel()
        await asyncio.wait([term])
        own.log.close()


async def until_serving(leader: Leader) -> None:
    """Wait until it takes writes."""
    async with asyncio.timeout(30):
        while not leader.serves:  # noqa: ASYNC110 - nobody tells, and time is virtual
            await asyncio.sleep(0.01)


def test_a_write_is_acknowledged_by_a_majority(tmp_path: Path) -> None:
    """With one of two followers away, a write is acknowledged, with its sequence number and token."""

    async def main() -> None:
        own = replica(tmp_path, peer("s-1"), peer("s-2", AWAY, standing=AWAY))
        async with leading(own) as leader:
            await until_serving(leader)
            assert await leader.write("k", b"v") == Entry(2, 5, "k", b"v")
            assert own.log.read("k") == (b"v", 2)

    run(main())


def test_without_a_majority_nothing_is_acknowledged(tmp_path: Path) -> None:
    """A leader whose followers go away says that it does not know; what comes later is not taken for acknowledged."""

    async def main() -> None:
        one, other = peer("s-1"), peer("s-2")
        async with leading(replica(tmp_path, one, other)) as leader:
            await until_serving(leader)
            one.answers[:] = other.answers[:] = [AWAY]
            began = asyncio.get_running_loop().time()
            with pytest.raises(UnknownError):
                await leader.write("k", b"v")
            assert asyncio.get_running_loop().time() - began == pytest.approx(WRITE_SECONDS, abs=0.1)

    run(main())


def test_nothing_is_served_before_a_majority_of_members_promised(tmp_path: Path) -> None:
    """Replicas that are away or are no members yet do not count when a term begins."""

    async def main() -> None:
        new = Standing(promised=0, last=Position(0, 0), member=False)
        async with leading(replica(tmp_path, peer("s-1", standing=new), peer("s-2", standing=AWAY))) as leader:
            await asyncio.sleep(30)
            assert not leader.serves
            with pytest.raises(NotStoredError):
                await leader.write("k", b"v")

    run(main())


def test_the_log_that_is_furthest_is_taken_over(tmp_path: Path) -> None:
    """A leader that lacks entries copies them from the member that has them, and its term begins after them."""

    async def main() -> None:
        ahead = peer("s-1", standing=Standing(promised=4, last=Position(4, 2), member=True))
        ahead.copies[:] = [
            {"after": 0, "committed": 1, "horizon": 0},
            {"entries": [[1, 3, None, None], [2, 4, "k", "dg=="]]},
            {"end": True},
        ]
        own = replica(tmp_path, ahead, peer("s-2", standing=AWAY))
        async with leading(own) as leader:
            await until_serving(leader)
            assert [(one.sequence, one.token) for one in own.log.after(0)] == [(1, 3), (2, 4), (3, 5)]
            assert own.log.read("k") == (b"v", 2)

    run(main())


def test_earlier_entries_are_not_committed_by_being_many(tmp_path: Path) -> None:
    """An entry of an earlier leader that a majority has is not committed before the entry that begins this term is.

    Otherwise a later leader that has neither could be elected, and would overwrite it: Raft, figure 8.
    """

    async def main() -> None:
        follower = peer("s-1")
        own = replica(tmp_path, follower, peer("s-2", AWAY, standing=AWAY))
        own.log.promise(3)
        own.log.add(3, [("k", b"v")])
        follower.answers[:] = [BehindError(0), AWAY]
        async with leading(own) as leader:
            await asyncio.sleep(1)
            follower.answers[:] = [None, AWAY]
            # It takes what it is sent first, and that has the entry of this term only at its end.
            sent = len(follower.sent)
            leader._followers[0].has = 1
            leader._advance()
            assert own.log.committed == 0
            await until_serving(leader)
            assert follower.sent[sent].entries[-1].token == 5
            assert own.log.committed == 2

    run(main())


def test_what_another_leader_wrote_here_acknowledges_nothing(tmp_path: Path) -> None:
    """Once the own replica has promised another leader, its log does not count for this one, nor does it confirm it."""

    async def main() -> None:
        one, other = peer("s-1"), peer("s-2")
        own = replica(tmp_path, one, other)
        async with leading(own) as leader:
            await until_serving(leader)
            one.answers[:] = other.answers[:] = [AWAY]
            write = asyncio.create_task(leader.write("k", b"v"))
            await asyncio.sleep(1)
            own.log.promise(9)
            one.answers[:] = [None]
            await asyncio.sleep(1)
            assert not write.done()
            with pytest.raises(NotStoredError):
                await leader.confirm()
            with pytest.raises(UnknownError):
                await write

    run(main())


def test_a_reading_is_confirmed_by_answers_that_came_after_it(tmp_path: Path) -> None:
    """A consistent read waits for a majority that is asked after it began; earlier answers do not count."""

    async def main() -> None:
        one, other = peer("s-1"), peer("s-2", AWAY)
        async with leading(replica(tmp_path, one, other)) as leader:
            await until_serving(leader)
            await leader.confirm()
            one.answers[:] = [AWAY]
            with pytest.raises(NotStoredError, match="majority"):
                await leader.confirm()

    run(main())


def test_a_leader_that_is_refused_ends(tmp_path: Path) -> None:
    """One follower that knows of a greater token is enough: the term ends, and what is under way is not known."""

    async def main() -> None:
        one, other = peer("s-1"), peer("s-2", AWAY)
        own = replica(tmp_path, one, other)
        leader = Leader(own, 5)
        term = asyncio.create_task(leader.run())
        await until_serving(leader)
        one.answers[:] = [AWAY]
        write = asyncio.create_task(leader.write("k", b"v"))
        await asyncio.sleep(1)
        one.answers[:] = [FencedError(8)]
        with pytest.raises(UnknownError):
            await write
        with pytest.raises(FencedError, match="8"):
            await term
        assert not leader.serves
        own.log.close()

    run(main())


def test_writes_have_a_limit(tmp_path: Path) -> None:
    """When too many writes wait for the disk, further ones are refused at once, and are not stored."""

    async def main() -> None:
        own = replica(tmp_path, peer("s-1"), peer("s-2"))
        async with leading(own) as leader:
            await until_serving(leader)
            async with own.turn:  # the disk is busy
                writes = [asyncio.create_task(leader.write("k", b"v")) for _ in range(WAITING_WRITES + 200)]
                await asyncio.sleep(1)
                refused = [one for one in writes if one.done()]
                assert 0 < len(refused) <= 200
                assert all(isinstance(one.exception(), NotStoredError) for one in refused)
            await asyncio.wait(writes)
            assert own.log.last.sequence == 1 + len(writes) - len(refused)

    run(main())


def test_draining_waits_for_what_was_taken(tmp_path: Path) -> None:
    """A leader that ends can wait until the writes under way are acknowledged."""

    async def main() -> None:
        async with leading(replica(tmp_path, peer("s-1"), peer("s-2", AWAY))) as leader:
            await until_serving(leader)
            writes = [asyncio.create_task(leader.write("k", b"v")) for _ in range(5)]
            await asyncio.sleep(0)
            await leader.drain()
            await asyncio.sleep(0)
            assert all(one.done() and one.exception() is None for one in writes)

    run(main())
