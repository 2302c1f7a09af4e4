"""Real candidates under every kind of fault, for seconds; and defects that are planted, to see that they are found."""

from __future__ import annotations

import json
import os
import signal
import sys
from itertools import repeat
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.safety.chaos import planted
from tests.safety.chaos.account import Account
from tests.safety.chaos.attack import HISTORY, attack
from tests.safety.chaos.fleet import TREE, Shape
from tests.safety.chaos.kinds import FAULTS, kinds
from tests.safety.chaos.schedule import Planned, deal
from tests.testbed import processes
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from tests.safety.chaos.report import Report
    from tests.testbed.apiserver import RealAPIServer

SMALL = Shape(elections=2, candidates=3, nodes=3, ttl=2)
SECONDS = 80.0
"""After which no further burst begins; far more than the plans take."""

SEED = "1"
LOCK_SEED = "33"
"""Of a plan that does not harm one lock twice in a burst: where there is no record any more, nobody can edit it."""

SERVER = {name for name, fault in FAULTS.items() if "server" in fault.traits}
LOCK = {name for name, fault in FAULTS.items() if fault.traits & {"lock", "machine"}}
PROCESS = FAULTS.keys() - SERVER - LOCK


def tell(_: str) -> None:
    """Say nothing: nobody watches."""


async def attacked(
    server: RealAPIServer, folder: Path, names: set[str], *, seed: str = SEED, clientgo: Path | None = None
) -> Report:
    """Carry out a plan in which each of these kinds comes up once."""
    plan = deal(seed, kinds(names), elections=SMALL.elections, at_once=6)
    return await attack(server, folder, plan=plan, seconds=SECONDS, tell=tell, shape=SMALL, clientgo=clientgo)


def check(report: Report, folder: Path, names: set[str]) -> None:
    """See that all of it happened, and that nothing was found, at once or from the history."""
    assert report.violations == ()
    assert set(report.begun) == names, report.missed
    assert report.terms > SMALL.elections
    assert json.loads(json.dumps(report.document()))["begun"] == report.begun
    assert "violations: 0" in report.lines()
    account = Account.read(folder / HISTORY)
    assert account.violations() == []
    assert account.terms() == report.terms
    assert account.begun() == report.begun


async def test_faults_of_processes_and_of_their_network(
    real_api_server: RealAPIServer, clientgo_peer: Path, tmp_path: Path
) -> None:
    """Killed, stopped, replaced, cut off, beside a client-go peer: never two leaders, in the end one for each."""
    names = {*PROCESS}
    check(await attacked(real_api_server, tmp_path, names, clientgo=clientgo_peer), tmp_path, names)


async def test_faults_of_the_lock_object_and_of_the_machine(real_api_server: RealAPIServer, tmp_path: Path) -> None:
    """Written on, edited, spoilt and deleted, on a machine without time: never two leaders, in the end one for each."""
    report = await attacked(real_api_server, tmp_path, LOCK, seed=LOCK_SEED)
    check(report, tmp_path, LOCK)
    assert report.writes > 0


async def test_faults_of_the_api_server(real_api_server: RealAPIServer, tmp_path: Path) -> None:
    """Killed, stopped, without its etcd, or with a full disk: never two leaders, and in the end one for each."""
    assert real_api_server.etcd_pid  # of a cluster that is not ours, it skips
    check(await attacked(real_api_server, tmp_path, SERVER), tmp_path, SERVER)


@pytest.mark.parametrize("kind", ["cut-off", "stopped"])
async def test_a_leader_that_overstays_its_lease_is_found_out(
    real_api_server: RealAPIServer, tmp_path: Path, kind: str
) -> None:
    """A sidecar that names itself however old its lease is: the leader is cut off, or stopped, and two are seen.

    The verdict names the two, their spans and the fault, and the history tells the same when it is judged again.
    """
    overlong = Planned(kind=kind, election=0, at_leader=True, begin=0.0, end=2.0, luck=0.5)
    report = await attack(
        real_api_server,
        tmp_path,
        plan=repeat((overlong,)),
        seconds=SECONDS,
        tell=tell,
        shape=Shape(elections=1, candidates=3, nodes=3, ttl=2),
        program=(sys.executable, "-m", planted.__name__, planted.DEADLINE),
    )
    found = report.violations[0]
    assert ": both from " in found.sentence
    assert len(set(found.processes)) == 2
    assert [fault.partition(" ")[0] for fault in found.faults] == [kind]
    sentences = [one.sentence for one in Account.read(tmp_path / HISTORY).violations()]
    assert any(": both from " in sentence for sentence in sentences)


async def test_a_candidate_that_ends_by_itself_is_found_out(real_api_server: RealAPIServer, tmp_path: Path) -> None:
    """A process whose end nobody wanted is a violation, told with the end of its log."""
    report = await attack(
        real_api_server,
        tmp_path,
        plan=(),
        seconds=SECONDS,
        tell=tell,
        shape=Shape(elections=1, candidates=1, nodes=1, ttl=2),
        program=(sys.executable, "-c", "raise SystemExit('gone for good')"),
    )
    assert "ended by itself, status 1" in report.violations[0].sentence
    assert "gone for good" in report.violations[0].sentence


async def test_nothing_is_left_behind_when_it_is_interrupted(real_api_server: RealAPIServer, tmp_path: Path) -> None:
    """Ctrl-C in the midst of faults: status 130, soon, no process of its own lives on, and its folder is gone."""
    del real_api_server  # what it takes was built for it
    place = tmp_path / "tmp"
    place.mkdir()
    log = tmp_path / "log"
    command = [sys.executable, "-m", "tests.safety.chaos", "--minutes", "5", "--elections", "1", "--faults", "stopped"]
    chaos = processes.start(command, log=log, env={**os.environ, "TMPDIR": str(place)}, cwd=TREE)
    try:
        await until(lambda: histories(place), "faults happen", seconds=60)
        assert descendants(chaos.pid)
        started = descendants(chaos.pid)
        chaos.send_signal(signal.SIGINT)
        await until(lambda: chaos.poll() is not None, "it ends", seconds=30)
        assert chaos.wait() == 130, log.read_text()
        await until(lambda: not any(map(processes.is_running, started)), "all that it started has ended")
        assert list(place.iterdir()) == []
    finally:
        processes.stop(chaos)


def histories(place: Path) -> list[str]:
    """Return the faults that are told by a history in a folder of this place."""
    lines = [line for file in place.glob(f"*/{HISTORY}") for line in file.read_text().splitlines()]
    return [line for line in lines if json.loads(line)["what"] == "fault"]


def descendants(pid: int) -> set[int]:
    """Return the processes that a process has started, and those that they have."""
    children: set[int] = set()
    for thread in Path(f"/proc/{pid}/task").iterdir():
        children |= set(map(int, (thread / "children").read_text().split()))
    return children.union(*map(descendants, children))
