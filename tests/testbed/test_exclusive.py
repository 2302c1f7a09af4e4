"""Locks between processes."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

from tests.testbed.exclusive import exclusive, try_lock

if TYPE_CHECKING:
    from pathlib import Path

    import pytest


def test_one_holder_at_a_time(tmp_path: Path) -> None:
    """A lock that is held is not given out, and is free again once it was closed."""
    path = tmp_path / "folder" / "lock"
    first = try_lock(path)
    assert first is not None
    assert try_lock(path) is None

    first.close()
    again = try_lock(path)
    assert again is not None
    again.close()


def test_waiting_is_announced(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """Who has to wait says for what, and goes on when the lock is free."""
    path = tmp_path / "lock"
    held = try_lock(path)
    assert held is not None
    got = threading.Event()

    def wait() -> None:
        with exclusive(path):
            got.set()

    thread = threading.Thread(target=wait)
    thread.start()
    assert not got.wait(0.1)
    held.close()
    thread.join(10)
    assert got.is_set()
    assert capfd.readouterr().err == f"waiting for another process that holds {path} ...\n"
