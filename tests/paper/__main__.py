"""`make paper`: the evaluation of the paper, on three nodes of this machine, and the report of it.

What is measured is kept after every run, one file an experiment, so that a run that was interrupted can go on.
"""

from __future__ import annotations

import argparse
import os
import platform
import signal
import sys
import time
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from tests.cluster.opening import OpeningError
from tests.paper import data, distribution, failure, loading, placements, report
from tests.paper.bed import Bed, laid
from tests.paper.data import (
    NODES,
    REPLICAS,
    STORES,
    About,
    CpuRun,
    DataError,
    Election,
    FailureRun,
    Recorded,
    ThroughputRun,
)
from tests.paper.distribution import JournalError
from tests.paper.waiting import StateError
from tests.testbed import binaries, golang, hey
from tests.testbed.cluster import ClusterError
from tests.testbed.hey import HeyError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from types import FrameType

OK, FAILED, INTERRUPTED = 0, 1, 130

EXPERIMENTS = (data.DISTRIBUTION, data.CPU, data.THROUGHPUT, data.NODE_FAILURE)
DOCS = Path(__file__).parents[2] / "docs" / "paper"

CLIENTS = (1, 2, 4, 8, 16, 32)
NODE_CPUS = 0.4
"""Of each node: of two processors, three nodes leave enough for load generator, control plane, and the kernel."""
REPEATS = {data.CPU: 2, data.THROUGHPUT: 3, data.NODE_FAILURE: 5}
MOST = {"clients": 1000, "requests": 1_000_000, "repeats": 1000, "trials": 10_000, "seconds": 3600, "cpus": 64}

FAILURES = (
    StateError,
    ClusterError,
    DataError,
    JournalError,
    HeyError,
    OpeningError,
    golang.BuildError,
    OSError,
)
"""What one line is enough for."""


