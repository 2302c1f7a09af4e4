"""The report: what it says of invented data, of data that lack something, and that it is the same every time."""

from __future__ import annotations

import re
from dataclasses import fields, replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.paper import data
from tests.paper.data import BALANCED, CONCENTRATED, OFF, OURS, DataError, Recorded
from tests.paper.report import NOT_MEASURED, read, text, write
from tests.paper.report_figures import Measured
from tests.paper.report_invented import HEAPED, SPREAD, invented

if TYPE_CHECKING:
    from pathlib import Path

NAMES = {
    "distribution": data.DISTRIBUTION,
    "cpu": data.CPU,
    "throughput": data.THROUGHPUT,
    "node_failure": data.NODE_FAILURE,
}
"""What the experiments' files and pictures are called."""


def save(measured: Measured, folder: Path) -> Path:
    """Write data as an evaluation leaves it."""
    for name, experiment in NAMES.items():
        if (recorded := getattr(measured, name)) is not None:
            data.save(data.path(folder, experiment), recorded)
    return folder


def flat(report: str) -> str:
    """Return a report as one line."""
    return " ".join(report.split())


def section(report: str, number: int) -> str:
    """Return what it says of one experiment, as one line."""
    return flat(re.split(r"^## ", report, flags=re.MULTILINE)[number + 1])


def with_rates(rates: dict[str, list[float]]) -> Measured:
    """Return runs with 1, 4 and 8 clients whose throughput is such, by placement."""
    recorded = invented().throughput
    assert recorded is not None
    runs = []
    for placement, some in rates.items():
        for clients, rate in zip((1, 4, 8), some, strict=True):
            leaders = HEAPED if placement == CONCENTRATED else SPREAD
            one = next(run for run in recorded.runs if (run.placement, run.clients) == (placement, clients))
            loads = [replace(load, seconds=load.acknowledged / rate) for load in one.loads[:1]]
            runs.append(replace(one, leaders_before=leaders, loads=loads))
    return Measured(throughput=Recorded(about=recorded.about, runs=runs))


def test_the_report_has_all_experiments() -> None:
    """Each has its section, the paper's claim, a table, and its picture."""
    report = text(invented())
    assert NOT_MEASURED not in report
    for number, (experiment, claim) in enumerate(
        zip(NAMES.values(), ("2.78 : 1.52 : 0.70", "80%", "48.7%", "not in the paper"), strict=True), 1
    ):
        told = section(report, number)
        assert claim in told
        assert "| ---: |" in told
        assert f"({experiment}.svg)" in told


def test_lines_are_not_too_long() -> None:
    """Prose is broken at 120 columns, and nothing that is typed is broken; tables and pictures are one line each."""
    for line in text(invented()).splitlines():
        assert len(line) <= 120 or line.startswith(("|", "!"))
        assert line.count("`") % 2 == 0 or line.startswith("```")


@pytest.mark.parametrize("missing", [field.name for field in fields(Measured)])
def test_what_was_not_measured_is_said(tmp_path: Path, missing: str) -> None:
    """Without one experiment the others are reported, and of that one there is no figure, and no old picture."""
    measured: Any = replace(invented(), **{missing: None})
    docs = tmp_path / "docs"
    docs.mkdir()
    (docs / f"{NAMES[missing]}.svg").write_text("of an earlier evaluation")
    write(save(measured, tmp_path / "data"), docs)
    report = (docs / "README.md").read_text(encoding="utf-8")
    number = list(NAMES).index(missing) + 1
    assert NOT_MEASURED in section(report, number)
    assert [name for name, experiment in NAMES.items() if not (docs / f"{experiment}.svg").exists()] == [missing]
    for other in range(1, len(NAMES) + 1):
        assert (NOT_MEASURED in section(report, other)) == (other == number)


