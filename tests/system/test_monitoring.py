"""k8s/monitoring: what Prometheus and Grafana are given asks for series that there are, and alerts when it should.

Judged by Prometheus' own linter, parser and query engine.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

from sidecar import tally
from sidecar.metrics import SERIES

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.testbed.embedded import EmbeddedForTests
    from tests.testbed.promcheck import Expression, Promcheck
    from tests.testbed.sidecar import Sidecars

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "k8s/monitoring"
RULES = yaml.safe_load((FOLDER / "rules.yaml").read_text(encoding="utf-8"))
DASHBOARD = json.loads((FOLDER / "dashboard.json").read_text(encoding="utf-8"))
PAGE = (ROOT / "docs/metrics.md").read_text(encoding="utf-8")

TARGET = {"namespace", "pod", "job", "instance"}
"""Labels that a scrape configuration adds; scrape.yaml says so, and Prometheus itself adds the last two."""

VALUES = {
    "reason": set(tally.REASONS),
    "verb": {"get", "list", "watch", "create", "update", "patch"},
}

GRAFANA = {"$__rate_interval": "5m", "$__range": "1h", "$namespace": "shop", "$name": "store"}
"""Grafana's variables, and what they may stand for."""


def alerts() -> list[dict[str, Any]]:
    """Return the rules."""
    return [rule for group in RULES["groups"] for rule in group["rules"]]


def panels() -> list[dict[str, Any]]:
    """Return the panels of the dashboard."""
    found: list[dict[str, Any]] = DASHBOARD["panels"]
    return found


def plain(text: str) -> str:
    """Return an expression of the dashboard with its variables replaced."""
    for name, value in GRAFANA.items():
        text = text.replace(name, value)
    assert "$" not in text
    return text


def family(name: str) -> str:
    """Return the family that a series is of: a histogram has three."""
    base = re.sub(r"_(bucket|sum|count)$", "", name)
    return base if base in SERIES and SERIES[base].kind == "histogram" else name


def unknown(expression: Expression) -> Iterator[str]:
    """Yield what an expression asks for and nobody exposes."""
    for name, matched in expression.metrics:
        if family(name) not in SERIES:
            yield name
            continue
        labels = set(SERIES[family(name)].labels) | {"name", "le"} | TARGET
        yield from (f"{name}: {label}" for label in set(matched) - labels - {"__name__"})
        for label, value in matched.items():
            if label in VALUES and value not in VALUES[label]:
                yield f"{name}: {label}={value}"


def test_every_alert_asks_for_what_there_is(promcheck: Promcheck) -> None:
    """Each expression is PromQL, returns a vector, and selects series and labels that are exposed."""
    for rule, expression in zip(alerts(), promcheck.parse([rule["expr"] for rule in alerts()]), strict=True):
        assert expression.type == "vector", rule["alert"]
        assert list(unknown(expression)) == [], rule["alert"]
        assert expression.metrics


def test_alerts_fire_when_they_should(promcheck: Promcheck) -> None:
    """Every unit test in rules_test.yaml holds, in what fires, its labels and its words; every alert fires in one."""
    fired: set[str] = set()
    asked: set[str] = set()
    for what, found, expected in promcheck.test_rules(FOLDER / "rules_test.yaml"):
        assert found == expected, what
        name = what.split(": ")[1].split(" ")[0]
        asked |= set() if expected else {name}
        fired |= {name} if expected else set()
    assert fired == asked == {rule["alert"] for rule in alerts()}


def test_alerts_say_what_it_is_about() -> None:
    """Each has a severity, a sentence and what to do, and names only labels that its expression keeps."""
    for rule in alerts():
        assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
        assert rule["labels"]["severity"] in {"critical", "warning", "info"}
        assert set(rule["annotations"]) == {"summary", "description"}
        named = set(re.findall(r"\$labels\.(\w+)", "".join(rule["annotations"].values())))
        kept = {label.strip() for by in re.findall(r"by \(([^)]*)\)", rule["expr"]) for label in by.split(",")}
        assert named
        assert named <= kept
        assert all(text.endswith(".") for text in rule["annotations"].values())


def test_the_operator_is_given_the_same_rules() -> None:
    """The PrometheusRule has the rules of the plain file, and nothing else."""
    manifest = yaml.safe_load((FOLDER / "prometheusrule.yaml").read_text(encoding="utf-8"))
    assert (manifest["apiVersion"], manifest["kind"]) == ("monitoring.coreos.com/v1", "PrometheusRule")
    assert manifest["spec"] == RULES


