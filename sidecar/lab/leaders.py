"""Who leads what, read from the API server: once, or again with every change.

Nothing is written, and only Endpoints or Leases have to be readable: `list`, and `watch` for who looks on. Where pods
may be read, they tell the nodes of holders that do not say themselves where they are: candidates of the stock image.
"""

from __future__ import annotations

import asyncio
import random
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Protocol

from sidecar import settings
from sidecar.kube import ApiError, ForbiddenError, GoneError, NotFoundError
from sidecar.lab import board
from sidecar.lab.commandline import CommandError
from sidecar.lab.standings import (
    ENDPOINTS,
    LEASES,
    Observed,
    Standing,
    combined,
    key_of,
    standing_of,
    standing_of_lease,
)
from sidecar.record import GROUP_LABEL

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager
    from typing import Any, NoReturn

    from sidecar.kube import KubeClient, Listing, WatchEvent
    from sidecar.lab.reach import Reached
    from sidecar.lab.standings import Change, Key

LOOK_SECONDS = 60.0
"""For all the requests of one look: the pages of a list, and pods."""

WATCH_SECONDS = 600
"""For one watch; then everything is listed anew."""

WATCH_GRACE = 30.0
"""Seconds beyond that until a watch that the API server does not end is ended here."""

CHECK_SECONDS = 0.5
"""Between two checks for leases that have run out, and two redraws."""

SHORTEST_PAUSE, LONGEST_PAUSE = 1.0, 30.0
"""Seconds from one list to the next, at least; twice as long each time while watches come to nothing."""

POD_LIMIT = 500
"""Pods that are read in one look."""

PODS_AT_ONCE = 8

TERM_LIMIT = 10_000
"""Holders whose nodes are remembered."""

_NAMED = 3
"""Namespaces that a remark names."""

_NAMES = {ENDPOINTS: "Endpoints", LEASES: "Leases"}

