"""The store in virtual time: replicas, a network that fails, sidecars that contradict one another, and clients.

Everything is drawn from a seed. The replicas are the program's own; only the way of a message, the disk's thread and
the sidecar are played.

    python -m tests.store.simulated --seeds 1000

What the store takes for granted is kept: a token is one replica's, and later leaders have greater ones; and never is
the content of more than a minority of volumes lost.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import logging
import random
import shutil
import sqlite3
import sys
import tempfile
from contextvars import copy_context
from dataclasses import dataclass
from functools import partial
from itertools import permutations
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

from store.leader import NotStoredError, UnknownError
from store.log import BehindError, FencedError, Log
from store.node import Node
from store.peers import REQUEST_SECONDS, Peer, UnavailableError, append_from, standing_to
from store.replica import NotReadyError, Replica
from store.sidecar import NOBODY, Leadership

from sidecar.lab.virtualtime import PROCESS, VirtualTimeLoop, run
from tests.store.history import History, Kind, Operation, Outcome, Seen, check

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, Callable, Coroutine

    from tests.store.history import Finding

T = TypeVar("T")

TROUBLED_SECONDS = 40.0
"""During which things fail."""
CALM_SECONDS = 60.0
"""Within which all replicas are in step once nothing fails any more."""
CLIENT_SECONDS = (0.3, 0.3, 2.0, 15.0)
"""After which a client gives up. One that waited long for a leader that is cut off would not see the next one."""
KEYS = ("a", "b", "c")
CLIENTS = 4
KINDS = (Kind.PUT, Kind.PUT, Kind.PUT, Kind.DELETE, Kind.GET, Kind.CONSISTENT_GET)


FAULTS = ("crash", "crash", "stop", "stop", "isolate", "isolate", "cut", "heal", "heal", "wipe", "wipe")


LATE_SECONDS = 12.0
"""After which a sidecar says who leads, at the latest."""


class StuckError(Exception):
    """Nothing fails any more, and still the replicas do not get in step."""


@dataclass(frozen=True, slots=True)
class SimulatedPeer(Peer):
    """Another replica, at the other end of a network that delays, loses and repeats."""

    world: World
    source: str

    async def _ask(self, method: str, what: str, body: object) -> dict[str, Any]:  # noqa: ARG002 - `what` says it all
        sent = json.dumps(body)
        try:
            async with asyncio.timeout(REQUEST_SECONDS):
                await self.world.travel(self.source, self.name)
                if self.world.chance.random() < self.world.repeats:
                    self.world.at(self.name, self._again(what, sent))
                answer = _answer(self.world.node(self.name), what, json.loads(sent))
                told = await asyncio.shield(self.world.at(self.name, answer))
                await self.world.travel(self.name, self.source)
        except TimeoutError as error:
            raise UnavailableError(f"{self.name} does not answer") from error
        match told:
            case FencedError() | BehindError():
                raise told
            case Exception():
                raise UnavailableError(repr(told))
        return cast("dict[str, Any]", json.loads(json.dumps(told)))

    async def _again(self, what: str, sent: str) -> None:
        """Deliver a message once more, later than what follows it; nobody hears the answer."""
        await asyncio.sleep(self.world.chance.expovariate(1.0))
        await _answer(self.world.node(self.name), what, json.loads(sent))

    async def copy(self, token: int, after: int) -> AsyncGenerator[dict[str, Any]]:
        """Yield the lines of a copy, each of which has the same way to go."""
        await self.world.travel(self.source, self.name)
        source = self.world.node(self.name)
        if source is None or source.replica.log.promised != token:
            raise UnavailableError("not to be copied from")
        lines = source.replica.copied(token, after)
        try:
            async for line in lines:
                await self.world.travel(self.name, self.source)
                yield json.loads(json.dumps(line))
        except (FencedError, sqlite3.ProgrammingError) as error:
            raise UnavailableError("it was broken off") from error
        finally:
            await lines.aclose()


async def _answer(node: Node | None, what: str, body: Any) -> object:  # noqa: ANN401 - JSON
    """Return what a replica answers on its port for the others; an error as well."""
    try:
        match node, what:
            case None, _:
                return ConnectionError("nobody listens")
            case Node(replica=replica), "standing":
                return standing_to(replica.log.standing)
            case Node(replica=replica), "prepare":
                return standing_to(await replica.promise(body["token"]))
            case Node(replica=replica), _:
                await replica.accept(append_from(body))
    except (FencedError, BehindError, NotReadyError) as error:
        return error
    return {}


class SimulatedReplica(Replica):
    """A replica whose disk takes its time, for one write after the other."""

    chance: random.Random
    turn: asyncio.Lock

    async def written(self, write: Callable[..., T], *given: Any, **named: Any) -> T:  # noqa: ANN401 - as in Replica
        """Call what writes to the log, in the order of the calls, also when the caller is cancelled."""
        return await asyncio.shield(asyncio.create_task(self._in_turn(lambda: write(*given, **named))))

    async def _in_turn(self, write: Callable[[], T]) -> T:
        async with self.turn:
            await asyncio.sleep(self.chance.expovariate(1 / 0.002))
            return write()


class Process:
    """One run of a replica's program. Made in a context of its own."""

    def __init__(self, world: World, name: str) -> None:
        self.told: asyncio.Queue[Leadership] = asyncio.Queue()
        peers: dict[str, Peer] = {
            other: SimulatedPeer(other, "", cast("Any", None), world, name) for other in world.names if other != name
        }
        log = Log(world.volume(name), kept=world.kept)
        log._writing.execute("PRAGMA synchronous = OFF")
        replica = SimulatedReplica(name, log, peers)
        replica.chance, replica.turn = world.chance, asyncio.Lock()
        self.node = Node(replica, self._changes(), partial(world.give_up, name))
        self.task = asyncio.create_task(self.node.run())

    async def _changes(self) -> AsyncGenerator[Leadership]:
        while True:
            yield await self.told.get()


