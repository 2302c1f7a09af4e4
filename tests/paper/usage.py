"""How much of the processor is used while a load lasts: by nodes, load generator, control plane, and by all."""

from __future__ import annotations

import os
import resource
import time
from contextlib import suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING

from tests.paper.data import Trace, Usage

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from tests.testbed.cluster_site import Processor
    from tests.testbed.clusters import LocalCluster

SHORTEST = 0.5
"""The part of an interval below which the last one, which the end of the load cuts short, is left out."""

_TICKS = os.sysconf("SC_CLK_TCK")
_IDLE = ("idle", "iowait")
_STATES = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
"""The columns of /proc/stat, proc_stat(5)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    """What had been used at one instant of `time.monotonic`."""

    at: float
    nodes: Mapping[str, Processor]


@dataclass(frozen=True, slots=True, kw_only=True)
class Beside:
    """Seconds of the processor that had been used beside the nodes' at one instant."""

    at: float
    control_plane: float
    machine: float
    generator: float
    """Of programs that this process started and that have ended, so that of a load only afterwards."""


class Meter:
    """Samples while a load lasts: `begin`, `look` again and again, and in the end `usage`."""

    def __init__(self, cluster: LocalCluster, nodes: Sequence[str], *, every: float) -> None:
        self._cluster = cluster
        self._nodes = nodes
        self._every = every
        self._samples: list[Sample] = []
        self._began: Beside | None = None

    def begin(self) -> None:
        """Take the first sample. Raises ClusterError."""
        self._began = self._beside()
        self._samples = [self._sample()]

    def look(self) -> None:
        """Take the next sample if it is time for it. Raises ClusterError."""
        if time.monotonic() >= self._samples[0].at + len(self._samples) * self._every:
            self._samples.append(self._sample())

    def usage(self) -> Usage:
        """Return what was used since the beginning; the load's programs must have ended. Raises ClusterError."""
        if self._began is None:
            raise RuntimeError("a meter is begun before it is asked")
        ended = self._beside()
        return usage([*self._samples, self._sample()], self._began, ended, shortest=SHORTEST * self._every)

    def _sample(self) -> Sample:
        return Sample(at=time.monotonic(), nodes={node: self._cluster.processor(node) for node in self._nodes})

    def _beside(self) -> Beside:
        ended = resource.getrusage(resource.RUSAGE_CHILDREN)
        return Beside(
            at=time.monotonic(),
            control_plane=sum(map(_process_seconds, self._cluster.control_plane_processes())),
            machine=machine_seconds(Path("/proc/stat").read_text()),
            generator=ended.ru_utime + ended.ru_stime,
        )


def usage(samples: Sequence[Sample], began: Beside, ended: Beside, *, shortest: float) -> Usage:
    """Return what was used between these samples; a last interval shorter than `shortest` seconds is left out."""
    counted = list(samples)
    if len(counted) > 2 and counted[-1].at - counted[-2].at < shortest:
        counted.pop()
    traces = {
        node: Trace(
            cores=[_cores(earlier, later, node) for earlier, later in pairwise(counted)],
            throttled=[_throttled(earlier.nodes[node], later.nodes[node]) for earlier, later in pairwise(counted)],
        )
        for node in counted[0].nodes
    }
    seconds = ended.at - began.at

    def mean(used: Callable[[Beside], float]) -> float:
        return (used(ended) - used(began)) / seconds

    return Usage(
        at=[sample.at - counted[0].at for sample in counted[1:]],
        nodes=traces,
        generator=mean(lambda beside: beside.generator),
        control_plane=mean(lambda beside: beside.control_plane),
        machine=mean(lambda beside: beside.machine),
    )


def _cores(earlier: Sample, later: Sample, node: str) -> float:
    return (later.nodes[node].seconds - earlier.nodes[node].seconds) / (later.at - earlier.at)


def _throttled(earlier: Processor, later: Processor) -> float:
    periods = later.periods - earlier.periods
    # A node that did nothing had no period.
    return (later.throttled - earlier.throttled) / periods if periods > 0 else 0.0


def machine_seconds(stat: str) -> float:
    """Return the seconds that all processors together have been busy since the machine started, from /proc/stat."""
    ticks = dict(zip(_STATES, map(int, stat.splitlines()[0].split()[1:]), strict=False))
    return sum(count for state, count in ticks.items() if state not in _IDLE) / _TICKS


def process_seconds(stat: str) -> float:
    """Return the seconds of the processor that a process has used, from its /proc/PID/stat."""
    # The command's name, in parentheses, may hold spaces. What follows begins with the third field, proc_pid_stat(5).
    after = stat.rpartition(")")[2].split()
    return (int(after[11]) + int(after[12])) / _TICKS


def _process_seconds(pid: int) -> float:
    with suppress(FileNotFoundError, ProcessLookupError):
        return process_seconds(Path(f"/proc/{pid}/stat").read_text())
    return 0.0
