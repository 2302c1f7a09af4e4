"""Prometheus' rules in the test bed: what is wrong is found, also by the runner of the alerts' unit tests."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.testbed.promcheck import seconds

if TYPE_CHECKING:
    from tests.testbed.promcheck import Promcheck

MONITORING = Path(__file__).parents[2] / "k8s/monitoring"

PLANTED = [
    ("known) == 0", "known) == 2"),
    (
        "max by (namespace, name) (leader_election_leader_known",
        "min by (namespace, name) (leader_election_leader_known",
    ),
    ("for: 1m", "for: 0s"),
    ("for: 1m", "for: 3m"),
    ("for: 2m", "for: 0s"),
    ("status) > 1", "status) > 2"),
    ("[30m])) > 6", "[30m])) > 3"),
    ("[30m])) > 6", "[30m])) > 8"),
    ('{reason="lapse"}', ""),
    ("> 0.9", "> 0.1"),
    ("spread) > 1", "spread) > 0"),
    ("for: 30m", "for: 5m"),
    ('"none|', '"409|none|'),
    ("|403|", "|"),
    ("> 0.25", "> 0"),
    ("severity: info", "severity: warning"),
    ("Nobody leads", "Somebody leads"),
]
"""Mistakes in the alerts, each of which one of their unit tests has to find."""


@pytest.mark.parametrize(("right", "wrong"), PLANTED, ids=[f"{right} {wrong}" for right, wrong in PLANTED])
def test_a_mistake_in_an_alert_is_found(promcheck: Promcheck, tmp_path: Path, right: str, wrong: str) -> None:
    """The unit tests of the alerts fail for rules that fire too early, too late, or for something else."""
    rules = (MONITORING / "rules.yaml").read_text(encoding="utf-8")
    assert right in rules
    (tmp_path / "rules.yaml").write_text(rules.replace(right, wrong, 1))
    tests = tmp_path / "rules_test.yaml"
    tests.write_text((MONITORING / "rules_test.yaml").read_text(encoding="utf-8"))
    assert any(found != expected for _, found, expected in promcheck.test_rules(tests))


def test_what_is_no_promql_is_refused(promcheck: Promcheck) -> None:
    """The error names the expression."""
    with pytest.raises(ValueError, match=r"sum\("):
        promcheck.parse(["up", "sum("])


def test_the_linter_finds_what_promtool_finds(promcheck: Promcheck) -> None:
    """A counter without `_total`, and a family without a word about it."""
    problems = promcheck.lint("# TYPE leader_bids counter\nleader_bids 1\n")
    assert len(problems) == 2
    assert any("_total" in problem for problem in problems)
    assert any("help" in problem for problem in problems)


@pytest.mark.parametrize(("text", "expected"), [("30s", 30), ("5m30s", 330), ("1h", 3600), ("1d", 86400)])
def test_durations_are_prometheus(text: str, expected: int) -> None:
    """Several units may follow each other."""
    assert seconds(text) == expected


def test_other_durations_are_refused() -> None:
    """What is no duration is not taken for none."""
    with pytest.raises(ValueError, match="soon"):
        seconds("soon")
