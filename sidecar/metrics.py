"""What Prometheus is told: the series of one candidate, computed when somebody asks.

Two of them are client-go's, by name and meaning, so that dashboards for leader election work unchanged. Whether this
candidate leads is asked anew for every answer, as on every other path.

The text is prometheus_client's. It is loaded when somebody asks for the first time, beside the loop, so that a pod that
nobody scrapes does not pay for it and a leader that is asked does not wait for a disk.
"""

from __future__ import annotations

import asyncio
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prometheus_client import exposition, metrics_core

from sidecar import __version__
from sidecar.tally import REASONS, RENEWAL_BUCKETS

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from prometheus_client.metrics_core import Metric

    from sidecar.candidate import Candidate
    from sidecar.census import Taken
    from sidecar.election import Candidacy
    from sidecar.tally import Tally

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
"""Prometheus' text format, as every scraper reads it."""


@dataclass(frozen=True, slots=True)
class Series:
    """One name: its type, its labels beside `name`, and what it says."""

    kind: str
    labels: tuple[str, ...]
    help: str


SERIES: Mapping[str, Series] = {
    "leader_election_master_status": Series("gauge", (), "Whether this candidate leads, now: 1, else 0."),
    "leader_election_slowpath_total": Series(
        "counter", (), "Renewals that had to read the lock object first, because the one before had failed."
    ),
    "leader_election_leader_known": Series(
        "gauge", (), "Whether this candidate knows of a leader whose lease is valid, itself included: 1, else 0."
    ),
    "leader_election_lease_duration_seconds": Series("gauge", (), "The lease, after which others may take over."),
    "leader_election_renew_deadline_seconds": Series(
        "gauge", (), "The time without a successful renewal after which this candidate stops leading."
    ),
    "leader_election_renewal_age_seconds": Series(
        "gauge", (), "The time since the last successful renewal was sent. Only while this candidate leads."
    ),
    "leader_election_renewal_duration_seconds": Series(
        "histogram", (), "The time from a renewal until its answer or its failure."
    ),
    "leader_election_late_renewals_total": Series(
        "counter", (), "Renewals that succeeded with less than a third of the renew deadline left."
    ),
    "leader_election_bids_total": Series("counter", (), "Attempts to take a vacant lock."),
    "leader_election_terms_total": Series("counter", (), "Terms that this candidate began to lead."),
    "leader_election_terms_ended_total": Series(
        "counter",
        ("reason",),
        "Terms of this candidate that ended: by a lapse (no renewal before the renew deadline), a loss (somebody "
        "else changed the lock object), a hand_over for the balance, a step_down (asked to, or not fit to lead), or "
        "the exit of the process.",
    ),
    "leader_election_transitions_total": Series(
        "counter", (), "Terms of anybody that this candidate saw begin, after the first one."
    ),
    "leader_election_watch_restarts_total": Series(
        "counter", (), "Watches of the lock object that were begun after the first one."
    ),
    "leader_election_api_requests_total": Series(
        "counter",
        ("verb", "code"),
        "Requests to the API server, by RBAC verb and status; the code is none where no answer came.",
    ),
    "leader_election_group_elections": Series(
        "gauge", ("group",), "Elections in the last census of the group. Only while this candidate leads."
    ),
    "leader_election_group_spread": Series(
        "gauge",
        ("group",),
        "What the node with the most leaders of the group has more than the one with the least, by weight, in the last "
        "census. Only while this candidate leads.",
    ),
    "leader_election_candidate_info": Series(
        "gauge", ("node", "group"), "Where this candidate runs, and which group its election is in; always 1."
    ),
    "leader_election_build_info": Series("gauge", ("version",), "The version of leader-elector; always 1."),
}
"""Every series, in the order in which they are told. The first two are client-go's."""


