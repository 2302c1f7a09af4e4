"""Modules are imported when they are to be: late where Python can, and all before the candidate takes part."""

from __future__ import annotations

import asyncio
import importlib
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import sidecar
from sidecar import imports

if TYPE_CHECKING:
    from collections.abc import Sequence

LAZY = """
import sys
from sidecar import imports
imports.make_lazy()
import kubernetes_asyncio.client
from kubernetes_asyncio.client import Configuration
Configuration()
print(*(name for name in sys.modules if name.startswith("kubernetes_asyncio.client.")))
"""

UNUSED = ("kubernetes_asyncio.client.api.", "kubernetes_asyncio.client.models.")
"""Where the generated code is: more than 40 MiB, and not used here."""


@pytest.fixture
def modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that modules are imported from."""
    monkeypatch.syspath_prepend(tmp_path)
    return tmp_path


def write(folder: Path, **modules: str) -> None:
    """Write modules, by name."""
    for name, source in modules.items():
        (folder / f"{name}.py").write_text(source)


def loaded(program: str) -> list[str]:
    """Return what a program prints that a fresh interpreter runs."""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    return done.stdout.split()


@pytest.mark.parametrize("name", imports.NEEDED)
def test_what_is_loaded_in_advance_is_there(name: str) -> None:
    """With the versions that are locked, every module in the list is one."""
    assert importlib.import_module(name).__name__


def test_signals_are_heard_before_libraries_are_loaded() -> None:
    """The module whose `main` begins with the signals loads nothing before that takes time."""
    found = loaded("import sidecar.__main__, sys; print(*sys.modules)")

    assert not {"asyncio", "socket", "structlog", "aiohttp", "sidecar.settings"} & set(found)


def test_generated_code_is_not_loaded() -> None:
    """Where Python can, a client configuration is made without the models; before 3.15 everything is loaded."""
    found = loaded(LAZY)

    assert "kubernetes_asyncio.client.configuration" in found
    assert any(name.startswith(UNUSED) for name in found) == (sys.version_info < (3, 15))


async def test_everything_is_loaded_and_others_are_heard_meanwhile(
    modules: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After each module everybody else has a turn; a module that a library no longer has is passed over."""
    names = ["late_one", "late_missing", "late_two"]
    write(modules, **{names[0]: "", names[2]: ""})
    monkeypatch.setattr(imports, "NEEDED", names)
    turns: list[Sequence[str]] = []

    async def others() -> None:
        while True:
            turns.append([name for name in names if name in sys.modules])
            await asyncio.sleep(0)

    task = asyncio.create_task(others())
    await imports.complete()
    task.cancel()

    assert [names[0]] in turns
    assert [name for name in names if name in sys.modules] == [names[0], names[2]]


async def test_what_is_broken_is_not_passed_over(modules: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only a module that is not there may be missing; one that cannot be loaded is an error at the start."""
    write(modules, late_broken="from sys import nothing_of_the_kind")
    monkeypatch.setattr(imports, "NEEDED", ["late_broken"])

    with pytest.raises(ImportError):
        await imports.complete()


def test_the_version_is_the_projects() -> None:
    """The version that requests carry is the one in pyproject.toml."""
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]
    assert sidecar.__version__ == project["version"]