_Term = tuple[str, str, str]
"""A namespace, a holder there, and since when it holds its lock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """Which elections: of one namespace, or of all where that is `""`; of one group, or any and none where that is."""

    namespace: str
    group: str = ""

    def path(self, lock: str) -> str:
        """Return the collection that their lock objects of a kind are in."""
        api = {ENDPOINTS: "/api/v1", LEASES: "/apis/coordination.k8s.io/v1"}[lock]
        return f"{api}/namespaces/{self.namespace}/{lock}" if self.namespace else f"{api}/{lock}"

    @property
    def label(self) -> str:
        """The label selector that finds them."""
        return f"{GROUP_LABEL}={self.group}" if self.group else ""

    def fields(self, lock: str) -> str:
        """Return the field selector that leaves out what is never theirs: a Lease for every node of a cluster."""
        return "metadata.namespace!=kube-node-lease" if lock == LEASES and not self.namespace else ""

    def __str__(self) -> str:
        where = f"in namespace {self.namespace}" if self.namespace else "in any namespace"
        return f"of group {self.group} {where}" if self.group else where


class View(Protocol):
    """Who is told what changes."""

    def show(self, changes: Sequence[Change]) -> None:
        """Take in what has changed."""
        ...

    def remark(self, text: str) -> None:
        """Take in what is to be said beside it: what could not be read, and why."""
        ...

    def redraw(self) -> None:
        """Take note that time has passed."""
        ...


@dataclass(frozen=True, slots=True)
class Found:
    """Who leads what; `versions` are those to watch the kinds of lock objects from, without any that cannot be read."""

    standings: list[Standing]
    versions: Mapping[str, int]


class Leaders:
    """The elections of a scope, on Endpoints, Leases, or both. `remark` is told what could not be read of them."""

    def __init__(self, kube: KubeClient, scope: Scope, *, remark: Callable[[str], None]) -> None:
        self._kube = kube
        self._scope = scope
        self._remark = remark
        self._nodes = _Nodes(kube, remark)
        self._disturbed = False
        self._refused: set[tuple[str, str]] = set()
        self._parts: dict[Key, dict[str, Standing]] = {}
        """What the lock objects of each election say, by their kinds."""

    async def look(self) -> Found:
        """Read them all, as they are stored. Raises `ApiError`, and `CommandError` when that is not allowed."""
        try:
            async with asyncio.timeout(LOOK_SECONDS):
                listings = await self._listings()
                parts: dict[Key, dict[str, Standing]] = {}
                for lock, listing in listings.items():
                    for body in listing:
                        if (standing := self._read(lock, body)) is not None:
                            parts.setdefault(standing.key, {})[lock] = standing
                self._parts = parts
                standings = [one for key in parts if (one := self._standing(key)) is not None]
                self._nodes.forget_failures()
                versions = {lock: listing.version for lock, listing in listings.items()}
                return Found(await self._nodes.found(standings), versions)
        except TimeoutError as error:
            path = self._scope.path(ENDPOINTS)
            raise ApiError(f"GET {path}: not all of it came within {LOOK_SECONDS:.0f} s") from error

    async def _listings(self) -> dict[str, Listing]:
        """List both kinds of lock objects; one that may not be listed is left out."""
        locks = (ENDPOINTS, LEASES)
        listings: dict[str, Listing] = {}
        denied: dict[str, ForbiddenError] = {}
        answers = await asyncio.gather(*map(self._list, locks), return_exceptions=True)
        for lock, answer in zip(locks, answers, strict=True):
            match answer:
                case ForbiddenError():
                    denied[lock] = answer
                case NotFoundError() if lock == LEASES:
                    pass  # an API server that has none
                case BaseException():
                    raise answer
                case listing:
                    listings[lock] = listing
        self._bear("list", denied, others=listings, without="elections on {} are left out")
        return listings

    async def _list(self, lock: str) -> Listing:
        scope = self._scope
        # A Lease says in its spec who holds it.
        if lock == LEASES:
            return await self._kube.list_objects(
                scope.path(lock), label=scope.label, field=scope.fields(lock), cached=False
            )
        return await self._kube.list_metadata(scope.path(lock), label=scope.label, cached=False)

    def _events(self, lock: str, since: int) -> AbstractAsyncContextManager[AsyncIterator[WatchEvent]]:
        scope = self._scope
        if lock == LEASES:
            return self._kube.watch_objects(
                scope.path(lock),
                label=scope.label,
                field=scope.fields(lock),
                version=since,
                seconds=WATCH_SECONDS,
            )
        return self._kube.watch_metadata(scope.path(lock), label=scope.label, version=since, seconds=WATCH_SECONDS)

    def _read(self, lock: str, body: Mapping[str, Any]) -> Standing | None:
        if lock == ENDPOINTS:
            return standing_of(body)
        # What was an election's a moment ago still is, though its last leader took its claim along.
        return standing_of_lease(body, others=bool(self._scope.namespace), known=key_of(body) in self._parts)

    def _standing(self, key: Key) -> Standing | None:
        parts = self._parts.get(key, {})
        return combined(parts.get(ENDPOINTS), parts.get(LEASES))

    async def follow(self, view: View, observed: Observed) -> NoReturn:
        """Keep `observed` up to date and tell `view`, until cancelled.

        Raises what `look` raises the first time; after that, what fails is tried again. Raises `CommandError` whenever
        something is not allowed.
        """
        looked = False
        pause = SHORTEST_PAUSE
        while True:
            began = time.monotonic()
            due = False
            try:
                found = await self.look()
                view.show(observed.see_all(found.standings, asked_at=began, now=time.monotonic()))
                looked = True
                due = await self._watch(found.versions, view, observed)
            except GoneError:
                pass  # it fell behind; the next list is up to date
            except ApiError as error:
                if not looked:
                    raise
                if not self._disturbed:
                    self._remark(f"{error}; trying again")
                self._disturbed = True
            lived = time.monotonic() - began
            pause = SHORTEST_PAUSE if due or lived > LONGEST_PAUSE else min(2 * pause, LONGEST_PAUSE)
            spread = random.uniform(0.5, 1)  # noqa: S311 - spreads requests, protects nothing
            await _idle(pause * spread - lived, view)

    async def _watch(self, since: Mapping[str, int], view: View, observed: Observed) -> bool:
        """Take in what changes, until a watch ends. Return true, and earlier, when a lease seems to have run out."""
        end = time.monotonic() + WATCH_SECONDS + WATCH_GRACE
        check_at = 0.0
        async with AsyncExitStack() as watching:
            sources = await self._watches(since, watching)
            if self._disturbed:
                self._remark("the API server answers again")
                self._disturbed = False
            coming = {lock: asyncio.ensure_future(anext(events, None)) for lock, events in sources.items()}
            try:
                while (now := time.monotonic()) < end:
                    if now >= check_at:
                        if observed.is_due(now):
                            return True
                        check_at = now + CHECK_SECONDS
                    view.redraw()
                    await asyncio.wait(coming.values(), timeout=CHECK_SECONDS, return_when=asyncio.FIRST_COMPLETED)
                    for lock in [lock for lock, next_one in coming.items() if next_one.done()]:
                        event = coming[lock].result()
                        if event is None:
                            return False
                        view.show(await self._changes(lock, event, observed))
                        coming[lock] = asyncio.ensure_future(anext(sources[lock], None))
            finally:
                for next_one in coming.values():
                    next_one.cancel()
                await asyncio.gather(*coming.values(), return_exceptions=True)
        return False

    async def _watches(
        self, since: Mapping[str, int], watching: AsyncExitStack
    ) -> dict[str, AsyncIterator[WatchEvent]]:
        """Open the watches, for as long as `watching`; one that is not allowed is left out."""
        sources = {}
        denied: dict[str, ForbiddenError] = {}
        for lock in since:
            try:
                sources[lock] = await watching.enter_async_context(self._events(lock, since[lock]))
            except ForbiddenError as error:
                denied[lock] = error
        self._bear("watch", denied, others=sources, without="changes on {} are seen late")
        return sources

    async def _changes(self, lock: str, event: WatchEvent, observed: Observed) -> list[Change]:
        if event.kind == "BOOKMARK":
            return []
        key = key_of(event.body)
        part = None if event.kind == "DELETED" else self._read(lock, event.body)
        if part is not None:
            self._parts.setdefault(key, {})[lock] = part
        else:
            self._parts.get(key, {}).pop(lock, None)
        standing = self._standing(key)
        if standing is None:
            self._parts.pop(key, None)
            change = observed.lose(key)
            return [] if change is None else [change]
        (standing,) = await self._nodes.found([standing])
        return [observed.see(standing, time.monotonic())]

    def _bear(
        self, verb: str, denied: Mapping[str, ForbiddenError], *, others: Mapping[str, object], without: str
    ) -> None:
        """Go on without what is denied, and say so once. Raises `CommandError` when that is all there is."""
        for lock, error in denied.items():
            namespace = self._scope.namespace
            where = f"in namespace {namespace}" if namespace else "in all namespaces"
            text = f"not allowed to {verb} {lock} {where}"
            if not others:
                remedy = f"a Role with {verb} on {lock} allows it"
                if not namespace:
                    remedy = f"a ClusterRole with {verb} on {lock} allows it, or name a namespace"
                raise CommandError(f"{text}; {remedy} ({error})") from error
            if (verb, lock) not in self._refused:
                self._refused.add((verb, lock))
                self._remark(f"{text}: {without.format(_NAMES[lock])}")


class _Nodes:
    """The nodes of holders that do not say where they are, by the pods that they are named after."""

    def __init__(self, kube: KubeClient, remark: Callable[[str], None]) -> None:
        self._kube = kube
        self._remark = remark
        self._known: dict[_Term, str] = {}
        self._denied: set[str] = set()
        self._failed = False

    def forget_failures(self) -> None:
        """Let what was not found be looked for again."""
        self._known = {term: node for term, node in self._known.items() if node}

    async def found(self, standings: Sequence[Standing]) -> list[Standing]:
        """Return the standings, with the nodes that can be found out. Nothing that goes wrong is raised."""
        terms = {one.key: _term(one) for one in standings if one.holder and not one.node}
        await self._find([term for term in dict.fromkeys(terms.values()) if term not in self._known])
        nodes = {key: self._known.get(term, "") for key, term in terms.items()}
        return [replace(one, node=nodes[one.key]) if one.key in nodes else one for one in standings]

    async def _find(self, terms: Sequence[_Term]) -> None:
        if len(terms) > POD_LIMIT:
            self._remark(f"{len(terms)} holders do not say on which node they are; {POD_LIMIT} of their pods are read")
        if len(self._known) > TERM_LIMIT:
            self._known.clear()
        denied = set(self._denied)
        turns = asyncio.Semaphore(PODS_AT_ONCE)

        async def find(term: _Term) -> None:
            async with turns:
                self._known[term] = await self._node(term)

        await asyncio.gather(*map(find, terms[:POD_LIMIT]))
        if refused := sorted(self._denied - denied):
            more = f" and {len(refused) - _NAMED} more" if len(refused) > _NAMED else ""
            self._remark(
                f"not allowed to get pods in {', '.join(refused[:_NAMED])}{more}: "
                "the nodes of holders that make no claim are not known there"
            )

    async def _node(self, term: _Term) -> str:
        namespace, holder, _ = term
        try:
            # Whatever the holder calls itself, nothing but a name becomes a part of the path.
            pod = settings.ELECTION.parse(holder)
        except ValueError:
            return ""
        if namespace in self._denied:
            return ""
        try:
            body = await self._kube.get(f"/api/v1/namespaces/{namespace}/pods/{pod}")
        except NotFoundError:
            return ""
        except ForbiddenError:
            self._denied.add(namespace)
            return ""
        except ApiError as error:
            if not self._failed:
                self._remark(f"a holder's node is not known: {error}")
            self._failed = True
            return ""
        spec = body.get("spec")
        node = spec.get("nodeName") if isinstance(spec, dict) else None
        return node if isinstance(node, str) else ""


def _term(standing: Standing) -> _Term:
    # The name of a StatefulSet's pod comes back, and maybe on another node: but only for another term.
    return standing.namespace, standing.holder, standing.acquired


async def _idle(seconds: float, view: View) -> None:
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        view.redraw()
        await asyncio.sleep(min(left, CHECK_SECONDS))


# -- The command -------------------------------------------------------------------------------------------------------


async def run(reached: Reached, *, group: str, watch: bool, as_json: bool) -> None:
    """Print who leads: once, or with `watch` until cancelled. Raises `CommandError` and `ApiError`."""
    scope = Scope(namespace=reached.namespace, group=group)
    everywhere = not reached.namespace
    if watch:
        observed = Observed()
        with board.looking_on(observed, scope=str(scope), everywhere=everywhere, as_json=as_json) as view:
            await Leaders(reached.kube, scope, remark=view.remark).follow(view, observed)
    else:
        remarks: list[str] = []
        found = await Leaders(reached.kube, scope, remark=remarks.append).look()
        board.show(found.standings, remarks, scope=str(scope), everywhere=everywhere, as_json=as_json)
