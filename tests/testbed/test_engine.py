"""The search for a Docker Engine: which one is taken, and what is said where there is none."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from tests.testbed import commands
from tests.testbed import engine as engines
from tests.testbed.exclusive import try_lock

if TYPE_CHECKING:
    from pathlib import Path

CONTEXT = "unix:///of/the/context.sock"

# Stands in for docker: it answers for the hosts that stand in the file `alive` beside it.
DOCKER = f"""\
#!/bin/sh
case "$1" in
context) echo '"{CONTEXT}"' ;;
version) grep -qx "$DOCKER_HOST" "$(dirname "$0")/alive" || {{ echo "cannot connect to $DOCKER_HOST" >&2; exit 1; }} ;;
fail) echo one >&2; echo two >&2; exit 3 ;;
*) echo "$DOCKER_HOST $*" ;;
esac
"""


@pytest.fixture
def alive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Put a docker on PATH that reaches the hosts in this file; none of the machine's engines is seen."""
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "docker").write_text(DOCKER)
    (folder / "docker").chmod(0o755)
    (folder / "alive").touch()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.delenv(engines.ENVIRONMENT_HOST, raising=False)
    monkeypatch.setattr(engines, "LOCKS", tmp_path)
    return folder / "alive"


def test_the_engine_that_the_environment_names(alive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine named by DOCKER_HOST is taken, and its commands go there."""
    alive.write_text("tcp://there:1\n")
    monkeypatch.setenv(engines.ENVIRONMENT_HOST, "tcp://there:1")

    with engines.ensure() as engine:
        assert engine.host == "tcp://there:1"
        assert engine.run("ps", "--all") == "tcp://there:1 ps --all\n"


def test_an_engine_that_is_named_and_does_not_answer(alive: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other engine is taken in its place: the error names the variable and the reason."""
    alive.write_text(f"{CONTEXT}\n")
    monkeypatch.setenv(engines.ENVIRONMENT_HOST, "tcp://there:1")

    with pytest.raises(engines.EngineError, match=r"^DOCKER_HOST=tcp://there:1: .*cannot connect to tcp://there:1$"):
        engines.ensure()


def test_the_engine_of_docker_itself(alive: Path) -> None:
    """Without the variable it is the engine that the docker command talks to; libraries are told where that is."""
    alive.write_text(f"{CONTEXT}\n")

    with engines.ensure() as engine:
        assert engine.host == CONTEXT
        assert engine.environment[engines.ENVIRONMENT_HOST] == CONTEXT


def test_a_command_that_fails(alive: Path) -> None:
    """The error names the command and what it said."""
    alive.write_text(f"{CONTEXT}\n")

    with pytest.raises(engines.EngineError, match=r"^docker fail now: one \| two$"):
        engines.ensure().run("fail", "now")


@pytest.mark.usefixtures("alive")
def test_no_engine_and_not_root(monkeypatch: pytest.MonkeyPatch) -> None:
    """One line says why none answers, that only root may start one, and what to do."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(engines.NoEngineError) as error:
        engines.ensure()
    assert str(error.value) == (
        f"no Docker Engine answers (docker version: cannot connect to {CONTEXT}), and only root may start one; "
        f"{engines.INSTALL}"
    )


@pytest.mark.usefixtures("alive")
def test_no_engine_and_none_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Root is told which programs a private engine lacks."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(engines, "PROGRAMS", ("sh", "no-such-program"))

    with pytest.raises(engines.NoEngineError, match=r"not installed: no-such-program; start a Docker Engine"):
        engines.ensure()


def test_no_docker_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the docker command nothing can be asked, and the error says that."""
    monkeypatch.delenv(engines.ENVIRONMENT_HOST, raising=False)
    monkeypatch.setattr(commands, "path", lambda: str(tmp_path))
    monkeypatch.setattr(os, "geteuid", lambda: 1000)

    with pytest.raises(engines.NoEngineError, match="the docker command is not installed"):
        engines.ensure()


@pytest.mark.usefixtures("alive")
def test_every_private_engine_is_in_use(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More sessions than there are places for private engines: the error says so, and nothing is started."""
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(engines, "PROGRAMS", ("sh",))
    held = [try_lock(tmp_path / f"leader-elector-engine-{slot}.lock") for slot in range(engines.SLOTS)]

    with pytest.raises(engines.EngineError, match=f"{engines.SLOTS} private engines run already"):
        engines.ensure()
    for lock in held:
        assert lock is not None
        lock.close()
