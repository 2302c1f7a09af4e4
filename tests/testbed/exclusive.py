"""Locks between processes that share the cache. One is given up when its holder ends, by whatever cause."""

from __future__ import annotations

import contextlib
import fcntl
from typing import TYPE_CHECKING

from tests.testbed.progress import progress

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import TextIO


@contextlib.contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock of a file, which is made with its folder; waits for it, and says so on stderr when it must."""
    held = try_lock(path)
    if held is None:
        progress(f"waiting for another process that holds {path} ...")
        held = path.open("w")
        fcntl.flock(held, fcntl.LOCK_EX)
    with held:
        yield


def try_lock(path: Path) -> TextIO | None:
    """Lock a file, which is made with its folder: it is held until it is closed. None when another holds it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    file = path.open("w")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        return None
    return file
