"""What the evaluation measured: one file an experiment, with all that it was measured with and every single run.

A file is a JSON object `{"about": ..., "runs": [...]}`. All times are in seconds, all processor time is in cores, and
leaders are counted by node.
"""

from __future__ import annotations

import json
import os
import types
from dataclasses import asdict, dataclass, field, fields, is_dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

if TYPE_CHECKING:
    from pathlib import Path

DISTRIBUTION, CPU, THROUGHPUT, NODE_FAILURE = "distribution", "cpu", "throughput", "node-failure"
"""The experiments, by what their files are called without the ending."""

STORES, REPLICAS, NODES = 5, 5, 3
"""As many as the paper has; replicas of each store."""

CONCENTRATED, BALANCED = "concentrated", "balanced"
"""Placements of the leaders: all on one node, and spread as evenly as can be."""

OFF, OURS = "off", "ours"
"""Policies: that of the stock algorithm, `ELECTION_BALANCE=off`, and the program's own."""

PROCESSES, PODS = "processes", "pods"
"""What the candidates of an election were."""

FILE_BYTES = 64 * 1024 * 1024
"""The largest file that is read."""


class DataError(Exception):
    """What was measured cannot be read; the message is one line that says where and what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class About:
    """What an experiment was measured with."""

    date: str
    """When it began, in UTC, as ISO 8601 writes it."""
    machine_cores: int
    machine_memory_gib: float
    kernel: str
    python: str
    node_cpus: float
    """Cores that each node is limited to; 0 for no limit."""
    nodes: list[str]
    stores: int
    replicas: int
    """Of each store."""
    kubernetes: str
    """The version of the API server."""
    images: dict[str, str] = field(default_factory=dict)
    """`sidecar` and `store`, by the names that the nodes know them by."""
    hey: str = ""
    """The version of the load generator; empty where there was none."""
    options: dict[str, Any] = field(default_factory=dict)
    """What was asked for: seconds, requests, clients and so on. Only runs with the same options are put together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    """What the load generator sent to one store, and what came of it."""

    store: str
    requests: int
    """Sent, whatever came of them."""
    acknowledged: int
    """Of these, those that were answered 200."""
    failures: dict[str, int]
    """The others, by status, or by what went wrong with the connection."""
    seconds: float
    """From the first request to the last answer."""
    p50: float | None
    """Seconds within which half of the acknowledged writes were answered; None without any."""
    p99: float | None

    @property
    def throughput(self) -> float:
        """Acknowledged writes a second."""
        return self.acknowledged / self.seconds if self.seconds else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One node's use of the processor, a value for each interval between two samples."""

    cores: list[float]
    throttled: list[float]
    """The share of the scheduler's periods, of 0.1 s each, in which the node wanted more than its limit: 0 to 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    """How much of the processor was used while the load lasted."""

    at: list[float]
    """The end of each interval, in seconds since the load began."""
    nodes: dict[str, Trace]
    generator: float
    """The mean over the whole load; so are the two below."""
    control_plane: float
    machine: float
    """All that ran, by this experiment or not. The machine has `About.machine_cores`."""

    @property
    def elsewhere(self) -> float:
        """The mean of what ran beside all of these: the work of the kernel, and of other programs."""
        nodes = sum(sum(trace.cores) / len(trace.cores) for trace in self.nodes.values() if trace.cores)
        return self.machine - nodes - self.generator - self.control_plane


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementRun:
    """Writes to all stores at once, with the leaders where they are."""

    number: int
    """In which order the runs were made, from 1."""
    placement: str
    """`CONCENTRATED` or `BALANCED`."""
    clients: int
    """Of each store."""
    leaders_before: dict[str, int]
    leaders_after: dict[str, int]
    moved: list[str]
    """Stores whose leader changed between the two, or that had none."""
    void: str
    """Why the run does not count; empty for one that does."""
    loads: list[Load]
    usage: Usage


@dataclass(frozen=True, slots=True, kw_only=True)
class CpuRun(PlacementRun):
    """The nodes' use of the processor under writes, which kube-proxy spreads over all replicas of each store."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ThroughputRun(PlacementRun):
    """Writes that each client sends to its store's leader, one after the other."""

    @property
    def throughput(self) -> float:
        """Acknowledged writes a second, summed up over the stores, each over its own time."""
        return sum(load.throughput for load in self.loads)


