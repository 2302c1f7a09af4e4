"""How standings are shown: tables and bars to people, lines in a pipe, JSON to programs.

Holders call themselves what they like, so what others wrote is made printable before it reaches a terminal.
"""

from __future__ import annotations

import json
import sys
import time
from collections import deque
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from rich.console import Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from sidecar.lab.commandline import printable
from sidecar.lab.output import PIPE_COLUMNS, output_console
from sidecar.lab.standings import (
    DIVIDED,
    ENDPOINTS,
    HANDING_OVER,
    RAN_OUT,
    REMOVED,
    UNREADABLE,
    VACANT,
    by_group,
    loads,
    time_of,
)
from sidecar.record import CHECKING, LEADING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence

    from rich.console import Console, RenderableType

    from sidecar.lab.standings import Change, Key, Load, Observed, Standing

BAR_CELLS = 40
"""Characters of the longest bar."""

LEADER_CELLS = 3
"""Characters of a bar for one leader, as long as all of them fit."""

REDRAW_SECONDS = 0.2
"""From one picture to the next, at least."""

REMARKS = 3
"""That are kept in sight."""

_CAVEAT = (
    "FOR and RENEWED are by the times in the records and the clock of this machine. "
    "Whether a holder is still there, --watch can tell."
)
_UNKNOWN, _NONE = "?", "-"
_STATES = {RAN_OUT: "lease ran out"}
_STYLES = {
    LEADING: "green",
    CHECKING: "yellow",
    HANDING_OVER: "yellow",
    VACANT: "dim",
    RAN_OUT: "red",
    UNREADABLE: "red",
    DIVIDED: "red",
}


