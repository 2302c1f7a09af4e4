"""`make bench`: what an election costs, how fast it is, how leaders are spread: any command's, on a real API server."""

from __future__ import annotations

import itertools
import os
import platform
import shlex
import shutil
import signal
import sys
import sysconfig
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import sidecar
from sidecar import duration
from tests.bench import balance_report, footprint_report, report
from tests.bench.bed import Bed
from tests.bench.candidates import PLACEHOLDERS, CandidateError, Command, TemplateError, command_from
from tests.bench.coldstart import BY_NODE, ORDERED, Series, cold_start
from tests.bench.crash import crashes
from tests.bench.footprint import Load
from tests.bench.footprint import measure as measure_footprint
from tests.bench.forking import ForkServer
from tests.bench.journal import Journal, JournalError, fingerprint
from tests.bench.lockwatch import WatchError
from tests.bench.measure import Workload, measure, patience
from tests.bench.options import CLIENTGO, FORK, MANY_ELECTIONS, MANY_REPLICAS, VARIANTS, parse
from tests.bench.outcome import Crash, Run, summary
from tests.bench.server import AuditedAPIServer
from tests.testbed import engine as engines
from tests.testbed import golang, image, peers
from tests.testbed.apiserver import StartError
from tests.testbed.connection import APIError
from tests.testbed.containers import remove_remains
from tests.testbed.engine import EngineError
from tests.testbed.image import ImageError
from tests.testbed.standins import StandInError

if TYPE_CHECKING:
    import argparse
    from collections.abc import Sequence
    from types import FrameType

    from tests.bench.figures import Row

OK, FAILED, MISUSED, INTERRUPTED = 0, 1, 2, 130

FAILURES = (
    StartError,
    golang.BuildError,
    APIError,
    JournalError,
    WatchError,
    EngineError,
    ImageError,
    StandInError,
    OSError,
)
"""What one line is enough for."""

