"""A copy of the tree: where mistakes are planted, so that the tree itself never has one."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

ROOT = Path(__file__).parents[3]
COPIED = ("sidecar", "tests", "pyproject.toml")
SECONDS = 60.0
"""That an import, or a patch, may take."""


class PatchError(Exception):
    """A patch file is not what it should be, or does not fit; the message is one line."""


@contextmanager
def copy(root: Path = ROOT) -> Iterator[Path]:
    """Yield a copy of what the harnesses need; it is removed after the block."""
    with tempfile.TemporaryDirectory(prefix="leader-elector-mutant-") as folder:
        tree = Path(folder, "tree")
        for name in COPIED:
            if (root / name).is_dir():
                shutil.copytree(root / name, tree / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy2(root / name, tree / name)
        yield tree


def plant(patch: Path, tree: Path, *, only_check: bool = False) -> None:
    """Apply a patch to a tree. Raises PatchError where it does not fit, to the letter."""
    command = ["git", "apply", *(["--check"] if only_check else []), str(patch)]
    # A repository around the tree would have git look for the files there.
    alone = {**os.environ, "GIT_CEILING_DIRECTORIES": str(tree.parent)}
    applied = subprocess.run(command, cwd=tree, env=alone, capture_output=True, text=True, timeout=SECONDS, check=False)
    if applied.returncode:
        reason = " ".join(applied.stderr.split())
        raise PatchError(f"{patch.name} does not fit the code any more: {reason}; write it anew")


def environment(tree: Path) -> Mapping[str, str]:
    """Return the environment in which this process's Python, and the processes that it starts, import the copy."""
    return {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1"}


def require_imported(modules: Sequence[str], tree: Path) -> None:
    """Raise PatchError unless these modules can be imported, and are the copy's."""
    code = "import importlib, sys\nfor name in sys.argv[1:]: print(importlib.import_module(name).__file__)"
    # In another folder: what the environment says has to be enough for whatever a harness starts elsewhere.
    imported = subprocess.run(
        [sys.executable, "-c", code, *modules],
        cwd=tree.parent,
        env=environment(tree),
        capture_output=True,
        text=True,
        timeout=SECONDS,
        check=False,
    )
    if imported.returncode:
        raise PatchError(f"cannot be imported: {imported.stderr.strip().rpartition(chr(10))[2]}")
    if strangers := [file for file in imported.stdout.split("\n") if file and not Path(file).is_relative_to(tree)]:
        raise PatchError(f"not the copy was imported, but {', '.join(strangers)}")
