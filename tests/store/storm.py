"""Random faults on the store's processes under load, by seed: `python -m tests.store.storm --seed 7 --seconds 60`.

Stores and sidecars are killed, told to end, stopped, and cut off from one another; volumes are lost, one at a time. In
the end everything runs again, and the judge of the history finds nothing. The same seed draws the same faults, not the
same course: what they hit is up to the machine.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import secrets
import shutil
import signal
import sys
import tempfile
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar.lab.apiserver import EmbeddedAPIServer
from tests.store.history import History, check
from tests.store.load import Load
from tests.store.replicas import API, EVENTS, PROGRAM, TTL_SECONDS, Replicas, silenced
from tests.testbed.embedded import EmbeddedForTests
from tests.testbed.ports import free_port
from tests.testbed.progress import progress
from tests.testbed.sidecar import Sidecars

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from tests.store.replicas import Replica
    from tests.testbed.sidecar import Sidecar

HANDS = 2
"""Faults that go on at a time."""

LONGEST_FAULT = 6.0
LONGEST_CALM = 2.0
"""Seconds from the end of a fault to the next one of the same hand."""

AIMED = 0.6
"""How often a fault is aimed at the leader, if it is nobody's at the time."""

LOOK_AGAIN = 0.3
"""Seconds from one look at who leads to the next."""

CLIENT_SECONDS = 3.0
CLIENTS = 16

KEPT = 40
"""Entries of the log that are kept, few so that snapshots are needed."""

RECOVERY_SECONDS = 60.0
"""Within which everything works again when the faults have ended."""

MOST_TOLD = 8
"""Things that are wrong that are told; all of them can be found again from what is kept."""


