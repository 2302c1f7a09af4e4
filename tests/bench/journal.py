"""The runs that were carried out, a line of JSON each, so that an interrupted series is not lost."""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict
from typing import TYPE_CHECKING

from tests.bench.outcome import Run

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path


class JournalError(Exception):
    """A journal cannot be read; the message is one line."""


class Journal:
    """The runs of one command under one set of conditions, in a file that may hold others as well."""

    def __init__(self, path: Path, conditions: Mapping[str, object]) -> None:
        self._path = path
        self._conditions = dict(conditions)

    def runs(self) -> dict[int, Run]:
        """Return the last run of each seed under these conditions, but for those that failed. Raises JournalError."""
        if not self._path.exists():
            return {}
        found: dict[int, Run] = {}
        for number, line in enumerate(self._path.read_text().splitlines(), 1):
            try:
                entry = json.loads(line)
                if entry["conditions"] == self._conditions:
                    found[entry["run"]["seed"]] = Run(**entry["run"])
            except (ValueError, KeyError, TypeError) as error:
                raise JournalError(f"{self._path}, line {number}: not a run ({error!r})") from error
        return {seed: run for seed, run in found.items() if not run.problem}

    def append(self, run: Run) -> None:
        """Add a run. Raises OSError."""
        with self._path.open("a") as file:
            file.write(json.dumps({"conditions": self._conditions, "run": asdict(run)}) + "\n")


def fingerprint(folder: Path) -> str:
    """Return what is the same as long as the Python modules in a folder, not those below it, are the same.

    It needs no version control, and changes with what is not committed too. Raises OSError.
    """
    digests = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.glob("*.py")}
    return hashlib.sha256(json.dumps(digests, sort_keys=True).encode()).hexdigest()