class World:
    """All that there is, for one seed."""

    def __init__(self, seed: int, folder: Path) -> None:
        self.chance = random.Random(seed)  # noqa: S311 - protects nothing
        self.names = [f"s-{number}" for number in range(self.chance.choice((3, 3, 5)))]
        self.kept = self.chance.choice((1, 4, 1000))
        self.repeats = self.chance.choice((0.0, 0.1))
        self.history = History()
        self._loss = self.chance.choice((0.0, 0.02, 0.1))
        self._quiet = self.chance.choice((1.0, 3.0, 6.0))
        """Seconds between two faults, on average."""
        self._folder = folder
        self._runs = dict.fromkeys(self.names, 0)
        self._processes: dict[str, Process] = {}
        self._whole: set[str] = set()
        """Whose volume has everything that it ever had."""
        self._cut: set[tuple[str, str]] = set()
        self._dead: list[asyncio.Task[None]] = []
        self._leader = NOBODY
        self._token = 0

    # -- What the replicas meet --

    def node(self, name: str) -> Node | None:
        """Return a replica's process, if it runs or stands still."""
        process = self._processes.get(name)
        return None if process is None else process.node

    def volume(self, name: str) -> Path:
        """Return a replica's volume."""
        folder = self._folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def at(self, name: str, coroutine: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run something in a replica's process: it stands still and ends with that, so shield who waits for it."""
        context = copy_context()
        context.run(PROCESS.set, self._process(name))
        return asyncio.get_running_loop().create_task(coroutine, context=context)

    async def travel(self, source: str, target: str) -> None:
        """Take a message's time from one replica to another. A lost one does not arrive."""
        await asyncio.sleep(self.chance.expovariate(1 / 0.005))
        if (source, target) in self._cut or self.chance.random() < self._loss:
            await asyncio.sleep(10 * REQUEST_SECONDS)
            raise UnavailableError("lost")

    def _process(self, name: str) -> str:
        return f"{name}/{self._runs[name]}"

    # -- The course of events --

    async def play(self) -> None:
        """Let things fail, then be well; record what clients saw. Raises StuckError, and what breaks a replica."""
        try:
            await self._play()
        finally:
            for name in self.names:
                self._crash(name)
            await self._bury()

    async def _play(self) -> None:
        for name in self.names:
            await self._start(name)
        if self.chance.random() < 0.8:
            self._choose(self.names[0], within=0.0)
            await self._in_step()
        async with asyncio.timeout(TROUBLED_SECONDS + 2 * CALM_SECONDS + 2 * max(CLIENT_SECONDS)):
            over = asyncio.Event()
            clients = [asyncio.create_task(self._client(f"client-{number}", over)) for number in range(CLIENTS)]
            try:
                async with asyncio.timeout(TROUBLED_SECONDS):
                    await asyncio.gather(self._elect(), self._fail())
            except TimeoutError:
                pass
            await self._calm()
            over.set()
            await asyncio.gather(*clients)
            await self._in_step()
        for name in self.names:
            log = self._processes[name].node.replica.log
            found = {key: log.read(key) for key in KEYS}
            self.history.final[name] = {
                key: Seen() if one is None else Seen(one[0].decode(), one[1]) for key, one in found.items()
            }

    async def _bury(self) -> None:
        """Let what was killed run into its end, which nobody sees: tasks that stand still cannot be cancelled."""
        loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        loop.set_exception_handler(lambda _loop, _context: None)
        for process in list(loop.stopped):
            loop.continue_process(process)
        for task in self._dead:
            task.cancel()
        await asyncio.wait(self._dead)

    async def _start(self, name: str) -> None:
        async def started() -> Process:
            return Process(self, name)

        self._runs[name] += 1
        self._processes[name] = await self.at(name, started())
        self._tell(name, 0.0)

    def _crash(self, name: str) -> None:
        process = self._processes.pop(name, None)
        if process is not None:
            if process.task.done():
                process.task.result()
            cast("VirtualTimeLoop", asyncio.get_running_loop()).stop_process(self._process(name), float("inf"))
            process.node.replica.log.close()
            self._dead.append(process.task)

    def _tell(self, name: str, within: float) -> None:
        """Let a replica's sidecar say, within so many seconds, who leads now."""
        token = self._token if self._leader.name == name else None
        leadership = Leadership(self._leader.name, token)
        asyncio.get_running_loop().call_later(self.chance.uniform(0, within), self._put, name, leadership)

    def _put(self, name: str, leadership: Leadership) -> None:
        if process := self._processes.get(name):
            process.told.put_nowait(leadership)

    async def give_up(self, name: str) -> None:
        """Have another election, as a replica asks its sidecar to."""
        if self._leader.name == name:
            self._choose(self.chance.choice(self.names), within=0.5)

    async def _elect(self) -> None:
        """Change who leads, now and then; not everybody is told at once, and some are told an older thing later."""
        while True:
            self._choose(self.chance.choice(self.names), within=self.chance.choice((0.0, 0.5, LATE_SECONDS)))
            await asyncio.sleep(self.chance.choice((1.0, 4.0, 12.0)) * self.chance.random())
            if self.chance.random() < 0.2:
                self._put(self._leader.name, NOBODY)
                self._tell(self._leader.name, 1.0)
                await asyncio.sleep(1.0)

    def _choose(self, name: str, *, within: float) -> None:
        self._token += self.chance.randint(1, 5)
        self._leader = Leadership(name, self._token)
        for each in self.names:
            self._tell(each, min(within, 0.5) if each == name else within)

    async def _fail(self) -> None:
        loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        while True:
            await asyncio.sleep(self.chance.expovariate(1 / self._quiet))
            name, other = self.chance.sample(self.names, 2)
            match self.chance.choice(FAULTS):
                case "crash":
                    await self._restart(name, wiped=False)
                case "stop" if name in self._processes:
                    loop.stop_process(self._process(name), self.chance.uniform(0.1, 12.0))
                case "isolate":
                    # The leader, which nobody tells for a while, and another one that begins meanwhile.
                    cut = self._leader.name or name
                    self._cut |= {link for link in permutations(self.names, 2) if cut in link}
                    self._choose(name if name != cut else other, within=LATE_SECONDS)
                case "cut":
                    self._cut |= {(name, other)} if self.chance.random() < 0.5 else {(name, other), (other, name)}
                case "heal":
                    self._cut.clear()
                case "wipe" if self._may_be_wiped(name):
                    await self._restart(name, wiped=True)
                case _:
                    pass

    def _may_be_wiped(self, name: str) -> bool:
        for each, process in self._processes.items():
            if process.node.replica.log.member:
                self._whole.add(each)
        return len(self._whole - {name}) > len(self.names) // 2

    async def _restart(self, name: str, *, wiped: bool) -> None:
        self._crash(name)
        if wiped:
            self._whole.discard(name)
            shutil.rmtree(self.volume(name))
        await asyncio.sleep(self.chance.choice((0.0, 1.0, 5.0)))
        await self._start(name)

    async def _calm(self) -> None:
        """End all troubles; from here on one leads, and everybody knows."""
        loop = cast("VirtualTimeLoop", asyncio.get_running_loop())
        self._cut.clear()
        self._loss = self.repeats = 0.0
        for name in self.names:
            if name not in self._processes:
                await self._start(name)
            elif self._process(name) in loop.stopped:
                loop.continue_process(self._process(name))
        # What was on its way is told before.
        await asyncio.sleep(LATE_SECONDS + 1)
        self._choose(self.chance.choice(self.names), within=0.0)
        await self._in_step()

    async def _in_step(self) -> None:
        try:
            async with asyncio.timeout(CALM_SECONDS):
                while not self._are_in_step():  # noqa: ASYNC110 - many things change it, and time is virtual
                    await asyncio.sleep(0.1)
        except TimeoutError:
            told = {name: (one.node.serves, one.node.replica.log.standing) for name, one in self._processes.items()}
            raise StuckError(f"not in step {CALM_SECONDS:g} s after the last trouble: {told}") from None

    def _are_in_step(self) -> bool:
        logs = [process.node.replica.log for process in self._processes.values()]
        leader = self.node(self._leader.name)
        same = len({(log.last, log.committed) for log in logs}) == 1 and logs[0].last.sequence == logs[0].committed
        return same and leader is not None and leader.serves

    # -- The clients --

    async def _client(self, client: str, over: asyncio.Event) -> None:
        loop = asyncio.get_running_loop()
        while not over.is_set():
            await asyncio.sleep(self.chance.expovariate(1 / 0.1))
            leading = [name for name, process in self._processes.items() if process.node.leader is not None]
            name = self.chance.choice(leading if leading and self.chance.random() < 0.8 else self.names)
            kind, key = self.chance.choice(KINDS), self.chance.choice(KEYS)
            value = self.history.unique_value() if kind is Kind.PUT else None
            process, invoked = self._process(name), loop.time()
            sequence = token = None
            try:
                async with asyncio.timeout(self.chance.choice(CLIENT_SECONDS)):
                    operation = _operate(self.node(name), kind, key, value)
                    value, sequence, token = await asyncio.shield(self.at(name, operation))
                outcome = Outcome.DONE
            except NotStoredError:
                outcome = Outcome.REFUSED
            except (UnknownError, TimeoutError):
                outcome = Outcome.UNKNOWN
            self.history.record(
                Operation(
                    client=client,
                    kind=kind,
                    key=key,
                    value=value,
                    invoked=invoked,
                    returned=loop.time(),
                    outcome=outcome,
                    sequence=sequence,
                    token=token,
                    replica=process if kind is Kind.GET else None,
                )
            )


async def _operate(
    node: Node | None, kind: Kind, key: str, value: str | None
) -> tuple[str | None, int | None, int | None]:
    """Do what a client asks for; return the value, the sequence number and the token that it is told."""
    if node is None or (kind is not Kind.GET and node.leader is None):
        raise NotStoredError("nobody leads there")
    if node.leader is not None and kind in {Kind.PUT, Kind.DELETE}:
        entry = await node.leader.write(key, None if value is None else value.encode())
        return value, entry.sequence, entry.token
    if node.leader is not None and kind is Kind.CONSISTENT_GET:
        await node.leader.confirm()
    found = node.replica.log.read(key)
    return (None, None, None) if found is None else (found[0].decode(), found[1], None)


def play(seed: int) -> tuple[History, list[Finding]]:
    """Play one seed; return what clients saw, and what is wrong with it. Raises StuckError."""
    with tempfile.TemporaryDirectory(prefix="store-simulated-") as folder:
        world = World(seed, Path(folder))
        run(world.play())
    return world.history, check(world.history)


def main() -> int:
    """Play many seeds; status 1 when something is wrong with one."""
    parser = argparse.ArgumentParser(prog="python -m tests.store.simulated", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seed", type=int, default=0, metavar="<number>", help="the first one (default 0)")
    parser.add_argument("--seeds", type=int, default=100, metavar="<number>", help="how many (default 100)")
    parser.add_argument("--story", action="store_true", help="print the replicas' logs")
    options = parser.parse_args()
    logging.basicConfig(level=logging.INFO if options.story else logging.CRITICAL, stream=sys.stderr)
    bad = 0
    for seed in range(options.seed, options.seed + options.seeds):
        try:
            history, findings = play(seed)
            told = [str(finding) for finding in findings]
            done = len(history.acknowledged())
        except StuckError as error:
            told, done = [str(error)], 0
        bad += bool(told)
        if sys.stderr.isatty():
            sys.stderr.write(f"\rseed {seed}: {done} writes acknowledged ")
        for one in told:
            sys.stdout.write(f"seed {seed}: {one}\n")
    sys.stdout.write(f"{options.seeds} seeds, {bad} with findings\n")
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
