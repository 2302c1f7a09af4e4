"""Companions: none of them is in the way of what they accompany."""

from __future__ import annotations

import asyncio
import re
from pathlib import Path
from typing import Any

import pytest
import structlog
import yaml

from sidecar.companions import FINISH_LIMIT, RESTART_SECONDS, accompanied
from sidecar.lab import virtualtime

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "operating.md"
RBAC = ROOT / "k8s" / "rbac" / "optional" / "rbac.yaml"
LOG: Any = structlog.wrap_logger(
    structlog.testing.CapturingLogger(), processors=[], wrapper_class=structlog.make_filtering_bound_logger(0)
)


class Member:
    """A companion that does what a test says."""

    name = "member"

    def __init__(self, *, breaks: bool = False, finishes: float = 0.0, fails: bool = False) -> None:
        self.runs = 0
        self.finished = self.cancelled = False
        self._breaks = breaks
        self._finishes = finishes
        self._fails = fails

    async def run(self) -> None:
        """See `Companion.run`."""
        self.runs += 1
        if self._breaks:
            raise RuntimeError("a defect")
        try:
            await asyncio.Event().wait()
        finally:
            self.cancelled = True

    async def finish(self) -> None:
        """See `Companion.finish`."""
        if self._fails:
            raise RuntimeError("a defect")
        await asyncio.sleep(self._finishes)
        self.finished = True


def test_they_run_for_as_long_as_the_block_takes() -> None:
    """Each is started, finishes, and is cancelled."""

    async def scene() -> None:
        members = [Member(), Member(finishes=FINISH_LIMIT / 2)]
        async with accompanied(members, LOG):
            await asyncio.sleep(1)
            assert [member.runs for member in members] == [1, 1]
        assert all(member.finished and member.cancelled for member in members)

    virtualtime.run(scene())


def test_a_defect_stays_its_own() -> None:
    """One that breaks is started again a minute later; others, and the block, go on, and the rest is finished."""

    async def scene() -> None:
        broken, other = Member(breaks=True, fails=True), Member()
        async with accompanied([broken, other], LOG):
            await asyncio.sleep(2.5 * RESTART_SECONDS)
        assert broken.runs == 3
        assert other.runs == 1
        assert other.finished

    virtualtime.run(scene())


def test_the_end_is_not_held_up() -> None:
    """All of them together have a second to finish; one that takes longer does not keep the others from it."""

    async def scene() -> None:
        slow, other = Member(finishes=60), Member(finishes=FINISH_LIMIT / 2)
        loop = asyncio.get_running_loop()
        async with accompanied([slow, other], LOG):
            began = loop.time()
        assert loop.time() - began == pytest.approx(FINISH_LIMIT, abs=0.01)
        assert other.finished
        assert slow.cancelled

    virtualtime.run(scene())


def test_what_the_block_fails_with_is_told() -> None:
    """A failure of what is accompanied ends the companions, and goes on to whoever started it."""

    async def scene() -> None:
        member = Member()

        async def fail() -> None:
            async with accompanied([member], LOG):
                await asyncio.sleep(1)
                raise RuntimeError("a defect")

        with pytest.raises(BaseExceptionGroup):
            await fail()
        assert member.cancelled

    virtualtime.run(scene())


def test_the_page_and_the_file_name_the_same_permissions() -> None:
    """What docs/operating.md says each companion needs is what k8s/rbac/optional allows, and nothing else."""
    rows = re.findall(
        r"^\|[^|]*\|[^|]*\| ((?:`[a-z]+`[^|]*) on `[a-z]+`)", PAGE.read_text(encoding="utf-8"), re.MULTILINE
    )
    told = set()
    for row in rows:
        *verbs, resource = re.findall(r"`([a-z]+)`", row)
        told |= {(resource, verb) for verb in verbs}
    allowed = {
        (resource, verb)
        for document in yaml.safe_load_all(RBAC.read_text(encoding="utf-8"))
        for rule in document.get("rules", [])
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert told == allowed
