"""The rule that CI goes by when it says that every layer ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.testbed.layers import LAYERS, problems

if TYPE_CHECKING:
    from pathlib import Path

REAL = '<properties><property name="real" value="True"/></properties></testcase>'

COMPLETE = f"""
<testcase classname="tests.unit.test_record" name="test_bytes"/>
<testcase classname="tests.contract.test_watch.TestResume" name="test_resume[embedded-5]"/>
<testcase classname="tests.contract.test_watch.TestResume" name="test_resume[real-5]">{REAL}
<testcase classname="tests.safety.explore.test_explore" name="test_complete"/>
<testcase classname="tests.safety.chaos.test_chaos" name="test_every_fault">{REAL}
<testcase classname="tests.system.test_flags" name="test_help"/>
<testcase classname="tests.system.test_faults" name="test_sigstop">{REAL}
<testcase classname="tests.store.test_log" name="test_a_smaller_token_is_refused"/>
<testcase classname="tests.paper.test_report" name="test_medians"/>
<testcase classname="tests.testbed.test_proxy" name="test_cut"/>
<testcase classname="tests.image.test_contents" name="test_labels"/>
<testcase classname="tests.image.test_lifecycle" name="test_stop">{REAL}
<testcase classname="tests.cluster.test_example" name="test_elects"/>
"""


def report(folder: Path, cases: str) -> Path:
    """Write a report as pytest does."""
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


def test_a_run_of_all_layers_has_no_problem(tmp_path: Path) -> None:
    """One passed test in each layer is enough, and each is counted where it belongs."""
    passed, found = problems(report(tmp_path, COMPLETE))

    assert passed == dict.fromkeys(LAYERS, 1)
    assert found == []


@pytest.mark.parametrize("layer", LAYERS)
def test_a_missing_layer_is_a_problem(tmp_path: Path, layer: str) -> None:
    """Without a test that passed in each layer the run does not count, whatever else passed."""
    lines = dict(zip(LAYERS, COMPLETE.strip().splitlines(), strict=True))
    del lines[layer]

    assert problems(report(tmp_path, "".join(lines.values())))[1] == [f"no test of the layer {layer} passed"]


def test_a_layer_whose_tests_failed_did_not_run(tmp_path: Path) -> None:
    """A test that failed or broke does not stand for its layer."""
    broken = COMPLETE.replace('"test_sigstop">', '"test_sigstop"><error message="no server"/>')

    assert problems(report(tmp_path, broken))[1] == ["no test of the layer system-real passed"]


def test_a_skipped_test_is_a_problem(tmp_path: Path) -> None:
    """A skipped test is named with its reason."""
    skipped = '<testcase classname="tests.unit.test_record" name="test_zone"><skipped message="no zones"/></testcase>'

    found = problems(report(tmp_path, COMPLETE + skipped))[1]

    assert found == ["skipped: tests.unit.test_record::test_zone: no zones"]


def test_reports_are_one_run(tmp_path: Path) -> None:
    """What one report lacks, another may have."""
    lines = COMPLETE.strip().splitlines()
    (tmp_path / "containers").mkdir()

    found = problems(report(tmp_path, "".join(lines[:6])), report(tmp_path / "containers", "".join(lines[6:])))

    assert found == (dict.fromkeys(LAYERS, 1), [])
