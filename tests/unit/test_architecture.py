"""The structure of the repository holds: what imports what, what files are called, what every test says."""

from __future__ import annotations

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = [ROOT / "sidecar", ROOT / "tests"]

NOT_A_SUBJECT = {"utils", "util", "helpers", "helper", "common", "misc", "shared", "base", "tools"}
"""What a file is called that has no subject of its own."""

REGISTRIES = [
    ".".join(labels)
    for labels in (
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("proxy", "golang", "org"),
        ("crates", "io"),
        ("rubygems", "org"),
    )
]
"""Hosts of package registries. Which one is used is decided by whoever builds, with the tools' own settings."""


WRITTEN = ["[A-Z]*", "pyproject.toml", "requirements*.txt", ".ci/**/*", "docs/**/*", "sidecar/**/*", "tests/**/*"]
"""Where the files are that somebody wrote, rather than a tool; at the root, README.md, Makefile and their like."""


def written() -> list[Path]:
    """Return these files."""
    found = [path for pattern in WRITTEN for path in ROOT.glob(pattern)]
    return [path for path in found if path.is_file() and "__pycache__" not in path.parts]


def python_files() -> list[Path]:
    """Return our Python files."""
    return [path for folder in OURS for path in sorted(folder.rglob("*.py"))]


def test_imports_point_one_way() -> None:
    """import-linter's contracts in pyproject.toml hold."""
    linted = subprocess.run(
        [
            sys.executable,
            "-c",
            "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))",
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert linted.returncode == 0, linted.stdout + linted.stderr
    assert "0 broken" in linted.stdout


def test_every_module_of_the_sidecar_is_kept_from_the_lab() -> None:
    """The contract that keeps the lab out of the sidecar names every module of it: a new one cannot be forgotten."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["importlinter"]["contracts"]
    named = next(
        set(contract["source_modules"]) for contract in contracts if "never imports the lab" in contract["name"]
    )
    modules = {f"sidecar.{path.stem}" for path in (ROOT / "sidecar").glob("*.py")}
    assert modules - named == {"sidecar.__init__", "sidecar.ctl"} & modules


@pytest.mark.parametrize("path", python_files(), ids=lambda path: str(path.relative_to(ROOT)))
def test_every_file_has_a_subject(path: Path) -> None:
    """No file is called by what it is not about, and each says in its first line what it is about."""
    assert not NOT_A_SUBJECT & set(path.stem.split("_"))
    source = path.read_text()
    assert ast.get_docstring(ast.parse(source)) or not source.strip()


def test_every_test_says_what_must_hold() -> None:
    """Every test has a docstring."""
    silent = [
        f"{path.relative_to(ROOT)}:{node.lineno} {node.name}"
        for path in python_files()
        if path.name.startswith("test_")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.name.startswith("test_")
        and not ast.get_docstring(node)
    ]
    assert silent == []


def test_no_registry_is_named() -> None:
    """Nothing in the tree names the host of a package registry."""
    named = [
        f"{path.relative_to(ROOT)}: {host}"
        for path in written()
        for host in REGISTRIES
        if host.encode() in path.read_bytes()
    ]
    assert named == []
