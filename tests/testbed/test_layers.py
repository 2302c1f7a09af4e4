"""The rule that CI goes by when it says that every layer ran."""

from __future__ import annotations

from typing import TYPE_CHECKING

from tests.testbed.layers import layer, problems

if TYPE_CHECKING:
    from pathlib import Path

COMPLETE = """
<testcase classname="tests.unit.test_record" name="test_bytes"/>
<testcase classname="tests.contract.test_watch.TestResume" name="test_resume[embedded-5]"/>
<testcase classname="tests.contract.test_watch.TestResume" name="test_resume[real-5]"/>
<testcase classname="tests.system.test_faults" name="test_sigstop"/>
"""


def report(folder: Path, cases: str) -> Path:
    """Write a report as pytest does."""
    path = folder / "report.xml"
    path.write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
    return path


def test_a_run_of_all_layers_has_no_problem(tmp_path: Path) -> None:
    """One passed test in each layer is enough, and each is counted where it belongs."""
    passed, found = problems(report(tmp_path, COMPLETE))

    assert passed == {"unit": 1, "contract-embedded": 1, "contract-real": 1, "system": 1}
    assert found == []


def test_a_missing_layer_is_a_problem(tmp_path: Path) -> None:
    """Without a test that passed on the real server the run does not count, whatever else passed."""
    only_embedded = "\n".join(line for line in COMPLETE.splitlines() if "[real" not in line)

    assert problems(report(tmp_path, only_embedded))[1] == ["no test of the layer contract-real passed"]


def test_a_layer_whose_tests_failed_did_not_run(tmp_path: Path) -> None:
    """A test that failed or broke does not stand for its layer."""
    broken = COMPLETE.replace('"test_sigstop"/>', '"test_sigstop"><error message="no server"/></testcase>')

    assert problems(report(tmp_path, broken))[1] == ["no test of the layer system passed"]


def test_a_skipped_test_is_a_problem(tmp_path: Path) -> None:
    """A skipped test is named with its reason."""
    skipped = '<testcase classname="tests.unit.test_record" name="test_zone"><skipped message="no zones"/></testcase>'

    found = problems(report(tmp_path, COMPLETE + skipped))[1]

    assert found == ["skipped: tests.unit.test_record::test_zone: no zones"]


def test_only_a_whole_parameter_names_the_server() -> None:
    """A parameter that only contains the word `real` does not make a test one of the real server."""
    assert layer("tests.contract.test_errors", "test_wording[realm]") == "contract"
