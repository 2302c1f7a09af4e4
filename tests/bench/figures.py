"""What the figures are, and how they are computed from what the kernel and the API server tell. No I/O here."""

from __future__ import annotations

import json
import re
import statistics
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping, Sequence

MIB = 2**20


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """One request that the API server received from a candidate."""

    at: float
    """Seconds since the epoch."""
    identity: str
    verb: str
    """As RBAC says it: `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`."""
    resource: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """What one process occupies, in bytes."""

    resident: int
    """RSS: every page that is mapped, those that other processes share with it included."""
    anonymous: int
    """Its own data: what no file backs."""
    proportional: int
    """PSS: a shared page counts as its share among the processes that map it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Spread:
    """Several trials of one figure, in seconds."""

    p50: float
    p90: float
    trials: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """The requests of one window, an average election's a second, by verb. A watch counts when it is started."""

    total: Mapping[str, float]
    leaders: Mapping[str, float]
    followers: Mapping[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """All that was measured of one command."""

    name: str
    elections: int
    replicas: int
    ttl: float
    window: float
    """Seconds that the steady state was watched."""
    traffic: Traffic
    counted_by_metrics: float
    """Requests a second for one election, watches aside, as the API server's own counters have them."""
    open_watches: float
    """Watches that one election keeps open."""
    leader_changes: int
    """Elections that another candidate led at the end of the window than at its beginning: 0 in a steady state."""
    apiserver_idle: float
    """Millicores of the API server before the first candidate was started."""
    apiserver: float
    """Millicores of the API server in the window."""
    first_answer: Spread
    first_leader: Spread
    killed: Spread | None
    """From SIGKILL to the leader until another candidate names itself; None without trials."""
    terminated: Spread | None
    """The same from SIGTERM."""
    resident: float
    """MiB, the median of the candidates; so are the next two."""
    anonymous: float
    proportional: float
    cpu: float
    """Millicores in the window, the mean of the candidates."""

    @property
    def requests(self) -> float:
        """Requests a second for one election."""
        return sum(self.traffic.total.values())

    @property
    def follower_requests(self) -> float:
        """Requests a second that the followers of one election send, their watches aside."""
        return sum(rate for verb, rate in self.traffic.followers.items() if verb != "watch")

    @property
    def follower_polls(self) -> float:
        """Of these, what is no registration either."""
        return sum(rate for verb, rate in self.traffic.followers.items() if verb not in ("watch", "patch"))


def parse_audit(text: str) -> list[Request]:
    """Read an audit log in which every request has one line; a last line that is still being written is left out."""
    return [_request(json.loads(line)) for line in text[: text.rfind("\n") + 1].splitlines()]


def traffic(requests: Iterable[Request], *, leaders: Collection[str], elections: int, seconds: float) -> Traffic:
    """Count requests by verb and by who sent them; whoever is in `leaders` is no follower."""
    total, led, followed = Counter[str](), Counter[str](), Counter[str]()
    for request in requests:
        total[request.verb] += 1
        (led if request.identity in leaders else followed)[request.verb] += 1

    def rates(counted: Counter[str]) -> dict[str, float]:
        return {verb: count / elections / seconds for verb, count in sorted(counted.items())}

    return Traffic(total=rates(total), leaders=rates(led), followers=rates(followed))


def count_finished(
    before: Mapping[tuple[str, str], int], after: Mapping[tuple[str, str], int], *, resources: Collection[str]
) -> int:
    """Count what finished between two readings of the API server's counters by verb and resource, watches aside."""
    return sum(
        count - before.get((verb, resource), 0)
        for (verb, resource), count in after.items()
        if resource in resources and verb != "WATCH"
    )


def parse_smaps_rollup(text: str) -> Memory:
    """Read `/proc/PID/smaps_rollup`."""
    kibibytes = {name: int(size) for name, size in re.findall(r"^(\w+):\s+(\d+) kB$", text, re.MULTILINE)}
    return Memory(
        resident=kibibytes["Rss"] * 1024,
        anonymous=kibibytes["Anonymous"] * 1024,
        proportional=kibibytes["Pss"] * 1024,
    )


def parse_cpu_seconds(stat: str, *, ticks: int) -> float:
    """Return the processor time in a `/proc/PID/stat`, of which a second has so many `ticks` (proc_pid_stat(5))."""
    # The second field, the command's name in parentheses, may hold spaces; utime and stime are the 14th and the 15th.
    fields = stat.rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks


def parse_start_time(stat: str, *, ticks: int) -> float:
    """Return when a process was started, in seconds since the machine was, from its `/proc/PID/stat`."""
    return int(stat.rpartition(")")[2].split()[19]) / ticks


def parse_run_time(schedstat: str) -> float:
    """Return the processor time of a thread, to the nanosecond, from its `/proc/PID/task/TID/schedstat`."""
    return int(schedstat.split(maxsplit=1)[0]) / 1e9


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which this share of the values lies, between the two nearest ones in proportion."""
    ordered = sorted(values)
    position = share * (len(ordered) - 1)
    lower = int(position)
    upper = min(lower + 1, len(ordered) - 1)
    return ordered[lower] + (ordered[upper] - ordered[lower]) * (position - lower)


def spread(values: Sequence[float]) -> Spread:
    """Return the spread of at least one trial."""
    return Spread(p50=percentile(values, 0.5), p90=percentile(values, 0.9), trials=len(values))


def median_mib(sizes: Iterable[int]) -> float:
    """Return the median of some sizes in bytes, in MiB."""
    return statistics.median(sizes) / MIB


def _request(event: dict[str, object]) -> Request:
    user, referred = event["user"], event.get("objectRef")
    if not isinstance(user, dict):
        raise TypeError(f"the audit log has an event without a user: {event}")
    return Request(
        at=datetime.fromisoformat(str(event["requestReceivedTimestamp"])).timestamp(),
        # system:serviceaccount:NAMESPACE:NAME
        identity=str(user["username"]).rpartition(":")[2],
        verb=str(event["verb"]),
        # Discovery and the like refer to no object.
        resource=str(referred["resource"]) if isinstance(referred, dict) else "",
    )
