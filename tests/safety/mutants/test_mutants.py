"""The planted mistakes fit the code, the page tells of all of them, and the runner tells caught from survived."""

from __future__ import annotations

import difflib
import json
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any

import pytest

from tests.safety.mutants import report, tree
from tests.safety.mutants.__main__ import ALL_CAUGHT, FAILED, MISUSED, SOME_SURVIVED
from tests.safety.mutants.patches import PATCHES, find, read
from tests.safety.mutants.tree import PatchError

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from tests.safety.mutants.patches import Mutant

MUTANTS = find()
FEW = ("--amount", "explore=2000")
"""States that are enough for what a test plants."""


def run(*arguments: str) -> tuple[int, dict[str, Any], str]:
    """Call the runner, as `make mutants` does, and return its exit code, its report and its complaints."""
    ran = subprocess.run(
        [sys.executable, "-m", "tests.safety.mutants", "--json", *arguments],
        cwd=tree.ROOT,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    return ran.returncode, json.loads(ran.stdout) if ran.stdout else {}, ran.stderr


def planted(folder: Path, name: str, old: str, new: str) -> Sequence[str]:
    """Write a patch that changes a line of `sidecar/election.py`, and return the arguments to run it."""
    file = "sidecar/election.py"
    text = (tree.ROOT / file).read_text(encoding="utf-8")
    assert text.count(old) == 1
    before, after = (version.splitlines(keepends=True) for version in (text, text.replace(old, new)))
    diff = "".join(difflib.unified_diff(before, after, f"a/{file}", f"b/{file}"))
    folder.joinpath(f"{name}.patch").write_text(
        f"A mistake.\n\nRule: 5\nCaught by: explore\nExplore: endings\n\n{diff}"
    )
    return ("--patches", str(folder), *FEW)


# -- The patches -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mutant", MUTANTS, ids=[mutant.name for mutant in MUTANTS])
def test_a_patch_fits_the_code(mutant: Mutant) -> None:
    """Every patch applies to the tree as it is, to the letter, and changes the sidecar and nothing else."""
    assert all(module.startswith("sidecar.") and not module.startswith("sidecar.lab") for module in mutant.modules)
    assert mutant.modules
    tree.plant(mutant.file, tree.ROOT, only_check=True)


def test_every_rule_has_a_mutant() -> None:
    """Each of the nine rules is broken by at least one patch, and one that a harness is to catch."""
    broken = {mutant.rule for mutant in MUTANTS if mutant.harnesses != ("unit",)}
    assert broken == {str(number) for number in range(1, 10)}


def test_the_page_tells_of_every_mutant_and_of_no_other() -> None:
    """docs/mutants.md has one row for each patch, and none of them survived."""
    rows = report.recorded(report.PAGE.read_text(encoding="utf-8"))
    assert sorted(rows) == sorted(mutant.name for mutant in MUTANTS)
    caught = {name: re.split(r" (?<!\\)\| ", row)[2] for name, row in rows.items()}
    assert caught == {mutant.name: caught[mutant.name] for mutant in MUTANTS if caught[mutant.name] in mutant.harnesses}


def test_the_page_says_what_the_patches_say() -> None:
    """What a mistake is stands on the page as in the patch."""
    page = report.PAGE.read_text(encoding="utf-8")
    assert report.page((), MUTANTS, page) == page


@pytest.mark.parametrize(
    ("header", "complaint"),
    [
        ("Something.\n\nCaught by: explore\n\n", "a patch is prose"),
        ("Something.\n\nRule: 1\nCaught by: luck\n\n", "it names harnesses"),
        ("Something.\n\nRule: 1\nCaught by: simulate, explore\n\n", "it names harnesses"),
        ("Something.\n\nRule: 1\nCaught by: explore\nChaos: --faults stopped\n\n", "it names harnesses"),
    ],
    ids=["no rule", "no such harness", "not the cheapest first", "hint for another harness"],
)
def test_a_patch_that_does_not_say_enough_is_refused(tmp_path: Path, header: str, complaint: str) -> None:
    """A header that is incomplete, or would not do what it seems to say, is an error that names the file."""
    file = tmp_path / "vague.patch"
    file.write_text(f"{header}--- a/sidecar/election.py\n+++ b/sidecar/election.py\n")
    with pytest.raises(PatchError, match=rf"vague\.patch: {complaint}"):
        read(file)


# -- The runner --------------------------------------------------------------------------------------------------------


def test_a_mutant_is_caught() -> None:
    """A real mutant ends with exit code 0 and the sentence of what was found; the tree as it is survived before."""
    code, told, errors = run("revoked-after-release", "--harness", "explore", *FEW)
    assert (code, [one["ending"] for one in told["mutants"]]) == (ALL_CAUGHT, ["caught"]), errors
    (result,) = told["mutants"][0]["results"]
    assert result["sentence"]
    assert re.fullmatch(r"[\d,]+ states of [a-z-]+", result["effort"])


def test_a_survivor_is_named(tmp_path: Path) -> None:
    """A change that breaks nothing survives: exit code 1, with its name."""
    code, told, errors = run(*planted(tmp_path, "harmless", "the lock object has no record", "there is no record"))
    assert (code, [one["ending"] for one in told["mutants"]]) == (SOME_SURVIVED, ["survived"])
    assert "survived: harmless" in errors


def test_a_mutant_that_cannot_be_imported_is_not_caught(tmp_path: Path) -> None:
    """Where a patch breaks the module itself no harness has seen anything: the run has failed."""
    code, told, _ = run(*planted(tmp_path, "misspelt", "\nimport math\n", "\nimport maths\n"))
    assert (code, [one["ending"] for one in told["mutants"]]) == (FAILED, ["broken"])
    assert "maths" in told["mutants"][0]["results"][0]["sentence"]


def test_a_patch_that_does_not_fit_fails_the_run(tmp_path: Path) -> None:
    """Where the code has changed under a patch, the run says which one is to be written anew."""
    arguments = planted(tmp_path, "stale", "\nimport math\n", "\nimport maths\n")
    file = tmp_path / "stale.patch"
    file.write_text(file.read_text().replace("-import math\n", "-import what\n"))
    code, _, errors = run(*arguments)
    assert code == FAILED
    assert "stale.patch does not fit" in errors


def test_a_mutant_that_does_not_exist_is_a_mistake_of_the_caller() -> None:
    """A name that is not known ends with exit code 2, before anything runs."""
    code, _, errors = run("nobody")
    assert code == MISUSED
    assert "nobody" in errors


def test_the_working_tree_is_left_alone() -> None:
    """A mistake is planted in the copy, which goes, and not in the tree it was made of."""
    mutant = next(mutant for mutant in MUTANTS if mutant.name == "validity-by-timer")
    original = tree.ROOT / "sidecar/election.py"
    before = original.read_bytes()
    with tree.copy() as copy:
        tree.plant(mutant.file, copy)
        assert (copy / "sidecar/election.py").read_bytes() != before
        tree.require_imported(["sidecar.election"], copy)
    assert original.read_bytes() == before
    assert not copy.exists()
    assert PATCHES.is_dir()