def test_nothing_measured_is_a_report_too(tmp_path: Path) -> None:
    """Without any data it says so, and draws nothing."""
    write(tmp_path / "data", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["README.md"]
    assert (tmp_path / "README.md").read_text(encoding="utf-8").count(NOT_MEASURED) == len(NAMES) + 1


@pytest.mark.parametrize(
    ("part", "policies"), [(data.PROCESSES, (OFF, OURS)), (data.PODS, (OFF,)), (data.PODS, (OURS,))]
)
def test_a_part_of_the_elections_is_enough(tmp_path: Path, part: str, policies: tuple[str, ...]) -> None:
    """One policy, or processes or pods alone, are reported and drawn."""
    recorded = invented().distribution
    assert recorded is not None
    runs = [one for one in recorded.runs if one.part == part and one.policy in policies][:1]
    write(save(Measured(distribution=Recorded(about=recorded.about, runs=runs)), tmp_path), tmp_path)
    report = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert ("(pods, n = 1)" in report) == (part == data.PODS)


@pytest.mark.parametrize("placement", [CONCENTRATED, BALANCED])
def test_one_placement_is_enough(tmp_path: Path, placement: str) -> None:
    """An evaluation that was interrupted after its first run has a report, without any comparison."""
    cpu, throughput = invented().cpu, invented().throughput
    assert cpu is not None
    assert throughput is not None
    measured = Measured(
        cpu=Recorded(about=cpu.about, runs=[run for run in cpu.runs if run.placement == placement][:1]),
        throughput=Recorded(
            about=throughput.about, runs=[run for run in throughput.runs if run.placement == placement][:1]
        ),
    )
    write(save(measured, tmp_path), tmp_path)
    report = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "| more writes when balanced, 1 client a store | +48.7% | not measured |" in report
    assert (tmp_path / "cpu.svg").exists()


def test_the_same_data_give_the_same_bytes(tmp_path: Path) -> None:
    """Report and pictures do not depend on when or where they are made."""
    found = []
    for name in ("one", "other"):
        docs = tmp_path / name
        write(save(invented(), tmp_path / f"{name}-data"), docs)
        found.append({path.name: path.read_bytes() for path in docs.iterdir()})
    assert found[0] == found[1]
    assert found[0].keys() == {"README.md", "overview.svg", *(f"{name}.svg" for name in NAMES.values())}


def test_void_runs_are_told(tmp_path: Path) -> None:
    """How many do not count, and why; an experiment of nothing else has no figures, but its reasons."""
    recorded = invented().cpu
    assert recorded is not None
    first, *others = recorded.runs
    some = Recorded(about=recorded.about, runs=[replace(first, void="a leader moved"), *others])
    assert "1 of 6 runs does not count: a leader moved." in section(text(Measured(cpu=some)), 2)
    every = Recorded(about=recorded.about, runs=[replace(run, void="a leader moved") for run in recorded.runs])
    write(save(Measured(cpu=every), tmp_path), tmp_path)
    report = (tmp_path / "README.md").read_text(encoding="utf-8")
    assert "6 of 6 runs do not count: a leader moved (6 times)." in section(report, 2)
    assert not (tmp_path / "cpu.svg").exists()


@pytest.mark.parametrize(
    ("rates", "told"),
    [
        ([100, 200, 210], "105% of that at 4: it is flat, as the paper's is"),
        ([100, 200, 300], "150% of that at 4: it goes on growing, where the paper's is about constant"),
        ([100, 200, 100], "50% of that at 4: it falls, where the paper's is about constant"),
    ],
)
def test_the_verdict_on_growth_goes_by_the_figures(rates: list[float], told: str) -> None:
    """The sentence on more than four clients is chosen by what was measured."""
    measured = with_rates({CONCENTRATED: rates, BALANCED: rates})
    assert told in section(text(measured), 3)


@pytest.mark.parametrize(
    ("balanced", "told"),
    [
        (150.0, "gave +50%; the paper has +48.7%. That is much the same."),
        (200.0, "gave +100%; the paper has +48.7%. That is 51 points more."),
        (90.0, "gave \N{MINUS SIGN}10%; the paper has +48.7%. That is 59 points less."),
    ],
)
def test_the_verdict_on_the_gain_goes_by_the_figures(balanced: float, told: str) -> None:
    """So is the one on one client, and the explanation beside it."""
    measured = with_rates({CONCENTRATED: [100.0, 100.0, 100.0], BALANCED: [balanced, 100.0, 100.0]})
    assert told in section(text(measured), 3)


@pytest.mark.parametrize(("used", "told"), [(1.95, "the machine itself was full"), (1.5, "was not full")])
def test_a_full_machine_is_told(used: float, told: str) -> None:
    """Whether the processors of the machine, rather than the nodes' limits, were scarce is said by what was used."""
    recorded = invented().cpu
    assert recorded is not None
    runs = [replace(run, usage=replace(run.usage, machine=used)) for run in recorded.runs]
    assert told in section(text(Measured(cpu=Recorded(about=recorded.about, runs=runs))), 2)


def test_broken_data_are_an_error(tmp_path: Path) -> None:
    """They are named, and nothing is written of them."""
    data.path(tmp_path, data.CPU).write_text('{"about": {}, "runs": []}')
    with pytest.raises(DataError, match=r"cpu\.json"):
        read(tmp_path)
