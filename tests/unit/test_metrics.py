"""The series: what Prometheus reads is what the candidate knows at that very moment, and the page describes all."""

from __future__ import annotations

import asyncio
import re
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest
from prometheus_client.parser import text_string_to_metric_families

from sidecar import __version__, metrics, tally
from sidecar.balance import Census, Election
from sidecar.candidate import Status
from sidecar.census import Taken
from sidecar.election import Candidacy
from sidecar.metrics import SERIES, Metrics
from sidecar.tally import Tally

if TYPE_CHECKING:
    from sidecar.candidate import Candidate

PAGE = (Path(__file__).parents[2] / "docs/metrics.md").read_text(encoding="utf-8")

ME = Candidacy(
    identity="store-0", pod_uid="uid", node="node-a", lease_seconds=10, renew_deadline=6.667, retry_period=2.5
)

UNBALANCED = Census(
    tuple(
        Election(name=f"default/{number}", node=node, nodes=frozenset({"node-a", "node-b", "node-c"}))
        for number, node in enumerate(["node-a", "node-a", "node-a", "node-b"])
    )
)


class Told:
    """A candidate that tells what it is given."""

    def __init__(self) -> None:
        self.leading = False
        self.name = ""
        self.valid_for = 0.0
        self.census: Taken | None = None

    def lead(self) -> None:
        """Lead, with 5 s left."""
        self.leading, self.name, self.valid_for = True, "store-0", 5.0

    def is_leading(self) -> bool:
        """Tell whether it leads."""
        return self.leading

    def leader_name(self) -> str:
        """Return who does."""
        return self.name

    def status(self) -> Status:
        """Return what else there is to tell."""
        return Status(
            identity="store-0",
            node="node-a",
            role="leading" if self.leading else "following",
            leader=self.name,
            leader_node="",
            fencing_token=None,
            since="",
            valid_for=self.valid_for,
            transitions=None,
            why="",
            last_error="",
            placing="",
            census=self.census,
        )


def series_of(candidate: Told, counted: Tally | None = None, *, election: str = "store") -> Metrics:
    """Return the series of a candidate."""
    return Metrics(
        election=election,
        group="default",
        candidate=cast("Candidate", candidate),
        candidacy=ME,
        tally=counted or Tally(),
    )


