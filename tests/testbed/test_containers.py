"""Which containers, networks and volumes of tests are removed."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.testbed.containers import LABEL, mark, remove_remains
from tests.testbed.fakeengine import FakeEngine


class EngineWithThings(FakeEngine):
    """Has containers, by name with the value of their label."""

    def __init__(self, things: dict[str, str]) -> None:
        super().__init__()
        self.things = things

    def run(self, *arguments: str, seconds: float = 0) -> str:
        """List or remove them."""
        if arguments[0] == "ps":
            return "".join(f"{name} {value}\n" for name, value in self.things.items())
        return "" if "ls" in arguments else super().run(*arguments, seconds=seconds)


@pytest.fixture
def engine() -> EngineWithThings:
    """Serve an engine with things of this process, of one that is gone, of another one, and of others elsewhere."""
    with subprocess.Popen(["true"]) as ended:
        pass
    boot, namespace, pid, start = mark()[LABEL].split("/")
    return EngineWithThings(
        {
            "mine": f"{boot}/{namespace}/{pid}/{start}",
            "gone": f"{boot}/{namespace}/{ended.pid}/{start}",
            "reused": f"{boot}/{namespace}/{os.getppid()}/0",
            "in-another-container": f"{boot}/1/{ended.pid}/{start}",
            "on-another-machine": f"another/{namespace}/{ended.pid}/{start}",
            "unknown": "123-456",
        }
    )


def test_what_others_left(engine: EngineWithThings) -> None:
    """Things of processes that are gone are removed; what is judged by its number alone must be of this very place."""
    remove_remains(engine)
    assert engine.told == ["rm --force --volumes gone", "rm --force --volumes reused"]


def test_what_this_process_made(engine: EngineWithThings) -> None:
    """At the end only its own things are removed."""
    remove_remains(engine, mine=True)
    assert engine.told == ["rm --force --volumes mine"]