def age(seconds: float) -> str:
    """Return a time span by its two greatest units: `12s`, `3m20s`, `2d5h`."""
    if seconds < 0:
        return f"-{age(-seconds)}"
    whole = int(seconds)
    units = [(whole // 86400, "d"), (whole // 3600 % 24, "h"), (whole // 60 % 60, "m"), (whole % 60, "s")]
    while len(units) > 1 and not units[0][0]:
        del units[0]
    return "".join(f"{count}{unit}" for count, unit in units[:2] if count) or "0s"


# -- For people --------------------------------------------------------------------------------------------------------


def picture(
    standings: Iterable[Standing],
    *,
    console: Console,
    scope: str,
    now: datetime,
    unchanged: Mapping[Key, float | None] | None = None,
    everywhere: bool = False,
    lines: int | None = None,
) -> RenderableType:
    """Return tables of who leads what, each group's with a bar chart of its nodes, made for `console`.

    `scope` says which elections these are, `now` is this machine's clock. `unchanged` says for who looks on how many
    seconds ago a record was seen to change, `None` for not yet. `everywhere` shows namespaces. Which objects are locks
    is shown as soon as they are not all Endpoints. With `lines` the tables are cut so that about so many are filled.
    """
    groups = by_group(standings)
    locks = any(one.lock != ENDPOINTS for members in groups.values() for one in members)
    charts = {group: loads(members) for group, members in groups.items()}
    room = None if lines is None else lines - sum(len(chart) + 5 for chart in charts.values())
    parts: list[RenderableType] = []
    for group, members in groups.items():
        kept = members
        if room is not None:
            kept = _worth_most(members, max(1, room))
            room -= len(kept)
        arrow = _sign(console, "→", "->")
        rows = [_row(one, now, unchanged, everywhere=everywhere, locks=locks, arrow=arrow) for one in kept]
        where = "" if everywhere else f", namespace {printable(members[0].namespace)}"
        parts.append(Text(f"group {printable(group)}{where}" if group else f"no group{where}", style="bold"))
        parts.append(_table(rows, console))
        if len(kept) < len(members):
            parts.append(Text(f"and {len(members) - len(kept)} more", style="dim"))
        parts += [Text(f"{printable(one.election)}: {said(one)}", style="red") for one in kept if one.problem]
        if charts[group]:
            parts += [Text(), _chart(charts[group], console)]
        parts.append(Text())
    return Group(*parts) if parts else Text(f"no elections {scope}")


def _worth_most(members: list[Standing], room: int) -> list[Standing]:
    """Return as many as there is room for; what is in order is worth the least."""
    kept = sorted(members, key=lambda one: one.state == LEADING)[:room]
    return sorted(kept, key=lambda one: one.key)


def _sign(console: Console, sign: str, plain: str) -> str:
    return plain if console.options.ascii_only else sign


@dataclass(frozen=True, slots=True)
class _Row:
    names: Mapping[str, str]
    state: Text
    acquired: str
    held_for: str
    renewed: Text


def _row(
    standing: Standing,
    now: datetime,
    unchanged: Mapping[Key, float | None] | None,
    *,
    everywhere: bool,
    locks: bool,
    arrow: str,
) -> _Row:
    held = bool(standing.holder or standing.successor)
    names = {"NAMESPACE": standing.namespace} if everywhere else {}
    names["ELECTION"] = standing.election
    names["HOLDER"] = standing.holder or _NONE
    if standing.successor:
        names["HOLDER"] = f"{standing.holder} {arrow} {standing.successor}".strip()
    names["NODE"] = (standing.node or _UNKNOWN) if held else _NONE
    if locks:
        names["LOCK"] = standing.lock
    if unchanged is None:
        seconds, never = _age_of(standing.renewed, now), _NONE
    else:
        seconds, never = unchanged.get(standing.key), "not yet" if standing.holder else _NONE
    held_for = _age_of(standing.acquired, now)
    late = bool(standing.holder) and seconds is not None and seconds > standing.lease_seconds
    return _Row(
        names={heading: printable(name) for heading, name in names.items()},
        state=Text(_STATES.get(standing.state, standing.state), style=_STYLES[standing.state]).append(
            ", no claim" if standing.holder and not standing.claimed else ""
        ),
        acquired=_NONE if held_for is None else standing.acquired,
        held_for=_NONE if held_for is None else age(held_for),
        renewed=Text(never if seconds is None else f"{age(seconds)} ago", style="yellow" if late else ""),
    )


def _age_of(written: str, now: datetime) -> float | None:
    then = time_of(written)
    return None if then is None else (now - then).total_seconds()


def _table(rows: Sequence[_Row], console: Console) -> Table:
    """Return the table with the times since when, where there is room for them, or else only for how long."""
    whole = _columns(*rows[0].names, "STATE", "SINCE", "FOR", "RENEWED")
    brief = _columns(*rows[0].names, "STATE", "FOR", "RENEWED")
    for row in rows:
        names = [Text(name) for name in row.names.values()]
        whole.add_row(*names, row.state, Text(row.acquired), Text(row.held_for), row.renewed)
        brief.add_row(*names, row.state, Text(row.held_for), row.renewed)
    boundless = console.options.update(max_width=PIPE_COLUMNS)
    return whole if console.measure(whole, options=boundless).maximum <= console.width else brief


def _columns(*headings: str) -> Table:
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="dim", show_header=bool(headings))
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _chart(chart: Mapping[str, Load], console: Console) -> Table:
    """Return a bar for each node, as long as what is led there weighs; what is only arriving is shaded."""
    block, shade = _sign(console, "█", "#"), _sign(console, "░", "-")
    heaviest = max((load.weight for load in chart.values()), default=0)
    cells = min(LEADER_CELLS, BAR_CELLS / heaviest) if heaviest else 0
    table = _columns()
    for node, load in chart.items():
        led, arriving = _cells((load.weight - load.arriving_weight) * cells), _cells(load.arriving_weight * cells)
        bar = Text.assemble((block * led, "cyan"), (shade * arriving, "yellow"), " " if load.weight else "")
        table.add_row(Text(printable(node) if node else "unknown node"), bar.append(_figures(load)))
    return table


def _cells(length: float) -> int:
    return max(1, round(length)) if length else 0


def _figures(load: Load) -> str:
    figures = str(load.leading)
    if load.arriving:
        figures += f" + {load.arriving} arriving"
    if load.weight != load.leading + load.arriving:
        figures += f" (weight {load.weight})"
    return figures


def line(change: Change) -> str:
    """Return one line that says what has become of an election."""
    standing = change.standing
    name = f"{printable(standing.namespace)}/{printable(standing.election)}"
    return f"{name}  {'no lock object any more' if change.kind == REMOVED else said(standing)}"


def said(standing: Standing) -> str:
    """Say in a few words what an election has come to."""
    where = f" on {standing.node}" if standing.node else ", node unknown"
    match standing.state:
        case "unreadable":
            words = f"unreadable record: {standing.problem}"
        case "handing over":
            words = f"handing over to {standing.successor}{where}"
        case "divided":
            words = f"divided: {standing.problem}"
        case "vacant":
            words = "vacant"
        case state:
            words = f"{_STATES.get(state, state)}: {standing.holder}{where}"
            words += f", nominates {standing.successor}" if standing.successor else ""
            words += "" if standing.claimed else ", no claim"
    if standing.lock != ENDPOINTS:
        words += f" ({standing.lock})"
    return printable(words)


# -- For programs ------------------------------------------------------------------------------------------------------


def document(standings: Iterable[Standing], *, now: datetime) -> dict[str, Any]:
    """Return everything as one JSON object. `now` is this machine's clock; all other times are the records' own."""
    groups = by_group(standings)
    return {
        "time": now.isoformat(timespec="seconds"),
        "elections": [_fields(one) for members in groups.values() for one in members],
        "groups": [
            {
                "group": group or None,
                "nodes": [
                    {"node": node or None, "leading": load.leading, "arriving": load.arriving, "weight": load.weight}
                    for node, load in loads(members).items()
                ],
            }
            for group, members in groups.items()
        ],
    }


def event(change: Change, *, now: datetime) -> dict[str, Any]:
    """Return a change as one JSON object: what kind of change, and the election as it now is, or last was."""
    return {"time": now.isoformat(timespec="milliseconds"), "change": change.kind, **_fields(change.standing)}


def _fields(standing: Standing) -> dict[str, Any]:
    told = asdict(standing)
    del told["record"], told["version"], told["term"]
    told["candidate_nodes"] = sorted(standing.candidate_nodes)
    return {name: None if value == "" else value for name, value in told.items()}


# -- On standard output ------------------------------------------------------------------------------------------------


def show(standings: Sequence[Standing], remarks: Iterable[str], *, scope: str, everywhere: bool, as_json: bool) -> None:
    """Print who leads, and remarks to standard error. `scope` says which elections these are."""
    now = datetime.now(UTC)
    if as_json:
        sys.stdout.write(json.dumps(document(standings, now=now), indent=2) + "\n")
    else:
        console = output_console()
        with console.capture() as drawn:
            console.print(picture(standings, console=console, scope=scope, now=now, everywhere=everywhere))
            if any(one.holder for one in standings):
                console.print(Text(_CAVEAT, style="dim"))
        # Cells are filled up to the width of their column.
        sys.stdout.writelines(f"{drawn_line.rstrip()}\n" for drawn_line in drawn.get().splitlines())
    sys.stdout.flush()
    for text in remarks:
        _remark(text)


@contextmanager
def looking_on(observed: Observed, *, scope: str, everywhere: bool, as_json: bool) -> Iterator[Lines | LiveTable]:
    """Show what changes as long as the block runs: in a table on a terminal, in lines elsewhere, or as JSON lines."""
    console = output_console()
    if as_json:
        yield Lines(_json_line)
    elif console.is_terminal and not console.is_dumb_terminal:
        with Live(console=console, auto_refresh=False) as live:
            yield LiveTable(live, observed, scope=scope, everywhere=everywhere)
    else:
        yield Lines(_timed_line)


class Lines:
    """A line for everything that happens."""

    def __init__(self, line_of: Callable[[Change, datetime], str]) -> None:
        self._line_of = line_of

    def show(self, changes: Iterable[Change]) -> None:
        """Print what is news."""
        now = datetime.now(UTC)
        sys.stdout.writelines(f"{self._line_of(change, now)}\n" for change in changes if change.is_news)
        sys.stdout.flush()

    def remark(self, text: str) -> None:
        """Print it on standard error."""
        _remark(text)

    def redraw(self) -> None:
        """Do nothing: what was printed stays."""


class LiveTable:
    """The tables as they are now, and the last remarks."""

    def __init__(self, live: Live, observed: Observed, *, scope: str, everywhere: bool) -> None:
        self._live = live
        self._observed = observed
        self._scope = scope
        self._everywhere = everywhere
        self._remarks: deque[Text] = deque(maxlen=REMARKS)
        self._looked = False
        self._drawn_at = float("-inf")

    def show(self, changes: Iterable[Change]) -> None:
        """Draw the tables anew, soon."""
        self._looked = True
        if any(change.is_news for change in changes):
            self.redraw()

    def remark(self, text: str) -> None:
        """Keep it below the tables, with the time."""
        self._remarks.append(Text(f"{datetime.now(UTC):%H:%M:%SZ}  {printable(text)}", style="yellow"))
        self.redraw()

    def redraw(self) -> None:
        """Draw the tables, unless they have just been drawn."""
        now = time.monotonic()
        if not self._looked or now - self._drawn_at < REDRAW_SECONDS:
            return
        self._drawn_at = now
        console = self._live.console
        unchanged = {}
        for one in self._observed.standings:
            changed_at = self._observed.changed_at(one.key)
            unchanged[one.key] = None if changed_at is None else now - changed_at
        tables = picture(
            self._observed.standings,
            console=console,
            scope=self._scope,
            now=datetime.now(UTC),
            unchanged=unchanged,
            everywhere=self._everywhere,
            lines=console.height - REMARKS,
        )
        self._live.update(Group(tables, *self._remarks), refresh=True)


def _timed_line(change: Change, now: datetime) -> str:
    return f"{now:%Y-%m-%dT%H:%M:%SZ}  {line(change)}"


def _json_line(change: Change, now: datetime) -> str:
    return json.dumps(event(change, now=now))


def _remark(text: str) -> None:
    sys.stderr.write(f"electionctl: {printable(text)}\n")
    sys.stderr.flush()