def test_both_scrape_configurations_are_one() -> None:
    """With and without the Operator the same containers are asked, at the same address."""
    (plain_job,) = yaml.safe_load((FOLDER / "scrape.yaml").read_text(encoding="utf-8"))["scrape_configs"]
    monitor = yaml.safe_load((FOLDER / "podmonitor.yaml").read_text(encoding="utf-8"))
    (endpoint,) = monitor["spec"]["podMetricsEndpoints"]
    theirs = [
        {
            {"sourceLabels": "source_labels", "targetLabel": "target_label"}.get(key, key): value
            for key, value in one.items()
        }
        for one in endpoint["relabelings"]
    ]
    assert [one for one in plain_job["relabel_configs"] if one in theirs] == theirs
    # The Operator adds these itself, and leaves out pods that do not run.
    rest = [one for one in plain_job["relabel_configs"] if one not in theirs]
    assert {one.get("target_label") for one in rest} == {"namespace", "pod", None}
    assert endpoint["interval"] == plain_job["scrape_interval"]
    assert (monitor["kind"], endpoint["path"]) == ("PodMonitor", "/metrics")


def test_every_panel_asks_for_what_there_is(promcheck: Promcheck) -> None:
    """Each panel has targets, each of them is PromQL, and selects series and labels that are exposed."""
    targets = [(panel["title"], target["expr"]) for panel in panels() for target in panel["targets"]]
    expressions = promcheck.parse([plain(expr) for _, expr in targets])
    for (title, _), expression in zip(targets, expressions, strict=True):
        assert expression.type == "vector", title
        assert expression.metrics, title
        assert list(unknown(expression)) == [], title


def test_the_dashboard_is_one_that_grafana_reads() -> None:
    """Panels have numbers, titles, explanations and places that do not overlap; all ask the chosen data source."""
    assert {"title", "uid", "schemaVersion", "templating", "time", "panels"} <= set(DASHBOARD)
    assert "id" not in DASHBOARD
    assert len({panel["id"] for panel in panels()}) == len(panels())
    places: set[tuple[int, int]] = set()
    for panel in panels():
        assert panel["type"] in {"stat", "timeseries", "state-timeline", "table"}
        assert panel["title"]
        assert panel["description"]
        assert panel["datasource"] == {"type": "prometheus", "uid": "${datasource}"}
        assert [target["refId"] for target in panel["targets"]] == list("ABC"[: len(panel["targets"])])
        at = panel["gridPos"]
        covered = {(at["x"] + right, at["y"] + down) for right in range(at["w"]) for down in range(at["h"])}
        assert at["x"] + at["w"] <= 24
        assert not places & covered
        places |= covered
    variables = {variable["name"]: variable for variable in DASHBOARD["templating"]["list"]}
    assert set(variables) == {"datasource", "namespace", "name"}
    for name in ("namespace", "name"):
        (metric,) = re.findall(r"leader_election_\w+", variables[name]["query"]["query"])
        assert metric in SERIES


def test_the_dashboard_shows_every_counter() -> None:
    """Whatever is exposed is seen on it, but for what only alerts compare."""
    shown = {
        family(name)
        for panel in panels()
        for target in panel["targets"]
        for name in re.findall(r"leader_election_\w+", target["expr"])
    }
    assert set(SERIES) - shown == {"leader_election_group_elections", "leader_election_terms_total"}


def test_the_page_describes_files_alerts_and_queries(promcheck: Promcheck) -> None:
    """docs/metrics.md names every file and every alert with its severity, and its query is one that can be asked."""
    files = set(re.findall(r"^\| `([a-z_]+\.(?:yaml|json))` \|", PAGE, re.MULTILINE))
    assert files == {path.name for path in FOLDER.iterdir()}
    assert re.findall(r"^\| `(LeaderElection\w+)` \| (\w+) \|", PAGE, re.MULTILINE) == [
        (rule["alert"], rule["labels"]["severity"]) for rule in alerts()
    ]
    queries = re.findall(r"^```promql\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert [list(unknown(expression)) for expression in promcheck.parse(queries)] == [[]]


async def test_the_exposition_passes_prometheus_linter(
    promcheck: Promcheck, sidecars: Sidecars, embedded: EmbeddedForTests
) -> None:
    """The linter has nothing against what a running leader tells, and every family has something to say there."""
    leader = sidecars.start(
        election="example",
        identity="a",
        namespace=embedded.namespace(),
        kubeconfig=embedded.admin_kubeconfig,
        env={"NODE_NAME": "node-a"},
    )
    await leader.leading()
    text = (await leader.ask("/metrics")).body.decode()
    assert promcheck.lint(text) == []
    told = {
        found.name + ("_total" if found.type == "counter" else "") for found in text_string_to_metric_families(text)
    }
    assert told == set(SERIES)