@dataclass
class Storm:
    """What happens to the replicas of one store."""

    store: Replicas
    chance: random.Random
    told: list[str] = field(default_factory=list)
    """What was done, with when, in seconds since the beginning."""
    _busy: set[str] = field(default_factory=set)
    _last_leader: str = ""
    _volumes: asyncio.Lock = field(default_factory=asyncio.Lock)
    _began: float = field(default_factory=lambda: asyncio.get_running_loop().time())

    async def rage(self, seconds: float) -> None:
        """Do random faults for so long, and undo them."""
        end = self._began + seconds
        hands = [random.Random(self.chance.random()) for _ in range(HANDS)]  # noqa: S311 - faults, no secrets
        looking = asyncio.create_task(self._look())
        try:
            async with asyncio.TaskGroup() as tasks:
                for chance in hands:
                    tasks.create_task(self._hand(chance, end))
        finally:
            looking.cancel()
        self.store.network.heal()

    async def _hand(self, chance: random.Random, end: float) -> None:
        loop = asyncio.get_running_loop()
        while loop.time() < end:
            await asyncio.sleep(chance.uniform(0, LONGEST_CALM))
            fault = chance.choice(self._faults())
            free = [one for one in self.store.members if one.name not in self._busy]
            # Some are over before a lease is, and some are not.
            hold = chance.choice((chance.uniform(0, 1), chance.uniform(2, LONGEST_FAULT)))
            which, aimed = chance.random(), chance.random() < AIMED
            if free:
                leading = [one for one in free if one.name == self._last_leader]
                on = leading[0] if leading and aimed and fault != self._usurp else free[int(which * len(free))]
                await self._do(fault, on, hold, which)

    def _faults(self) -> list[Callable[[Replica, float, float], Awaitable[None]]]:
        """Return the faults that are drawn from, some more often."""
        processes = [self._kill, self._kill, self._kill_both, self._kill_all, self._end, self._stop, self._stop]
        return [
            *processes,
            self._lose,
            *[self._cut_off] * 3,
            *[self._usurp] * 2,
            *[self._depose] * 2,
            self._reset,
            self._delay,
            *[self._keep_ignorant] * 2,
        ]

    async def _look(self) -> None:
        """Take note of who leads, again and again."""
        while True:
            for one in self.store.members:
                if one.is_awake and ((await one.role()) or {}).get("role") == "leader":
                    self._last_leader = one.name
            await asyncio.sleep(LOOK_AGAIN)

    async def _do(
        self, fault: Callable[[Replica, float, float], Awaitable[None]], on: Replica, hold: float, which: float
    ) -> None:
        self._busy.add(on.name)
        try:
            self._tell(f"{fault.__name__.strip('_')} {on.name} for {hold:.2f} s")
            await fault(on, hold, which)
            self._tell(f"{fault.__name__.strip('_')} {on.name} is over")
        finally:
            self._busy.discard(on.name)

    def _tell(self, what: str) -> None:
        now = asyncio.get_running_loop().time()
        self.told.append(f"{now - self._began:.2f} s, {now:.3f}: {what}")

    async def _kill(self, on: Replica, hold: float, _: float) -> None:
        await on.kill()
        await asyncio.sleep(hold)
        on.start()

    async def _kill_both(self, on: Replica, hold: float, _: float) -> None:
        assert on.sidecar is not None
        await on.sidecar.kill()
        await on.kill()
        await asyncio.sleep(hold)
        on.start()
        on.sidecar.start()

    async def _stop(self, on: Replica, hold: float, which: float) -> None:
        part = int(which * 1000) % 3
        with on.standing_still(store=part != 1, sidecar=part != 2):
            await asyncio.sleep(hold)

    async def _end(self, on: Replica, hold: float, which: float) -> None:
        assert on.sidecar is not None
        on.signal(signal.SIGTERM)
        if int(which * 1000) % 2:
            await on.sidecar.terminate()
        await on.ended()
        await asyncio.sleep(hold)
        on.start()
        if not on.sidecar.is_running():
            on.sidecar.start()

    async def _cut_off(self, on: Replica, hold: float, which: float) -> None:
        """Let clients alone reach a replica; or the API server as well; or let only one direction be held back."""
        network, part = self.store.network, int(which * 1000) % 4
        ways = network.peers(on.name) + (network.to(on.name, API) if part < 2 else [])
        with silenced(ways, requests=part != 2, answers=part != 3):
            await asyncio.sleep(hold)

    async def _depose(self, on: Replica, hold: float, which: float) -> None:
        """Stop a sidecar for longer than its lease: its store goes on, and has yet to learn that another one leads.

        In half of the cases nobody else can tell it either, while it reaches the others.
        """
        with silenced(self.store.network.inward(on.name) if which < 1 / 2 else []), on.standing_still(store=False):
            await asyncio.sleep(TTL_SECONDS + 1 + hold / 3)

    async def _usurp(self, on: Replica, hold: float, _: float) -> None:
        """Cut off a replica from the others, and then kill one that is ahead of it, and let it take over."""
        with silenced(self.store.network.peers(on.name)):
            await asyncio.sleep(hold)
            free = [one for one in self.store.members if one.name not in self._busy]
            ahead = next((one for one in free if one.name == self._last_leader), None)
            if ahead is not None:
                self._busy.add(ahead.name)
                await ahead.kill()
        if ahead is not None:
            try:
                await asyncio.sleep(LONGEST_CALM)
                ahead.start()
            finally:
                self._busy.discard(ahead.name)

    async def _reset(self, on: Replica, _hold: float, _which: float) -> None:
        for way in self.store.network.peers(on.name):
            way.cut()

    async def _delay(self, on: Replica, hold: float, which: float) -> None:
        ways = self.store.network.peers(on.name)
        for way in ways:
            way.delay(requests=which, answers=1 - which)
        await asyncio.sleep(hold)
        for way in ways:
            way.heal()

    async def _keep_ignorant(self, on: Replica, hold: float, which: float) -> None:
        """Keep a store, or a sidecar, from learning who leads."""
        with silenced(self.store.network.to(on.name, EVENTS if int(which * 1000) % 2 else API)):
            await asyncio.sleep(hold)

    async def _lose(self, on: Replica, hold: float, _: float) -> None:
        """Lose a volume. One that was lost before has to have everything again: a minority is lost at a time."""
        async with self._volumes:
            await on.kill()
            on.lose_volume()
            await asyncio.sleep(hold)
            on.start()
            await self.store.ready(seconds=RECOVERY_SECONDS)

    async def _kill_all(self, on: Replica, hold: float, _: float) -> None:
        """Kill all stores that no other hand holds, as a whole site does that loses power."""
        also = [one for one in self.store.members if one.name not in self._busy]
        self._busy |= {one.name for one in also}
        try:
            for one in (on, *also):
                await one.kill()
            await asyncio.sleep(hold / 2)
            for one in (on, *also):
                one.start()
        finally:
            self._busy -= {one.name for one in also}