class Experiment:
    """One experiment's file: what is in it already, and what is added to it."""

    def __init__(self, folder: Path, name: str, kind: type[Any], *, options: dict[str, Any], resume: bool) -> None:
        self.name = name
        self._file = data.path(folder, name)
        self._options = options
        self._recorded: Recorded[Any] | None = data.load(self._file, kind) if resume else None
        if self._recorded is not None and self._recorded.about.options != options:
            raise DataError(
                f"{self._file}: measured with {self._recorded.about.options}, not with {options}; "
                "give the same again, or leave out --resume to begin anew"
            )

    @property
    def runs(self) -> list[Any]:
        """What was measured."""
        return list(self._recorded.runs) if self._recorded is not None else []

    def begin(self, about: About) -> None:
        """Say what is measured from now on with what. Raises DataError."""
        now = replace(about, options=self._options)
        if self._recorded is None:
            self._recorded = Recorded(about=now, runs=[])
        elif _comparable(now) != _comparable(self._recorded.about):
            raise DataError(f"{self._file}: measured on another machine, or with other limits; leave out --resume")
        else:
            self._recorded.about = replace(now, date=self._recorded.about.date)

    def add(self, run: object) -> None:
        """Keep one run. Raises OSError."""
        if self._recorded is None:
            raise RuntimeError("an experiment is begun before runs are added")
        self._recorded.runs.append(run)
        data.save(self._file, self._recorded)


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure what the arguments say, and write the report; 0, or 1 and a line on stderr when something failed."""
    chosen = _options(arguments)
    signal.signal(signal.SIGTERM, _interrupt)
    progress = _Progress()
    try:
        _measure(chosen, progress)
        report.write(chosen.data, chosen.docs)
    except KeyboardInterrupt:
        sys.stderr.write("interrupted; what was measured is kept: go on with --resume\n")
        return INTERRUPTED
    except FAILURES as error:
        sys.stderr.write(f"error: {error}\n")
        return FAILED
    return OK


def _measure(chosen: argparse.Namespace, progress: _Progress) -> None:
    experiments = {name: _experiment(chosen, name) for name in EXPERIMENTS if name in chosen.only}
    if data.DISTRIBUTION in experiments:
        _processes(chosen, experiments[data.DISTRIBUTION], progress)
        if not chosen.pod_trials:
            del experiments[data.DISTRIBUTION]
    if not experiments:
        return
    hey.program()
    with laid(node_cpus=chosen.node_cpus, progress=progress) as bed:
        for experiment in experiments.values():
            experiment.begin(_about(chosen, bed))
            _carry_out(bed, chosen, experiment, progress)


def _experiment(chosen: argparse.Namespace, name: str) -> Experiment:
    kinds: dict[str, type[Any]] = {
        data.DISTRIBUTION: Election,
        data.CPU: CpuRun,
        data.THROUGHPUT: ThroughputRun,
        data.NODE_FAILURE: FailureRun,
    }
    # Only what makes two runs incomparable. How many there are, and of how many clients, is in the runs.
    body = {"body_bytes": len(loading.BODY)}
    options: dict[str, dict[str, Any]] = {
        data.DISTRIBUTION: {},
        data.CPU: {"seconds": chosen.seconds, "clients": placements.CPU_CLIENTS, **body},
        data.THROUGHPUT: {"requests": chosen.requests, **body},
        data.NODE_FAILURE: {"seconds": failure.LOAD_SECONDS, "clients": failure.CLIENTS, **body},
    }
    return Experiment(chosen.data, name, kinds[name], options=options[name], resume=chosen.resume)


def _processes(chosen: argparse.Namespace, experiment: Experiment, progress: _Progress) -> None:
    """Have the elections of processes among those of the experiment, carried out or read from the journal."""
    chosen.journal.parent.mkdir(parents=True, exist_ok=True)
    progress("elections of processes")
    held = distribution.processes(chosen.journal, chosen.trials)
    experiment.begin(_about(chosen, None))
    known = {(one.policy, one.number) for one in experiment.runs if one.part == data.PROCESSES}
    for one in held:
        if (one.policy, one.number) not in known:
            experiment.add(one)


def _carry_out(bed: Bed, chosen: argparse.Namespace, experiment: Experiment, progress: Callable[[str], None]) -> None:
    repeats = chosen.repeats or REPEATS.get(experiment.name, 0)
    done, each = experiment.runs, experiment.add
    match experiment.name:
        case data.DISTRIBUTION:
            distribution.pods(bed.deployed, chosen.pod_trials, done=done, each=each, progress=progress)
        case data.CPU:
            seconds = chosen.seconds
            placements.cpu(bed, repeats=repeats, seconds=seconds, done=done, each=each, progress=progress)
        case data.THROUGHPUT:
            placements.throughput(
                bed,
                repeats=repeats,
                requests=chosen.requests,
                clients=chosen.clients,
                done=done,
                each=each,
                progress=progress,
            )
        case data.NODE_FAILURE:
            failure.failures(bed, repeats=repeats, done=done, each=each, progress=progress)


def _about(chosen: argparse.Namespace, bed: Bed | None) -> About:
    """Return what is measured with; without a bed it is processes, whose nodes exist only by name."""
    return About(
        date=datetime.now(UTC).isoformat(timespec="seconds"),
        machine_cores=len(os.sched_getaffinity(0)),
        machine_memory_gib=round(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30, 1),
        kernel=platform.release().partition("-")[0],
        python=platform.python_version(),
        node_cpus=chosen.node_cpus,
        nodes=[f"n{number}" for number in range(1, NODES + 1)],
        stores=STORES,
        replicas=REPLICAS,
        kubernetes=binaries.version("k8s.io/kubernetes"),
        images=dict(bed.images) if bed is not None else {},
        hey=hey.version(),
    )


def _comparable(about: About) -> dict[str, Any]:
    """Return what has to be the same for runs that are put together."""
    return {name: value for name, value in asdict(about).items() if name not in ("date", "images")}


class _Progress:
    """Lines on a terminal; nothing elsewhere."""

    def __init__(self) -> None:
        self._shown = sys.stderr.isatty()
        self._began = time.monotonic()

    def __call__(self, text: str) -> None:
        if self._shown:
            sys.stderr.write(f"{time.monotonic() - self._began:7.0f} s  {text}\n")
            sys.stderr.flush()


# -- What it is asked for --


def _options(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.paper", description=(__doc__ or "").split("\n")[0])
    add = parser.add_argument
    add("--only", nargs="+", choices=EXPERIMENTS, default=list(EXPERIMENTS), help="these experiments (all)")
    add("--seconds", type=_number("seconds", 5), default=150, help="of each run of the CPU experiment (150)")
    add("--requests", type=_number("requests"), default=20_000, help="to each store, of each throughput run (20000)")
    add("--clients", type=_clients, default=list(CLIENTS), help="of each store, in the throughput runs (1,2,4,8,16,32)")
    add("--repeats", type=_number("repeats"), help="runs of each kind (CPU 2, throughput 3, node failure 5)")
    add("--trials", type=_number("trials"), default=100, help="elections of processes, of each policy (100)")
    add("--pod-trials", type=_number("trials", 0), default=20, help="elections in pods, of each policy (20)")
    add(
        "--node-cpus",
        type=_cpus,
        default=NODE_CPUS,
        help=f"of how many processors each node has the time ({NODE_CPUS})",
    )
    add("--data", type=Path, default=DOCS / "data", metavar="DIR", help="where what is measured goes")
    add("--docs", type=Path, default=DOCS, metavar="DIR", help="where the report goes")
    journal = Path("build", "paper-processes.json")
    add("--journal", type=Path, default=journal, metavar="FILE", help=f"of the elections of processes ({journal})")
    add("--resume", action="store_true", help="keep what was measured before, and measure what is missing")
    return parser.parse_args(arguments)


def _number(name: str, least: int = 1) -> Callable[[str], int]:
    def parse(text: str) -> int:
        if not least <= int(text) <= MOST[name]:
            raise ValueError(text)
        return int(text)

    parse.__name__ = f"number from {least} to {MOST[name]}"
    return parse


def _clients(text: str) -> list[int]:
    return [_number("clients")(one) for one in text.split(",")]


def _cpus(text: str) -> float:
    cpus = float(text)
    if not 0.05 <= cpus <= MOST["cpus"]:  # false for NaN as well
        raise ValueError(text)
    return cpus


def _interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