STOCK_FLAGS = "--election={election} --election-namespace={namespace} --id={id} --ttl={ttl} --http=localhost:{port}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments say; 0, 1 when something failed or a goal was missed, 2 when called wrongly."""
    chosen = parse(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        if chosen.image is not None:
            return _footprint(chosen)
        commands = [_own(chosen), *map(_compared, chosen.compare)]
        # What is wrong with a template is said before the first minutes have passed.
        examples = dict.fromkeys(PLACEHOLDERS, "x")
        for command in commands:
            command_from(command.template, examples)
        return _cold_starts(chosen, commands) if chosen.balance else _steady_state(chosen, commands)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; every candidate was ended\n")
        return INTERRUPTED
    except TemplateError as error:
        sys.stderr.write(f"error: {error}\n")
        return MISUSED
    except FAILURES as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED


# -- The steady state, and failovers --


def _steady_state(chosen: argparse.Namespace, commands: Sequence[Command]) -> int:
    machine = _machine()
    load = Workload(
        elections=chosen.elections,
        replicas=chosen.replicas,
        nodes=chosen.nodes,
        ttl=chosen.ttl,
        ttl_seconds=duration.parse(chosen.ttl),
        settle=chosen.settle,
        window=chosen.window,
        kill_trials=chosen.kill_trials,
        term_trials=chosen.term_trials,
    )
    workloads = [(load, commands)]
    if chosen.check:
        many = replace(load, elections=MANY_ELECTIONS, replicas=MANY_REPLICAS, kill_trials=0, term_trials=0)
        workloads.append((many, commands[:1]))

    with tempfile.TemporaryDirectory(prefix="leader-elector-bench-") as folder:
        folders = (Path(folder, str(number)) for number in itertools.count())
        measured = [[_measure(one, workload, folder=next(folders)) for one in some] for workload, some in workloads]
    groups = [[row for row in rows if row is not None] for rows in measured]
    complete = groups == measured
    goals = report.compare_with_goals(groups[0][0], groups[1][0]) if chosen.check and complete else []
    groups = [rows for rows in groups if rows]
    if chosen.json:
        _print(report.document(groups, goals, machine))
    else:
        tell = report.markdown if chosen.markdown else report.table
        _print(str(machine), *map(tell, groups), report.goal_lines(goals))
    return OK if complete and all(goal.met for goal in goals) else FAILED


def _measure(command: Command, load: Workload, *, folder: Path) -> Row | None:
    """Measure one command; None, and what happened on stderr, when a candidate failed."""
    progress = _Progress(f"{command.name}, {load.elections} x {load.replicas}")
    try:
        return measure(command, load, folder=folder, progress=progress)
    except CandidateError as error:
        # The other commands are measured all the same.
        progress.end()
        sys.stderr.write(f"error: {command.name}: {error}\n")
        return None
    finally:
        progress.end()


# -- Cold starts --


def _cold_starts(chosen: argparse.Namespace, commands: Sequence[Command]) -> int:
    machine = _machine()
    applications, replicas, nodes = chosen.balance
    series = Series(
        applications=applications,
        replicas=replicas,
        nodes=nodes,
        starts=chosen.starts,
        settle=chosen.settle,
        patience=patience(duration.parse(chosen.ttl)),
    )
    with tempfile.TemporaryDirectory(prefix="leader-elector-bench-") as folder:
        results = [
            _carry_out(chosen, series, command, Path(folder, str(number))) for number, command in enumerate(commands)
        ]
    measured = [one for one in results if one is not None]
    goals = balance_report.compare_with_goals(measured[0].summary) if chosen.check and results[0] else []
    starts = series.starts if series.starts in (ORDERED, BY_NODE) else f"spread over {series.starts} s"
    heading = (
        f"{applications} elections x {replicas} replicas on {nodes} nodes, ttl {chosen.ttl}, starts {starts}, "
        f"seeds from {chosen.seed}"
    )
    if chosen.json:
        _print(balance_report.document(heading, measured, goals, machine))
    elif measured:
        tell = balance_report.markdown if chosen.markdown else balance_report.table
        left_out = balance_report.not_judged(measured[0].summary) if goals else ""
        _print(str(machine), tell(heading, [one.summary for one in measured]), report.goal_lines(goals), left_out)
    complete = len(measured) == len(commands) and not any(one.summary.problems for one in measured)
    return OK if complete and all(goal.met for goal in goals) else FAILED


def _carry_out(
    chosen: argparse.Namespace, series: Series, command: Command, folder: Path
) -> balance_report.Measured | None:
    """Carry out all runs of one command, then the crashes; None, and what happened on stderr, when it does not work."""
    forked = (chosen.start or FORK) == FORK and command.is_own
    journal = _journal(chosen, series, command, forked=forked)
    seeds = range(chosen.seed, chosen.seed + chosen.runs)
    known = journal.runs() if journal else {}
    runs = [known[seed] for seed in seeds if seed in known]
    missing = [seed for seed in seeds if seed not in known]
    killed: list[Crash] = []
    progress = _Progress(f"{command.name}, {series.shape}")
    folder.mkdir()
    try:
        with ExitStack() as stack:
            if missing or chosen.crashes:
                progress("starting the API server")
                bed = _bed(chosen, command, folder, stack, forked=forked)
            for seed in missing:
                said = _Progress(f"{command.name}, {series.shape}, run {len(runs) + 1} of {chosen.runs}")
                run = _cold_start(bed, series, seed, said, may_fail=bool(runs))
                runs.append(run)
                if journal:
                    journal.append(run)
                _put_away(chosen.logs, folder / f"run-{seed}", f"{command.name}-{seed}", run)
            if chosen.crashes:
                killed = crashes(
                    bed,
                    chosen.crashes,
                    ttl_seconds=duration.parse(chosen.ttl),
                    patience=series.patience,
                    progress=progress,
                )
    except CandidateError as error:
        progress.end()
        sys.stderr.write(f"error: {command.name}: {error}\n")
        return None
    finally:
        progress.end()
    return balance_report.Measured(summary=summary(command.name, runs, killed), runs=runs, crashes=killed)


def _bed(chosen: argparse.Namespace, command: Command, folder: Path, stack: ExitStack, *, forked: bool) -> Bed:
    server = stack.enter_context(AuditedAPIServer(folder))
    fork_server = stack.enter_context(ForkServer(folder / "forkserver.log")) if forked else None
    return Bed(server=server, folder=folder, command=command, ttl=chosen.ttl, fork_server=fork_server)


def _cold_start(bed: Bed, series: Series, seed: int, progress: _Progress, *, may_fail: bool) -> Run:
    """Carry out one run; where one went well before, one in which something went wrong is told like any other."""
    try:
        return cold_start(bed, series, seed=seed, progress=progress)
    except CandidateError as error:
        if not may_fail:
            raise
        progress.end()
        sys.stderr.write(f"error: {bed.command.name}, seed {seed}: {error}\n")
        return Run(seed=seed, problem=str(error))


def _journal(chosen: argparse.Namespace, series: Series, command: Command, *, forked: bool) -> Journal | None:
    if not chosen.out:
        return None
    conditions = {
        "command": command.name,
        "template": command.template,
        "variables": dict(command.variables),
        # A template stays the same when the program behind it changes; of others' nothing more is known.
        "program": fingerprint(Path(sidecar.__file__).parent) if command.is_own else None,
        "forked": forked,
        "shape": series.shape,
        "starts": series.starts,
        "settle": series.settle,
        "ttl": chosen.ttl,
    }
    return Journal(chosen.out, conditions)


def _put_away(kept: Path | None, folder: Path, name: str, run: Run) -> None:
    """Keep the logs of a run that did not end balanced, where that is wanted; remove them otherwise."""
    if kept is not None and not run.balanced:
        kept.mkdir(parents=True, exist_ok=True)
        shutil.copytree(folder, kept / name, ignore=shutil.ignore_patterns("*.kubeconfig"), dirs_exist_ok=True)
    shutil.rmtree(folder, ignore_errors=True)


# -- The footprint of the image --


def _footprint(chosen: argparse.Namespace) -> int:
    machine = _machine()
    load = Load(replicas=chosen.replicas, ttl=chosen.ttl, settle=chosen.settle, window=chosen.window)
    with engines.ensure() as engine, tempfile.TemporaryDirectory(prefix="leader-elector-bench-") as folder:
        remove_remains(engine)
        name = chosen.image or image.ensure(engine)
        progress = _Progress(name)
        try:
            measured = measure_footprint(engine, name, load, folder=Path(folder), progress=progress)
        except CandidateError as error:
            progress.end()
            sys.stderr.write(f"error: {error}\n")
            return FAILED
        finally:
            progress.end()
    goals = footprint_report.compare_with_limits(measured) if chosen.check else []
    if chosen.json:
        _print(footprint_report.document(measured, goals, machine))
    else:
        tell = footprint_report.markdown if chosen.markdown else footprint_report.table
        _print(str(machine), tell(measured), report.goal_lines(goals))
    return OK if all(goal.met for goal in goals) else FAILED


# -- All of them --


def _print(*parts: str) -> None:
    sys.stdout.write("\n\n".join(part for part in parts if part) + "\n")


class _Progress:
    """One line on a terminal, written anew again and again; nothing elsewhere."""

    def __init__(self, subject: str) -> None:
        self._subject = subject
        self._shown = sys.stderr.isatty()

    def __call__(self, text: str) -> None:
        self._write(f"{self._subject}: {text}")

    def end(self) -> None:
        """Clear the line."""
        self._write("")

    def _write(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"\r\x1b[K{text}")
            sys.stderr.flush()


def _compared(text: str) -> Command:
    if text in CLIENTGO:
        program = shlex.quote(str(peers.clientgo()))
        return Command(name=text, template=f"{program} {STOCK_FLAGS}{CLIENTGO[text]}")
    if text in VARIANTS:
        return Command(name=text, template=_own_template(), variables=VARIANTS[text], is_own=True)
    label, _, template = text.partition("=")
    return Command(name=label, template=template)


def _own(chosen: argparse.Namespace) -> Command:
    if chosen.command:
        return Command(name=chosen.name or Path(chosen.command.split()[0]).name, template=chosen.command)
    return Command(name=chosen.name or "leader-elector", template=_own_template(), is_own=True)


def _own_template() -> str:
    program = Path(sysconfig.get_path("scripts"), "leader-elector")
    if not program.exists():
        raise TemplateError(f"{program} does not exist: install this project into this environment, or give --command")
    return f"{shlex.quote(str(program))} {STOCK_FLAGS}"


def _machine() -> report.Machine:
    return report.Machine(
        date=datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        cores=len(os.sched_getaffinity(0)),
        memory_gib=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30,
        load=os.getloadavg()[0],
        python=platform.python_version(),
    )


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