async def play(
    folder: Path, *, seed: int, seconds: float, replicas: int = 3, program: Path = PROGRAM
) -> tuple[History, list[str]]:
    """Play a storm in a folder. Returns the history, and what is wrong with it in sentences.

    Whatever does not recover in time is wrong as well, and so is a process that tripped over something.
    """
    history = History()
    wrong: list[str] = []
    async with AsyncExitStack() as stack:
        server = await stack.enter_async_context(EmbeddedAPIServer(port=free_port()))
        sidecars = Sidecars(folder)
        stack.callback(_close, sidecars.started)
        store = await Replicas.start(
            EmbeddedForTests(server, folder),
            sidecars,
            folder,
            log_kept=KEPT,
            count=replicas,
            proxied=True,
            program=program,
        )
        stack.push_async_callback(store.network.close)
        stack.callback(_close, store.members)
        await store.ready()
        storm = Storm(store, random.Random(seed))  # noqa: S311 - faults, no secrets
        try:
            async with Load(history, store.targets, clients=CLIENTS, seconds=CLIENT_SECONDS, seed=seed) as load:
                await load.acknowledged()
                await storm.rage(seconds)
                await store.ready(seconds=RECOVERY_SECONDS)
                await load.acknowledged(writes=20, seconds=RECOVERY_SECONDS)
            await store.record_end(history)
        except* (AssertionError, OSError) as group:
            wrong += [f"not recovered: {error}" for error in _leaves(group)]
    history.save(folder / "history.jsonl")
    (folder / "faults.log").write_text("\n".join(storm.told) + "\n")
    wrong += [str(finding) for finding in check(history)]
    wrong += [f"{one}: {one.told}" for one in history.operations if one.told.startswith("500")]
    for member in store.members:
        wrong += [f"{member.name}: {line}" for line in member.output().splitlines() if _is_trouble(line)]
    return history, wrong


def _close(started: Sequence[Sidecar | Replica]) -> None:
    for one in started:
        one.close()


def _leaves(group: BaseExceptionGroup[BaseException]) -> list[BaseException]:
    return [
        leaf for one in group.exceptions for leaf in (_leaves(one) if isinstance(one, BaseExceptionGroup) else [one])
    ]


def _is_trouble(line: str) -> bool:
    return any(word in line for word in ("Traceback", "RuntimeWarning", "Unclosed"))


def main(arguments: Sequence[str] | None = None) -> int:
    """Play storms until one goes wrong; status 1 then, and its folder is kept."""
    parser = argparse.ArgumentParser(prog="python -m tests.store.storm", description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--seed", type=int, default=None, help="of the first storm; default: a random one")
    parser.add_argument("--seconds", type=float, default=30, help="that each lasts; default: %(default)s")
    parser.add_argument("--storms", type=int, default=1, help="how many, with consecutive seeds; default: %(default)s")
    parser.add_argument("--replicas", type=int, default=3, help="default: %(default)s")
    parser.add_argument("--program", type=Path, default=PROGRAM, help="the folder of another package `store`")
    chosen = parser.parse_args(arguments)
    first = secrets.randbelow(2**31) if chosen.seed is None else chosen.seed
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    for seed in range(first, first + chosen.storms):
        folder = Path(tempfile.mkdtemp(prefix=f"store-storm-{seed}-"))
        try:
            playing = play(
                folder, seed=seed, seconds=chosen.seconds, replicas=chosen.replicas, program=chosen.program.resolve()
            )
            history, wrong = asyncio.run(playing)
        except KeyboardInterrupt:
            progress("interrupted; every process was ended")
            return 130
        sys.stdout.write(f"seed {seed}: {history.summary()}; {len(wrong)} things wrong\n")
        sys.stdout.flush()
        if wrong:
            progress("\n".join([*wrong[:MOST_TOLD], f"all of it: {folder}"]))
            return 1
        shutil.rmtree(folder)
    return 0


if __name__ == "__main__":
    sys.exit(main())
