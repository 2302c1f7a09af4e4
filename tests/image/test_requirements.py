"""The locked requirements install for every architecture that the image is built for."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.testbed.containers import mark

if TYPE_CHECKING:
    from tests.testbed.engine import Engine

ROOT = Path(__file__).parents[2]
DOCKERFILE = (ROOT / "Dockerfile").read_text()

ARCHITECTURES = {"amd64": "x86_64", "arm64": "aarch64"}
"""As images call them, and as wheels do."""

MANYLINUX = ("manylinux2014", "manylinux_2_17", "manylinux_2_28")
"""What wheels may ask of the C library; Debian's is newer."""

FROM_SOURCE = set(re.findall(r"--no-binary=(\S+)", DOCKERFILE))
"""Packages of which the image's build makes the wheel itself."""


def wheels_wanted() -> str:
    """Return the locked requirements, hashes and all, that the image's build installs as wheels."""
    locked = (ROOT / "requirements.txt").read_text()
    # A requirement begins a line; its hashes follow, indented.
    entries = re.findall(r"^\S.*\n(?:[ \t].*\n)*", locked, re.MULTILINE)
    return "".join(entry for entry in entries if entry.partition("==")[0] not in FROM_SOURCE)


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_there_is_a_wheel_of_everything(architecture: str, tmp_path: Path) -> None:
    """For the image's Python, each locked requirement has a wheel whose hash is in the lock."""
    (base,) = re.findall(r"^ARG BASE=python:(\d+\.\d+)-slim$", DOCKERFILE, re.MULTILINE)
    wanted = tmp_path / "requirements.txt"
    wanted.write_text(wheels_wanted())
    downloaded = subprocess.run(
        [
            *(sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--no-deps"),
            *("--require-hashes", "--only-binary=:all:", f"--python-version={base}", "--implementation=cp"),
            *(f"--platform={kind}_{ARCHITECTURES[architecture]}" for kind in MANYLINUX),
            *("--dest", str(tmp_path / "wheels"), "--requirement", str(wanted)),
        ],
        capture_output=True,
        text=True,
        check=False,
    )

    assert downloaded.returncode == 0, downloaded.stderr
    assert len(list((tmp_path / "wheels").glob("*.whl"))) == wanted.read_text().count("==")


def test_what_is_made_from_source_is_python_alone(engine: Engine, image_under_test: str) -> None:
    """Without a compiler in the build, PyYAML does without libyaml: its wheel is the same on every architecture."""
    assert {"pyyaml"} == FROM_SOURCE
    ((name, value),) = mark().items()
    told = engine.run(
        *("run", "--rm", f"--label={name}={value}", "--network=none", "--entrypoint=python3", image_under_test),
        *("-c", "import yaml; print(yaml.__version__, yaml.__with_libyaml__)"),
    )

    assert f"pyyaml=={told.split()[0]} " in (ROOT / "requirements.txt").read_text()
    assert told.split()[1] == "False"
