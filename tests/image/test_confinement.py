"""The image under what careful clusters forbid: writing, capabilities, known users, a shell."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from tests.testbed.containers import HARDENED

if TYPE_CHECKING:
    from tests.image.conftest import Candidates
    from tests.testbed.monitored_election import LockObject


async def test_nothing_is_written_and_nothing_special_allowed(candidates: Candidates, lock: LockObject) -> None:
    """A read-only root without any tmpfs, no capabilities and no new privileges: it elects, and leaves in order."""
    container = candidates.start("web-0", **HARDENED)
    await container.leading()

    assert await container.terminate() == 0
    assert (await lock.record())["holderIdentity"] == ""


async def test_nothing_is_written_where_it_could_be(candidates: Candidates) -> None:
    """A container that may write into its file system leaves it as it was."""
    container = candidates.start("web-0")
    await container.leading()
    await container.terminate()

    # Docker makes the folders of mounts.
    assert [path for path in container.files_changed() if not path.startswith("/etc")] == []


@pytest.mark.parametrize("user", ["1234567:0", "1234567:7654321", "0:0"])
async def test_any_user(candidates: Candidates, user: str) -> None:
    """A user without an entry in passwd, as OpenShift picks one, and root as well: it elects all the same."""
    container = candidates.start("web-0", user=user, **HARDENED)

    await container.leading()


@pytest.mark.parametrize("entry_point", ["/server", "/app/server", "leader-elector"])
async def test_no_shell_is_needed(candidates: Candidates, entry_point: str) -> None:
    """Where /bin/sh is no program, every entry point but the shell script works."""
    container = candidates.start("web-0", entrypoint=entry_point, mounts={"/dev/null": "/bin/sh"})

    await container.leading()
    assert container.run("/bin/sh", "-c", "true")[0] != 0