async def samples(exposed: Metrics) -> dict[str, float]:
    """Return what a scraper reads, by the name and the labels beside `name`."""
    text = (await exposed.render()).decode()
    return {
        sample.name
        + "".join(f",{key}={value}" for key, value in sorted(sample.labels.items()) if key != "name"): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


async def test_a_leader_tells_how_its_lease_stands() -> None:
    """client-go's gauge is 1, and the age of the renewal is told beside the deadline that it is to be compared with."""
    candidate = Told()
    candidate.lead()
    read = await samples(series_of(candidate))
    assert read["leader_election_master_status"] == 1
    assert read["leader_election_leader_known"] == 1
    assert read["leader_election_renewal_age_seconds"] == pytest.approx(1.667)
    assert read["leader_election_renew_deadline_seconds"] == 6.667
    assert read["leader_election_lease_duration_seconds"] == 10


async def test_a_follower_tells_of_no_renewal() -> None:
    """What only a leader knows is left out, instead of being 0; who is known to lead is another question."""
    candidate = Told()
    candidate.name = "store-1"
    candidate.census = Taken(UNBALANCED, 0, {})
    read = await samples(series_of(candidate))
    assert read["leader_election_master_status"] == 0
    assert read["leader_election_leader_known"] == 1
    assert not [name for name in read if name.startswith(("leader_election_renewal_age", "leader_election_group"))]


async def test_leadership_is_judged_at_every_scrape() -> None:
    """The second answer says what holds then, and not what held at the first."""
    candidate = Told()
    exposed = series_of(candidate)
    assert (await samples(exposed))["leader_election_master_status"] == 0
    candidate.lead()
    assert (await samples(exposed))["leader_election_master_status"] == 1
    candidate.leading, candidate.name = False, ""
    read = await samples(exposed)
    assert (read["leader_election_master_status"], read["leader_election_leader_known"]) == (0, 0)


async def test_the_first_scrape_says_what_holds_once_all_is_loaded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leadership that ends while the library is loaded is not told as if it still held."""
    candidate = Told()
    candidate.lead()

    def lose() -> None:
        candidate.leading = False

    monkeypatch.setattr(metrics, "_load", lose)
    assert (await samples(series_of(candidate)))["leader_election_master_status"] == 0


async def test_several_first_scrapes_at_once_are_all_answered() -> None:
    """Nobody is told less for coming second."""
    exposed = series_of(Told())
    answers = await asyncio.gather(*(exposed.render() for _ in range(5)))
    assert len(set(answers)) == 1


async def test_the_group_is_told_by_its_leaders() -> None:
    """Nodes without a leader count for the spread; a new census makes a new one."""
    candidate = Told()
    candidate.lead()
    candidate.census = Taken(UNBALANCED, 0, {})
    exposed = series_of(candidate)
    read = await samples(exposed)
    assert read["leader_election_group_elections,group=default"] == 4
    assert read["leader_election_group_spread,group=default"] == 3
    candidate.census = Taken(Census(UNBALANCED.elections[2:]), 0, {})
    assert (await samples(exposed))["leader_election_group_spread,group=default"] == 1
    candidate.census = Taken(Census(()), 0, {})
    assert (await samples(exposed))["leader_election_group_spread,group=default"] == 0


async def test_what_was_counted_is_told() -> None:
    """Counters go by reason, verb and code; buckets are cumulative."""
    counted = Tally()
    counted.renewals = [1, 0, 2, 0, 0, 0, 0, 1]
    counted.renewal_seconds = 12.5
    counted.bids, counted.terms, counted.transitions, counted.late_renewals = 3, 2, 4, 1
    counted.ended = Counter({tally.LAPSED: 1})
    counted.request("update", 200)
    counted.request("update", 200)
    counted.request("get", None)
    read = await samples(series_of(Told(), counted))
    duration = "leader_election_renewal_duration_seconds"
    assert [value for name, value in read.items() if name.startswith(f"{duration}_bucket")] == [1, 1, 3, 3, 3, 3, 3, 4]
    assert (read[f"{duration}_count"], read[f"{duration}_sum"]) == (4, 12.5)
    assert read["leader_election_api_requests_total,code=200,verb=update"] == 2
    assert read["leader_election_api_requests_total,code=none,verb=get"] == 1
    assert read["leader_election_terms_ended_total,reason=lapse"] == 1
    assert read["leader_election_terms_ended_total,reason=exit"] == 0
    assert read["leader_election_bids_total"] == 3
    assert read["leader_election_terms_total"] == 2
    assert read["leader_election_transitions_total"] == 4
    assert read["leader_election_late_renewals_total"] == 1


async def test_series_are_few_and_told_once() -> None:
    """About forty for a process that has met a bit of everything, all under one prefix, and each once."""
    candidate, counted = Told(), Tally()
    candidate.lead()
    candidate.census = Taken(UNBALANCED, 0, {})
    for verb, status in (
        ("get", 200),
        ("create", 201),
        ("update", 200),
        ("update", 409),
        ("watch", 200),
        ("list", 200),
    ):
        counted.request(verb, status)
    lines = (await series_of(candidate, counted).render()).decode().splitlines()
    told = [line.rpartition(" ")[0] for line in lines if not line.startswith("#")]
    assert len(told) == len(set(told)) <= 45
    assert all(line.startswith("leader_election_") for line in told)
    assert all('name="store"' in line for line in told)


async def test_names_of_elections_are_escaped() -> None:
    """Whatever an election is called, it is one value of a label."""
    name = 'a"b\\c\nd}'
    text = (await series_of(Told(), election=name).render()).decode()
    read = {sample.labels["name"] for family in text_string_to_metric_families(text) for sample in family.samples}
    assert read == {name}


async def test_the_declared_series_are_those_that_are_told() -> None:
    """The table has every family that is rendered, with its type, its labels and its words, and no other."""
    candidate, counted = Told(), Tally()
    candidate.lead()
    candidate.census = Taken(UNBALANCED, 0, {})
    counted.request("get", 200)
    exposed = series_of(candidate, counted)
    text = (await exposed.render()).decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    words = dict(re.findall(r"^# HELP (\S+) (.+)$", text, re.MULTILINE))
    assert types == {name: series.kind for name, series in SERIES.items()}
    assert words == {name: series.help for name, series in SERIES.items()}
    for family in exposed.collect():
        name = family.name + ("_total" if family.type == "counter" else "")
        labels = {label for sample in family.samples for label in sample.labels} - {"le", "name"}
        assert labels == set(SERIES[name].labels)


def test_the_page_has_every_series() -> None:
    """The table in docs/metrics.md is the one in the code, in its order."""
    rows = re.findall(r"^\| `(leader_election_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$", PAGE, re.MULTILINE)
    assert rows == [
        (name, series.kind, ", ".join(f"`{label}`" for label in series.labels) or "-", series.help)
        for name, series in SERIES.items()
    ]


def test_client_gos_names_are_kept() -> None:
    """Dashboards made for Kubernetes' own controllers ask for these two, with this label and these types."""
    assert SERIES["leader_election_master_status"].kind == "gauge"
    assert SERIES["leader_election_slowpath_total"].kind == "counter"
    assert {SERIES[name].labels for name in list(SERIES)[:2]} == {()}


async def test_the_version_is_told() -> None:
    """Which version runs where can be asked of Prometheus."""
    read = await samples(series_of(Told()))
    assert read[f"leader_election_build_info,version={__version__}"] == 1
    assert read["leader_election_candidate_info,group=default,node=node-a"] == 1


def test_the_library_is_loaded_by_the_first_scrape() -> None:
    """Where Python can, a process that nobody scrapes does not load it; before 3.15 everything is loaded."""
    program = "from sidecar import imports; imports.make_lazy(); import sys, sidecar.program; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    loaded = any(name.startswith("prometheus_client") for name in done.stdout.split())
    assert loaded == (sys.version_info < (3, 15))
