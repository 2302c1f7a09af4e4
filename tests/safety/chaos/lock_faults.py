"""Faults of the lock object: an administrator's hand, and strangers who write on it without end.

What nobody promises to survive is left out: an administrator who says in a leader's name that its lease is over, or
shorter than it was.
"""

from __future__ import annotations

import json
import signal
import sys
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION
from tests.safety.chaos import writers
from tests.safety.chaos.faults import Fault, MissedError
from tests.safety.chaos.fleet import TREE
from tests.testbed import processes
from tests.testbed.sidecar import environment

if TYPE_CHECKING:
    import subprocess

MERGE = "application/merge-patch+json"


class _OfLock(Fault):
    """A fault of the lock object; most are over as soon as they were done."""

    traits = frozenset({"lock"})
    leases = (0.0, 0.0)

    async def annotate(self, annotations: dict[str, str | None]) -> None:
        """Put these annotations on the lock object, or with None take them off. Raises APIError or OSError."""
        path = self.stage.lock(self.election)
        self.target = self.election
        await self.stage.request("PATCH", path, {"metadata": {"annotations": annotations}}, content_type=MERGE)

    async def record(self) -> dict[str, Any]:
        """Return the leader election record. Raises APIError, OSError, or MissedError where there is none."""
        found = await self.stage.request("GET", self.stage.lock(self.election))
        text = (found["metadata"].get("annotations") or {}).get(RECORD_ANNOTATION)
        record: dict[str, Any] | None = None
        with suppress(ValueError):
            record = json.loads(text or "")
        if not isinstance(record, dict) or not record.get("holderIdentity"):
            raise MissedError("there is no record of a holder to edit")
        return record


class Edited(_OfLock):
    """The record is edited by hand: another holder, other times, another count, or its claim is gone."""

    name = "record-edited"

    async def _begin(self) -> None:
        edits: tuple[dict[str, Any], ...] = (
            {"holderIdentity": "somebody-else"},
            {"renewTime": "2020-01-01T00:00:00Z"},
            {"renewTime": None, "acquireTime": None},
            {"leaderTransitions": 2**40},
            {"unknown": [1]},
        )
        number = int(self.planned.luck * (len(edits) + 1))
        if number == len(edits):
            await self.annotate({CLAIM_ANNOTATION: None})
        else:
            await self.annotate({RECORD_ANNOTATION: json.dumps({**await self.record(), **edits[number]})})


class Garbage(_OfLock):
    """The record is replaced by what cannot be read."""

    name = "garbage-written"

    async def _begin(self) -> None:
        texts = ("{not a record", "", "null", '{"holderIdentity": 7}', "[" * 100_000, "\u0000\ufffd" * 50)
        await self.annotate({RECORD_ANNOTATION: texts[int(self.planned.luck * len(texts))]})


class Stripped(_OfLock):
    """The record is taken off the lock object, with or without its claim."""

    name = "record-stripped"
    traits = frozenset({"lock", "vacates"})

    async def _begin(self) -> None:
        claim: dict[str, str | None] = {CLAIM_ANNOTATION: None} if self.planned.luck < 1 / 2 else {}
        await self.annotate({RECORD_ANNOTATION: None, **claim})


class Deleted(_OfLock):
    """The lock object is deleted."""

    name = "object-deleted"
    traits = frozenset({"lock", "vacates"})

    async def _begin(self) -> None:
        self.target = self.election
        await self.stage.request("DELETE", self.stage.lock(self.election))


class Writers(_OfLock):
    """Dozens of strangers write unrelated annotations on the lock object as fast as they can; most of it conflicts."""

    name = "conflicting-writers"
    leases = (1.5, 3.0)
    _process: subprocess.Popen[bytes] | None = None

    async def _begin(self) -> None:
        self.target = self.election
        server = self.stage.server
        if server.admin_token is None:
            raise MissedError("the writers need the administrator's token")
        variables = {writers.TOKEN: server.admin_token, "PYTHONPATH": str(TREE)}
        number = sum(1 for _ in self.stage.folder.glob("writers-*.log"))
        self._log = self.stage.folder / f"writers-{number}.log"
        self._process = processes.start(
            [sys.executable, "-m", writers.__name__, server.url + self.stage.lock(self.election), str(server.ca_file)],
            log=self._log,
            env=environment(self.stage.folder, variables),
        )

    async def _end(self) -> None:
        if self._process is None:
            return
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        told = processes.tail(self._log, lines=1)
        self.writes = int(told) if told.isdecimal() else 0
