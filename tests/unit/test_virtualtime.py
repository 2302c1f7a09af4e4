"""The clock of a simulation: it jumps, keeps the order of things, and says when nothing will ever happen."""

from __future__ import annotations

import asyncio
import itertools
import math
import time

import pytest

from sidecar.lab.virtualtime import EPOCH, PROCESS, DeadlockError, VirtualClock, VirtualTimeLoop, run


def test_hours_take_no_time() -> None:
    """A day of sleep is over at once, and the clock shows it."""

    async def main() -> float:
        await asyncio.sleep(86400)
        return asyncio.get_running_loop().time()

    began = time.monotonic()
    assert run(main()) == pytest.approx(86400, abs=0.01)
    assert time.monotonic() - began < 60


def test_timers_fire_in_their_order() -> None:
    """What is due earlier runs earlier, whichever was set first, and the clock shows when."""
    seen: list[tuple[str, int]] = []

    async def note(name: str, delay: float) -> None:
        await asyncio.sleep(delay)
        seen.append((name, round(asyncio.get_running_loop().time())))

    async def main() -> None:
        await asyncio.gather(note("third", 30), note("first", 10), note("second", 20))

    run(main())
    assert seen == [("first", 10), ("second", 20), ("third", 30)]


def test_timeouts_end_what_waits() -> None:
    """The time-outs of asyncio itself work, in virtual seconds."""

    async def main() -> float:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 5)
        return asyncio.get_running_loop().time()

    assert run(main()) == pytest.approx(5, abs=0.01)


def test_deadlock_is_an_error_that_names_who_waits() -> None:
    """When no timer is set and no task can run, waiting on would be for ever."""

    async def main() -> None:
        task = asyncio.current_task()
        assert task is not None
        task.set_name("somebody")
        await asyncio.Event().wait()

    with pytest.raises(DeadlockError, match="waiting are: somebody"):
        run(main())


def test_busy_loop_uses_up_time() -> None:
    """Something that never waits cannot hold the clock: a time-out around it ends it."""

    async def spin() -> None:
        for _ in itertools.repeat(None):
            await asyncio.sleep(0)

    async def main() -> None:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(spin(), 0.001)

    run(main())


def test_threads_are_refused() -> None:
    """A thread's work would pass unseen by the clock."""

    async def main() -> None:
        with pytest.raises(RuntimeError, match="no threads"):
            await asyncio.to_thread(time.monotonic)

    run(main())


def test_result_and_exception_come_through() -> None:
    """`run` returns what the coroutine returns and raises what it raises."""

    async def fails() -> None:
        raise LookupError("so")

    async def succeeds() -> int:
        return 7

    assert run(succeeds()) == 7
    with pytest.raises(LookupError, match="so"):
        run(fails())


def test_clock_drifts_and_is_set() -> None:
    """Each clock has a rate, a reading to begin with, and a time of day that can be set without moving the rest."""

    async def main() -> None:
        plain, fast = VirtualClock(), VirtualClock(rate=1.5, offset=100, wall_offset=-3600)
        await asyncio.sleep(10)
        assert plain.now() == pytest.approx(10, abs=0.01)
        assert plain.wall() == pytest.approx(EPOCH + 10, abs=0.01)
        assert fast.now() == pytest.approx(115, abs=0.01)
        assert fast.wall() == pytest.approx(EPOCH - 3600 + 15, abs=0.01)
        fast.wall_offset = 0
        assert fast.wall() == pytest.approx(EPOCH + 15, abs=0.01)
        assert fast.now() == pytest.approx(115, abs=0.01)

    run(main())


def test_stopped_process_stands_still() -> None:
    """Nothing of a stopped process runs until it goes on; then its timers that became due run, and time has passed."""
    seen: dict[str, list[int]] = {"stopped": [], "running": []}

    async def tick(process: str) -> None:
        PROCESS.set(process)
        for _ in range(5):
            await asyncio.sleep(1)
            seen[process].append(round(asyncio.get_running_loop().time()))

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        tasks = [asyncio.create_task(tick(process)) for process in seen]
        await asyncio.sleep(1.5)
        loop.stop_process("stopped", 10)
        await asyncio.gather(*tasks)

    run(main())
    assert seen["running"] == [1, 2, 3, 4, 5]
    assert seen["stopped"] == [1, 12, 13, 14, 15] or seen["stopped"] == [1, 11, 12, 13, 14]


def test_stops_add_up_to_the_longest() -> None:
    """A process that is stopped twice goes on when both times are over; one that is stopped for ever never does."""
    seen: list[tuple[str, int]] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)

        def note(process: str) -> None:
            seen.append((process, round(loop.time())))

        for process in ("twice", "for ever"):
            PROCESS.set(process)
            loop.call_later(1, note, process)
            PROCESS.set("")
        loop.stop_process("twice", 20)
        loop.stop_process("twice", 5)
        loop.stop_process("for ever", 5)
        loop.stop_process("for ever", math.inf)
        await asyncio.sleep(1000)

    run(main())
    assert seen == [("twice", 20)]


def test_process_can_stop_itself_and_is_timed_out() -> None:
    """A process that is stopped inside of a time-out finds that its time ran out when it goes on."""

    async def main() -> float:
        PROCESS.set("self")
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        loop.stop_process("self", 30)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(asyncio.Event().wait(), 2)
        return loop.time()

    assert run(main()) == pytest.approx(30, abs=0.01)


def test_what_is_cancelled_while_stopped_does_not_run() -> None:
    """A callback that is due in a stopped process, and is cancelled by then, never runs."""
    ran: list[int] = []

    async def main() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, VirtualTimeLoop)
        PROCESS.set("p")
        handle = loop.call_later(1, ran.append, 1)
        PROCESS.set("")
        loop.stop_process("p", 5)
        await asyncio.sleep(2)
        handle.cancel()
        await asyncio.sleep(10)

    run(main())
    assert ran == []