class Metrics:
    """The series of one candidate. `group` is `""` where nodes do not matter to it."""

    def __init__(self, *, election: str, group: str, candidate: Candidate, candidacy: Candidacy, tally: Tally) -> None:
        self._election = election
        self._group = group
        self._candidate = candidate
        self._candidacy = candidacy
        self._tally = tally
        self._loaded = False
        self._measured: tuple[Taken, int] | None = None

    async def render(self) -> bytes:
        """Return all of them in Prometheus' text format, as they are now."""
        if not self._loaded:
            await asyncio.to_thread(_load)
            self._loaded = True
        return exposition.generate_latest(self)

    def collect(self) -> Iterator[Metric]:
        """Yield every family that has something to say; called by prometheus_client."""
        tally, me, status = self._tally, self._candidacy, self._candidate.status()
        yield self._one("leader_election_master_status", self._candidate.is_leading())
        yield self._one("leader_election_slowpath_total", tally.slow_paths)
        yield self._one("leader_election_leader_known", bool(self._candidate.leader_name()))
        yield self._one("leader_election_lease_duration_seconds", me.lease_seconds)
        yield self._one("leader_election_renew_deadline_seconds", me.renew_deadline)
        if status.valid_for > 0:
            yield self._one("leader_election_renewal_age_seconds", round(me.renew_deadline - status.valid_for, 3))
        yield self._renewals()
        yield self._one("leader_election_late_renewals_total", tally.late_renewals)
        yield self._one("leader_election_bids_total", tally.bids)
        yield self._one("leader_election_terms_total", tally.terms)
        yield self._many("leader_election_terms_ended_total", {(reason,): tally.ended[reason] for reason in REASONS})
        yield self._one("leader_election_transitions_total", tally.transitions)
        yield self._one("leader_election_watch_restarts_total", tally.watch_restarts)
        yield self._many("leader_election_api_requests_total", dict(sorted(tally.requests.items())))
        if status.valid_for > 0 and status.census is not None:
            elections = len(status.census.census.elections)
            yield self._many("leader_election_group_elections", {(self._group,): elections})
            yield self._many("leader_election_group_spread", {(self._group,): self._spread(status.census)})
        yield self._many("leader_election_candidate_info", {(me.node, self._group): 1})
        yield self._many("leader_election_build_info", {(__version__,): 1})

    def _one(self, name: str, value: float) -> Metric:
        return self._many(name, {(): value})

    def _many(self, name: str, values: Mapping[tuple[str, ...], float]) -> Metric:
        series = SERIES[name]
        labels = ("name", *series.labels)
        made = metrics_core.CounterMetricFamily if series.kind == "counter" else metrics_core.GaugeMetricFamily
        family: Metric = made(name, series.help, labels=labels)
        for given, value in values.items():
            sample = dict(zip(labels, (self._election, *given), strict=True))
            family.add_sample(name, sample, float(value))
        return family

    def _renewals(self) -> Metric:
        name = "leader_election_renewal_duration_seconds"
        buckets, total = [], 0
        for limit, count in zip([*map(str, RENEWAL_BUCKETS), "+Inf"], self._tally.renewals, strict=True):
            total += count
            buckets.append((limit, float(total)))
        family = metrics_core.HistogramMetricFamily(name, SERIES[name].help, labels=("name",))
        family.add_metric([self._election], buckets=buckets, sum_value=self._tally.renewal_seconds)
        return family

    def _spread(self, taken: Taken) -> int:
        if self._measured is None or self._measured[0] is not taken:
            loads = taken.census.loads().values()
            self._measured = taken, max(loads, default=0) - min(loads, default=0)
        return self._measured[1]


_loading = threading.Lock()


def _load() -> None:
    """Use everything once, so that nothing is left to be imported."""
    with _loading:
        exposition.generate_latest(_Example())


class _Example:
    def collect(self) -> Iterator[Metric]:
        """Yield one family of each type that is used."""
        yield metrics_core.GaugeMetricFamily("example", "An example.", value=1.0)
        yield metrics_core.CounterMetricFamily("example", "An example.", value=1.0)
        yield metrics_core.HistogramMetricFamily("example", "An example.", buckets=[("+Inf", 1.0)], sum_value=1.0)
