"""What goes wrong in an arena: one trouble at a time, for one process or for all, by the random numbers given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sidecar.lab.network import Network
from sidecar.lab.resources import ENDPOINTS
from tests.unit.arena import CONFLICT, ELECTION, REFUSED, UNKNOWN, Arena, Process

if TYPE_CHECKING:
    from collections.abc import Callable
    from random import Random


def edit(arena: Arena, change: Callable[[dict[str, Any]], None], election: str = ELECTION) -> None:
    """Change the lock object as somebody with kubectl would."""
    body = {**arena.store.get(ENDPOINTS, "default", election)}
    body["metadata"] = {**body["metadata"], "annotations": {**body["metadata"].get("annotations", {})}}
    change(body)
    arena.store.update(ENDPOINTS, "default", election, body)


def be_slow(_arena: Arena, process: Process, random: Random) -> None:
    """Requests take long, also longer than they may."""
    process.network.latency = (0.0, random.choice([0.2, 1.0, 3.0]))


def lose_answers(_arena: Arena, process: Process, random: Random) -> None:
    """Requests are done, and not answered."""
    process.network.lost_answers = random.choice([0.3, 1.0])


def lose_requests(_arena: Arena, process: Process, random: Random) -> None:
    """Requests do not arrive."""
    process.network.lost_requests = random.choice([0.3, 1.0])


def answer_with_errors(_arena: Arena, process: Process, random: Random) -> None:
    """The API server answers with errors of one kind."""
    process.network.errors = random.choice([REFUSED, UNKNOWN, CONFLICT])
    process.network.broken = random.choice([0.5, 1.0])


def hang(arena: Arena, process: Process, random: Random) -> None:
    """One, or everybody, hears nothing any more."""
    for each in random.choice([[process], arena.processes]):
        each.network.hangs = True


def break_the_watch(_arena: Arena, process: Process, random: Random) -> None:
    """The watch is silent, forbidden, too old, or does not last; the one that is open may be cut."""
    process.network.watch = random.choice(["works", "silent", "forbidden", "gone", "ends"])
    if random.random() < 0.7:
        process.network.cut_watch()


def stop(arena: Arena, process: Process, random: Random) -> None:
    """The process stands still for a while."""
    arena.stop(process, random.choice([1.0, 5.0, 8.0, 12.0, 25.0]))


def kill(arena: Arena, process: Process, random: Random) -> None:
    """The process dies; its container is started again, or its pod is made again elsewhere."""
    arena.kill(process)
    start_again(arena, process, random, same_pod=random.random() < 0.5)


def terminate(arena: Arena, process: Process, random: Random) -> None:
    """The process is told to leave, and another comes in its place."""
    process.candidate.leave()
    start_again(arena, process, random)


def set_the_clock(_arena: Arena, process: Process, random: Random) -> None:
    """Somebody sets the time of day."""
    process.clock.wall_offset += random.choice([-3600.0, -1.0, 86400.0])


def forget(arena: Arena, _process: Process, _random: Random) -> None:
    """The API server forgets its history."""
    arena.store.compact()


def touch(arena: Arena, process: Process, random: Random) -> None:
    """Somebody else changes the lock object, takes the group's label off it, and leaves the record alone."""
    if arena.lock(process.election):
        labels = {"touched": str(random.randrange(1000))}
        edit(arena, lambda body: body["metadata"].update(labels=labels), process.election)


TROUBLES = [
    be_slow,
    lose_answers,
    lose_requests,
    answer_with_errors,
    hang,
    break_the_watch,
    stop,
    kill,
    terminate,
    set_the_clock,
    forget,
    touch,
]


def start_again(arena: Arena, process: Process, random: Random, *, same_pod: bool = False) -> None:
    """Start a process in the place of another, on a clock that runs as it likes, within the bound."""
    network = process.network
    fresh = Network(latency=network.latency, errors=network.errors, broken=network.broken, hangs=network.hangs)
    arena.start(
        process.identity,
        election=process.election,
        node=process.node,
        balance=process.candidate._state.candidacy.balance,
        pod_uid=process.candidate._state.candidacy.pod_uid if same_pod else "",
        rate=random.uniform(0.9, 1.3),
        offset=random.uniform(0, 1e6),
        network=fresh,
        lock=process.lock,
    )
