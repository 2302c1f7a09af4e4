"""Prometheus' own linter, parser and query engine: found in the cache, or built from its published Go modules.

promtool itself does the same and more, and takes minutes to build. `test_rules` runs unit tests of alerts as promtool
writes them, so that those who have it can run the same file. `python -m tests.testbed.promcheck` prints the path of the
program.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from tests.testbed import golang

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

MODULE = Path(__file__).with_name("promcheck")

_SECONDS = {"s": 1, "m": 60, "h": 3600, "d": 86400}


def program() -> Path:
    """Return the program. A build takes half a minute with nothing cached. Raises golang.BuildError."""
    folder = golang.cache() / "promcheck" / golang.digest(MODULE)
    golang.ensure(
        [golang.Program(name="promcheck", package=".")],
        module=MODULE,
        folder=folder,
        announce="(half a minute with nothing cached) ...",
    )
    return folder / "promcheck"


def seconds(text: str) -> int:
    """Return the seconds of a duration as Prometheus writes it."""
    parts = re.findall(r"(\d+)([smhd])", text)
    if "".join(map("".join, parts)) != text:
        raise ValueError(f"no duration: {text!r}")
    return sum(int(number) * _SECONDS[unit] for number, unit in parts)


@dataclass(frozen=True, slots=True)
class Expression:
    """What a PromQL expression is: its type, and the metrics that it selects, with the values of their labels."""

    type: str
    metrics: tuple[tuple[str, Mapping[str, str]], ...]


@dataclass(frozen=True)
class Promcheck:
    """Asks the program."""

    path: Path

    def lint(self, text: str) -> list[str]:
        """Return what promtool's linter has against an exposition."""
        return list(self._ask({"lint": text})["problems"])

    def parse(self, expressions: Sequence[str]) -> list[Expression]:
        """Return what the expressions are. Raises ValueError for one that is no PromQL."""
        found = []
        for text, parsed in zip(expressions, self._ask({"parse": expressions})["parsed"], strict=True):
            if parsed["error"]:
                raise ValueError(f"{parsed['error']}: {text}")
            metrics = tuple((one["name"], one["labels"]) for one in parsed["selectors"])
            found.append(Expression(parsed["type"], metrics))
        return found

    def test_rules(self, path: Path) -> Iterator[tuple[str, list[Any], list[Any]]]:
        """Run the unit tests of alerts in a file; yields, for each, what it asks, what fires, and what should.

        Of promtool's format it knows `alert_rule_test`, and of templates the labels and nothing else.
        """
        asked = yaml.safe_load(path.read_text(encoding="utf-8"))
        rules = [
            rule
            for name in asked["rule_files"]
            for group in yaml.safe_load((path.parent / name).read_text(encoding="utf-8"))["groups"]
            for rule in group["rules"]
        ]
        step = seconds(asked["evaluation_interval"])
        for test in asked["tests"]:
            for case in test["alert_rule_test"]:
                (rule,) = [rule for rule in rules if rule["alert"] == case["alertname"]]
                fired = self._firing(rule, test, seconds(case["eval_time"]), step)
                expected = [
                    (dict(one["exp_labels"]), dict(one["exp_annotations"])) for one in case.get("exp_alerts", [])
                ]
                what = f"{test.get('name', '')}: {case['alertname']} at {case['eval_time']}"
                yield what, sorted(fired, key=repr), sorted(expected, key=repr)

    def _firing(self, rule: dict[str, Any], test: dict[str, Any], at: int, step: int) -> list[Any]:
        """Return the labels and annotations of the alerts that fire: those active for as long as the rule says."""
        times = range(0, at + 1, step)
        answers = self._ask(
            {
                "series": test["input_series"],
                "interval": seconds(test["interval"]),
                "queries": [{"expr": rule["expr"], "at": time} for time in times],
            }
        )["answers"]
        since: dict[tuple[tuple[str, str], ...], int] = {}
        for time, vector in zip(times, answers, strict=True):
            active = {
                tuple(sorted((key, value) for key, value in one["labels"].items() if key != "__name__"))
                for one in vector
            }
            since = {labels: since.get(labels, time) for labels in active}
        last = times[-1]
        waits = seconds(rule.get("for", "0s"))
        return [
            (
                {**dict(labels), **rule["labels"]},
                {key: _expanded(text, dict(labels)) for key, text in rule["annotations"].items()},
            )
            for labels, began in since.items()
            if last - began >= waits
        ]

    def _ask(self, request: Mapping[str, object]) -> dict[str, Any]:
        done = subprocess.run(
            [self.path], input=json.dumps(request), capture_output=True, text=True, timeout=60, check=False
        )
        if done.returncode != 0:
            raise ValueError(done.stderr.strip())
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer


def _expanded(text: str, labels: Mapping[str, str]) -> str:
    return re.sub(r"{{ \$labels\.([a-z_]+) }}", lambda found: labels.get(found[1], ""), text)


if __name__ == "__main__":
    sys.exit(golang.command(program))
