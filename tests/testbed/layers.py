"""Says whether every layer of the tests ran, from pytest's JUnit XML: `python -m tests.testbed.layers REPORT...`.

A suite can be green because half of it was not there. Status 1 when a layer passed no test, or when a test was skipped.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

LAYERS = (
    "unit",
    "contract",
    "contract-real",
    "safety",
    "safety-real",
    "system",
    "system-real",
    "store",
    "paper",
    "testbed",
    "image",
    "image-real",
    "cluster",
)

REAL_PROPERTY = "real"
"""The property, in the report, of a test that needs a real API server or a program built with Go."""


def layer(case: ET.Element) -> str:
    """Return the layer of one test: the folder under `tests`, and whether it needs a real server."""
    folder = [*case.get("classname", "").split("."), ""][1]
    real = case.find(f"properties/property[@name='{REAL_PROPERTY}']") is not None
    return f"{folder}-real" if real else folder


def problems(*reports: Path) -> tuple[Counter[str], list[str]]:
    """Count the tests that passed by layer, and list what is wrong with the runs, one line each."""
    passed: Counter[str] = Counter()
    found: list[str] = []
    for case in chain.from_iterable(map(_cases, reports)):
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is not None:
            found.append(f"skipped: {name}: {skipped.get('message')}")
        elif case.find("failure") is None and case.find("error") is None:
            passed[layer(case)] += 1
    found += [f"no test of the layer {name} passed" for name in LAYERS if not passed[name]]
    return passed, found


def _cases(report: Path) -> Iterator[ET.Element]:
    return ET.parse(report).iter("testcase")  # noqa: S314 - pytest wrote it a moment ago


def main() -> int:
    """Print the passed tests by layer; on stderr, what is wrong."""
    passed, found = problems(*map(Path, sys.argv[1:]))
    sys.stdout.write(f"layers: {', '.join(f'{name} {count}' for name, count in sorted(passed.items()))}\n")
    sys.stderr.writelines(f"error: {problem}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
