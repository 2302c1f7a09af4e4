"""What happens to elections, as it happens: a line, or an object, for each change of who leads."""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from sidecar.lab.commandline import printable
from sidecar.lab.leaders import Leaders, Scope
from sidecar.lab.standings import BOTH, DIVIDED, HANDING_OVER, RAN_OUT, REMOVED, UNREADABLE, VACANT, Observed
from sidecar.record import CHECKING, LEADING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from sidecar.lab.reach import Reached
    from sidecar.lab.standings import Change, Key, Standing

ABSENT, GONE = "absent", "gone"
"""What an election is that nobody has stood for, and one whose lock object was deleted."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """What an election has come to."""

    namespace: str
    election: str
    lock: str = ""
    event: str
    """`leading`, `checking`, `handing over`, `vacant`, `ran out`, `unreadable`, `divided`, `absent` or `gone`."""
    leader: str = ""
    """Who leads; `""` when nobody does."""
    holder: str = ""
    node: str = ""
    """The holder's, or the successor's."""
    since: str = ""
    """When the term began, by the clock of who began it."""
    fencing_token: int = 0
    """0 as long as it is not known."""
    successor: str = ""
    before: str = ""
    """Who led last, as far as that was seen."""
    problem: str = ""

    def __str__(self) -> str:
        return printable(f"{self.namespace}/{self.election}  {self._said()}")

    def _said(self) -> str:
        holder = f"{self.holder} on {self.node}" if self.node else f"{self.holder}, node unknown"
        before = f", after {self.before}" if self.before and self.before != self.holder else ""
        match self.event:
            case "leading":
                token = f", fencing token {self.fencing_token}" if self.fencing_token else ""
                successor = f", nominates {self.successor}" if self.successor else ""
                since = f" since {self.since}" if self.since else ""
                return f"{holder} leads{since}{token}{before}{successor}"
            case "checking":
                return f"{holder} holds the lock and checks whether it is to lead{before}"
            case "handing over":
                node = f" on {self.node}" if self.node else ""
                return f"{self.before or 'the leader'} hands over to {self.successor}{node}"
            case "vacant":
                return f"vacant: {self.before} gave it up" if self.before else "vacant"
            case "ran out":
                return f"nobody leads: the lease of {holder} ran out"
            case "unreadable" | "divided":
                return f"{self.event}: {self.problem}"
            case "absent":
                return "no lock object yet"
        return "no lock object any more"


class Journal:
    """Makes entries of changes; what was told already is not told again. Pure."""

    def __init__(self) -> None:
        self._last: dict[Key, Entry] = {}
        self._seen: dict[Key, Standing] = {}

    def entries(self, changes: Iterable[Change], *, listed: bool) -> list[Entry]:
        """Return what is to be told of these changes; `listed` ones came of a list, and others may have been missed."""
        told = []
        for change in changes:
            key = change.standing.key
            last = self._last.get(key)
            entry = _entry(change, last.leader or last.before if last is not None else "")
            if entry.event == LEADING:
                entry = replace(entry, fencing_token=self._token(change.standing, listed=listed))
            if last is None or _essence(entry) != _essence(last):
                told.append(entry)
            self._last[key], self._seen[key] = entry, change.standing
        return told

    def _token(self, standing: Standing, *, listed: bool) -> int:
        """Return the fencing token of a leader, 0 as long as it is not known.

        It is the version of the first write that says that it leads. The claim has it from the first renewal on.
        """
        if not standing.claimed:
            return 0
        last, entry = self._seen.get(standing.key), self._last.get(standing.key)
        if last is not None and entry is not None and last.state == LEADING and _term(last) == _term(standing):
            if entry.fencing_token:
                return entry.fencing_token
            # The record of a registration is the one before; another one is a renewal.
            return standing.term if last.record != standing.record else 0
        return standing.version if not listed and standing.lock != BOTH else 0


def _term(standing: Standing) -> tuple[str, str]:
    return standing.holder, standing.acquired


class Sights(Observed):
    """What was seen, and whether the last of it was a list: between two lists something may have been missed."""

    def __init__(self) -> None:
        super().__init__()
        self.listed = False

    def see(self, standing: Standing, now: float) -> Change:
        """See `Observed.see`."""
        self.listed = False
        return super().see(standing, now)

    def lose(self, key: Key) -> Change | None:
        """See `Observed.lose`."""
        self.listed = False
        return super().lose(key)

    def see_all(self, standings: Iterable[Standing], *, asked_at: float, now: float) -> list[Change]:
        """See `Observed.see_all`."""
        changes = super().see_all(standings, asked_at=asked_at, now=now)
        self.listed = True
        return changes


def _essence(entry: Entry) -> Entry:
    return replace(entry, before="", lock="")


def _entry(change: Change, before: str) -> Entry:
    standing = change.standing
    entry = Entry(
        namespace=standing.namespace, election=standing.election, lock=standing.lock, event=GONE, before=before
    )
    if change.kind == REMOVED:
        return entry
    entry = replace(entry, event=standing.state, problem=standing.problem)
    match standing.state:
        case state if state in (VACANT, UNREADABLE, DIVIDED):
            return entry
        case state if state == HANDING_OVER:
            return replace(entry, node=standing.node, successor=standing.successor)
        case state if state in (LEADING, CHECKING, RAN_OUT):
            return replace(
                entry,
                leader=standing.holder if state == LEADING else "",
                holder=standing.holder,
                node=standing.node,
                since=standing.acquired,
                successor=standing.successor,
            )
    return entry


class Printed:
    """Prints entries: of one election, or where that is `""` of all. A `View` of `Leaders`."""

    def __init__(self, scope: Scope, sights: Sights, *, election: str, as_json: bool) -> None:
        self._scope = scope
        self._sights = sights
        self._election = election
        self._as_json = as_json
        self._journal = Journal()
        self._began = False

    def show(self, changes: Sequence[Change]) -> None:
        """Print what is new of it."""
        mine = [one for one in changes if not self._election or one.standing.election == self._election]
        entries = self._journal.entries(mine, listed=self._sights.listed)
        if self._election and not self._began and not mine:
            entries = [Entry(namespace=self._scope.namespace, election=self._election, event=ABSENT)]
        self._began = True
        for entry in entries:
            sys.stdout.write(f"{self._line(entry)}\n")
        sys.stdout.flush()

    def _line(self, entry: Entry) -> str:
        now = datetime.now(UTC)
        if not self._as_json:
            return f"{now:%Y-%m-%dT%H:%M:%SZ}  {entry}"
        fields = {name: None if value in ("", 0) else value for name, value in asdict(entry).items()}
        return json.dumps({"time": now.isoformat(timespec="milliseconds"), **fields})

    def remark(self, text: str) -> None:
        """Print it on standard error."""
        sys.stderr.write(f"electionctl: {printable(text)}\n")
        sys.stderr.flush()

    def redraw(self) -> None:
        """Do nothing: what was printed stays."""


async def follow(reached: Reached, *, election: str, as_json: bool) -> None:
    """Print what happens until cancelled. Raises `CommandError`, and `ApiError` at first."""
    scope = Scope(namespace=reached.namespace)
    sights = Sights()
    view = Printed(scope, sights, election=election, as_json=as_json)
    await Leaders(reached.kube, scope, remark=view.remark).follow(view, sights)