@dataclass(frozen=True, slots=True, kw_only=True)
class FailureRun:
    """The loss of the node that leads most."""

    number: int
    policy: str
    """`OFF` or `OURS`."""
    killed: str
    """The node."""
    leaders_before: dict[str, int]
    leaders_after: dict[str, int]
    """While the node is away and the others have settled."""
    leaders_returned: dict[str, int]
    """After it has come back with all its pods, and the leaders have settled."""
    lost: list[str]
    """The stores whose leader was on the node."""
    gaps: dict[str, float]
    """For each store the longest time between two acknowledged writes around the loss, of one client that tries every
    50 ms."""
    void: str
    before: list[Load]
    after: list[Load]
    """Writes to the leaders, before the node was lost, and while it is away."""

    @property
    def throughput_before(self) -> float:
        """Acknowledged writes a second, summed up over the stores."""
        return sum(load.throughput for load in self.before)

    @property
    def throughput_after(self) -> float:
        """Acknowledged writes a second while the node is away, summed up over the stores."""
        return sum(load.throughput for load in self.after)


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """One election of each store, held at the same time and from nothing."""

    number: int
    """Which one it is of its part and its policy, from 1."""
    part: str
    """`PROCESSES` or `PODS`."""
    policy: str
    """`OFF` or `OURS`."""
    leaders: list[int]
    """Of each node, the most loaded first."""
    settled: float
    """From when the last candidate was there to the last change of a leader; 0 when none changed any more."""
    candidates: dict[str, dict[str, int]]
    """How many each store has on each node."""
    started: dict[str, float]
    """When each pod's main container was started, in seconds since the first; empty for processes."""
    leading: dict[str, str]
    """Which pod leads each store; empty for processes."""


Run = TypeVar("Run")


@dataclass(slots=True, kw_only=True)
class Recorded(Generic[Run]):
    """What one file holds."""

    about: About
    runs: list[Run]


def path(folder: Path, experiment: str) -> Path:
    """Return the file of an experiment in a folder of data."""
    return folder / f"{experiment}.json"


def load(file: Path, run: type[Run]) -> Recorded[Run] | None:
    """Read a file whose runs are of this kind; None where there is no file. Raises DataError."""
    try:
        if file.stat().st_size > FILE_BYTES:
            raise DataError(f"{file}: larger than {FILE_BYTES} bytes")
        content = json.loads(file.read_text())
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise DataError(f"{file}: {error}") from error
    if not isinstance(content, dict) or content.keys() != {"about", "runs"} or not isinstance(content["runs"], list):
        raise DataError(f'{file}: not an object {{"about": ..., "runs": [...]}}')
    try:
        about = _decoded(About, content["about"], "about")
        return Recorded(about=about, runs=[_decoded(run, one, f"runs[{i}]") for i, one in enumerate(content["runs"])])
    except ValueError as error:
        raise DataError(f"{file}: {error}") from error


def save(file: Path, recorded: Recorded[Any]) -> None:
    """Write a file in one piece, so that nobody ever reads half of it. Raises OSError."""
    file.parent.mkdir(parents=True, exist_ok=True)
    content = {"about": asdict(recorded.about), "runs": [asdict(run) for run in recorded.runs]}
    temporary = file.with_name(f".{file.name}.{os.getpid()}")
    try:
        temporary.write_text(
            json.dumps(_rounded(content), separators=(",", ":")).replace('},{"number"', '},\n{"number"') + "\n"
        )
        temporary.rename(file)
    finally:
        temporary.unlink(missing_ok=True)


def _rounded(value: Any) -> Any:  # noqa: ANN401 - JSON
    """Leave out digits that were not measured."""
    if isinstance(value, float):
        return round(value, 5)
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    return [_rounded(one) for one in value] if isinstance(value, list) else value


def _decoded(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - a type, and JSON
    """Return JSON as what an annotation says. Raises ValueError, which says where it is something else."""
    origin, inner = get_origin(kind), get_args(kind)
    if kind is Any:
        return value
    if origin is types.UnionType:
        return None if value is None else _decoded(inner[0], value, where)
    if is_dataclass(kind):
        return _instance(kind, value, where)
    if origin is list and isinstance(value, list):
        return [_decoded(inner[0], one, f"{where}[{i}]") for i, one in enumerate(value)]
    if origin is dict and isinstance(value, dict):
        return {name: _decoded(inner[1], one, f"{where}.{name}") for name, one in value.items()}
    if kind is float and type(value) is int:
        return float(value)
    if type(value) is kind:
        return value
    raise ValueError(f"{where} is not {getattr(kind, '__name__', kind)}")


def _instance(kind: Any, value: Any, where: str) -> Any:  # noqa: ANN401 - a dataclass, and JSON
    hints = get_type_hints(kind)
    names = [one.name for one in fields(kind)]
    if not isinstance(value, dict) or value.keys() != set(names):
        raise ValueError(f"{where} is not an object of {', '.join(names)}")
    return kind(**{name: _decoded(hints[name], value[name], f"{where}.{name}") for name in names})
