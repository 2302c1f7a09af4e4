"""Virtual time: an asyncio event loop whose clock jumps to the next timer as soon as nothing is left to do.

An hour of an election takes milliseconds, and the same program with the same random numbers takes the same course each
time. What runs in it must not touch the outside world: no sockets, threads, subprocesses or signals.

Several processes can be played in one loop, and each of them can be stopped for a while, as SIGSTOP or a machine that
hangs does it: time goes on for everybody, but nothing of that process runs.
"""

import asyncio
import math
from collections.abc import Callable, Coroutine
from contextvars import Context, ContextVar, copy_context
from functools import partial
from typing import Any, Final, NoReturn, TypeVar, TypeVarTuple

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

TICK: Final = 1e-6
"""Seconds that one round of the loop takes. Without it, something that waits for no time at all, again and again, would
hold the clock where it is; so it is seen as what it is, a busy loop that uses up time."""

EPOCH: Final = 1_700_000_000.0
"""What a wall clock shows when its loop begins, in seconds since the epoch."""

PROCESS: Final[ContextVar[str]] = ContextVar("process", default="")
"""Which process a task plays a part of; tasks and timers inherit it from whoever makes them."""


class DeadlockError(RuntimeError):
    """Everything waits, and nothing will ever happen: no task can run and no timer is set."""


class VirtualTimeLoop(asyncio.BaseEventLoop):
    """The event loop. `time()` is 0 when it is made, and moves only by itself."""

    def __init__(self) -> None:
        super().__init__()
        self._now = 0.0
        self._selector = self
        self._clock_resolution = TICK
        self.stopped: dict[str, list[_Call]] = {}
        """The processes that are stopped, and what of theirs has become due."""
        self._stopped_until: dict[str, float] = {}

    def time(self) -> float:
        """Return the virtual time in seconds."""
        return self._now

    def select(self, timeout: float | None) -> list[Any]:
        """Take the place of the wait for I/O: let time pass. Raises DeadlockError where it would pass for ever."""
        if timeout is None:
            waiting = sorted(task.get_name() for task in asyncio.all_tasks(self))
            raise DeadlockError(f"nothing will ever happen again; waiting are: {', '.join(waiting) or 'no tasks'}")
        self._now += max(timeout, TICK)
        return []

    def stop_process(self, process: str, seconds: float) -> None:
        """Let nothing of `process` run for that long; infinity is for ever, as if it had been killed.

        What was due in the meantime runs when it goes on, in order. A process that is stopped already goes on when the
        later of the two times has come.
        """
        self.stopped.setdefault(process, [])
        self._stopped_until[process] = max(self._now + seconds, self._stopped_until.get(process, 0.0))
        if math.isfinite(seconds):
            # On the loop's own account: a process that stops itself could not go on by itself.
            self.call_later(seconds, self._continue_in_time, process, context=Context())

    def _continue_in_time(self, process: str) -> None:
        if self._stopped_until.get(process, math.inf) <= self._now + TICK:
            self.continue_process(process)

    def continue_process(self, process: str) -> None:
        """Let a stopped process go on now."""
        del self._stopped_until[process]
        for call in self.stopped.pop(process):
            super().call_soon(call, context=call.context)

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        """See `asyncio.AbstractEventLoop`."""
        call = _Call(self, partial(callback, *args), copy_context() if context is None else context)
        call.handle = super().call_soon(call, context=call.context)
        return call.handle

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        """See `asyncio.AbstractEventLoop`."""
        call = _Call(self, partial(callback, *args), copy_context() if context is None else context)
        call.handle = handle = super().call_at(when, call, context=call.context)
        return handle

    def run_in_executor(self, executor: object, func: Callable[..., object], *args: object) -> NoReturn:
        """Raise RuntimeError: a thread's work would take no virtual time, and real time goes by unseen."""
        raise RuntimeError(f"virtual time knows no threads: {func} cannot run in {executor or 'one'} with {args}")

    def _process_events(self, events: list[Any]) -> None:
        """There are none: nothing comes from outside."""

    def _write_to_self(self) -> None:
        """Nobody waits for I/O, so there is nobody to wake."""


class _Call:
    """One callback of the loop, which stands by while its process is stopped."""

    __slots__ = ("_callback", "_loop", "context", "handle")

    def __init__(self, loop: VirtualTimeLoop, callback: Callable[[], object], context: Context) -> None:
        self._loop = loop
        self._callback = callback
        self.context = context
        self.handle: asyncio.Handle | None = None

    def __call__(self) -> None:
        if self.handle is not None and self.handle.cancelled():
            return
        standing_by = self._loop.stopped.get(PROCESS.get())
        if standing_by is None:
            self._callback()
        else:
            standing_by.append(self)


class VirtualClock:
    """The clocks of one candidate, as `sidecar.candidate.Clock` wants them, on the loop that runs.

    `rate` is how many of its seconds pass in one of the loop's; `offset` is what it shows when the loop begins;
    `wall_offset` is how far its time of day is off, and may be changed at any time.
    """

    def __init__(self, *, rate: float = 1.0, offset: float = 0.0, wall_offset: float = 0.0) -> None:
        self._loop = asyncio.get_running_loop()
        self._rate = rate
        self._offset = offset
        self.wall_offset = wall_offset

    def now(self) -> float:
        """Return seconds on a clock that never goes back."""
        return self._offset + self._loop.time() * self._rate

    def wall(self) -> float:
        """Return seconds since the epoch."""
        return EPOCH + self.wall_offset + self._loop.time() * self._rate


def run(main: Coroutine[Any, Any, T]) -> T:
    """Run `main` to its end in a virtual time of its own, and return what it returns. Raises DeadlockError."""
    with asyncio.Runner(loop_factory=VirtualTimeLoop) as runner:
        return runner.run(main)
