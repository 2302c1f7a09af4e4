"""Says whether every layer of the tests ran, from pytest's JUnit XML report: `python -m tests.testbed.layers REPORT`.

A suite can be green because half of it was not there. Status 1 when a layer passed no test, or when a test was skipped.
"""

from __future__ import annotations

import sys
import xml.etree.ElementTree as ET
from collections import Counter
from pathlib import Path

LAYERS = ("unit", "contract-embedded", "contract-real", "system")


def layer(classname: str, name: str) -> str:
    """Return the layer of one test: the folder under `tests`, and for contract tests the server that they ran on."""
    folder = [*classname.split("."), ""][1]
    parameters = name.partition("[")[2].rstrip("]").split("-")
    server = next((server for server in ("embedded", "real") if server in parameters), None)
    return f"{folder}-{server}" if folder == "contract" and server else folder


def problems(report: Path) -> tuple[Counter[str], list[str]]:
    """Count the tests that passed by layer, and list what is wrong with the run, one line each."""
    passed: Counter[str] = Counter()
    found: list[str] = []
    for case in ET.parse(report).iter("testcase"):  # noqa: S314 - pytest wrote it a moment ago
        name = f"{case.get('classname')}::{case.get('name')}"
        skipped = case.find("skipped")
        if skipped is not None:
            found.append(f"skipped: {name}: {skipped.get('message')}")
        elif case.find("failure") is None and case.find("error") is None:
            passed[layer(case.get("classname", ""), case.get("name", ""))] += 1
    found += [f"no test of the layer {name} passed" for name in LAYERS if not passed[name]]
    return passed, found


def main() -> int:
    """Print the passed tests by layer; on stderr, what is wrong."""
    passed, found = problems(Path(sys.argv[1]))
    sys.stdout.write(f"layers: {', '.join(f'{name} {count}' for name, count in sorted(passed.items()))}\n")
    sys.stderr.writelines(f"error: {problem}\n" for problem in found)
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
