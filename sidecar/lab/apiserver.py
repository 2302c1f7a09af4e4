"""The embedded Kubernetes API server: real REST over an in-memory store. For demos, tests and simulation only.

    async with EmbeddedAPIServer() as server:
        server.write_kubeconfig(path)

It serves Endpoints, Leases, Pods, Events and Namespaces on plain HTTP, on a port of its own choice, and answers what
kube-apiserver answers, down to the wording; the same contract tests run against both. It is no substitute for a
cluster: everything is lost when it stops, without `users` everybody may do everything, and there are no controllers.
Faults can be injected: see `before_request`, `before_answer` and `cut_watches`.
"""

import asyncio
import json
from collections import Counter
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from datetime import UTC, datetime
from http import HTTPMethod, HTTPStatus
from pathlib import Path
from random import Random
from types import TracebackType
from typing import Final, Self, TypeAlias

from aiohttp import web

from sidecar.lab import rest
from sidecar.lab.access import ANONYMOUS, User, refused_path, require
from sidecar.lab.resources import NAMESPACES
from sidecar.lab.status import ApiError, details, method_not_allowed, unauthorized
from sidecar.lab.store import Store, Watch

BeforeRequest: TypeAlias = Callable[[web.Request], Awaitable[web.StreamResponse | None]]
BeforeAnswer: TypeAlias = Callable[[web.Request, web.StreamResponse], Awaitable[web.StreamResponse | None]]

_HOST: Final = "127.0.0.1"
_WATCH_SECONDS: Final = 1800
"""How long a watch lasts that names no timeout: the real server's least."""
_BOOKMARK_SECONDS: Final = 60.0
_LAST_BOOKMARK_SECONDS: Final = 2.0
"""How long before its end a watch gets its last bookmark."""
_WRITE_SECONDS: Final = 10.0
"""How long a watcher may take to read an event before its connection is closed."""
_OPEN_PATHS: Final = frozenset({"/livez", "/readyz", "/healthz", "/version"})


class DropConnection(Exception):  # noqa: N818 - not an error but an order: what a fault hook raises to lose an answer
    """Raised by a fault hook: the connection is closed without an answer."""


class EmbeddedAPIServer:
    """An API server in this process; see the module's description.

    `bookmark_seconds` is how long a watch that allows them waits from one bookmark to the next. `now` gives the time of
    what is created, in UTC; `random` makes uids and generated names.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        bookmark_seconds: float = _BOOKMARK_SECONDS,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        random: Random | None = None,
    ) -> None:
        self.port = port
        """0 until started, unless named; then the port, which a restart keeps."""
        self.users: Mapping[str, User] | None = None
        """Users by bearer token; may be changed at any time. While it is None, nobody is asked for a token."""
        self.store = Store(now=now, random=random or Random())  # noqa: S311 - uids, no secrets
        self.requests: Counter[tuple[str, str]] = Counter()
        """Requests received, by verb and resource: `requests["watch", "endpoints"]`. A watch counts once."""
        self.before_request: BeforeRequest | None = None
        """Awaited before a request is handled; what it returns is answered instead."""
        self.before_answer: BeforeAnswer | None = None
        """Awaited after a request was handled, before its answer is sent; what it returns is sent instead. With
        DropConnection the answer is lost although the write was done. Watches do not pass here."""
        self._bookmark_seconds = bookmark_seconds
        self._runner: web.AppRunner | None = None
        self._watches: dict[Watch, web.Request] = {}

    # -- life ---------------------------------------------------------------------------------------------------------

    @property
    def url(self) -> str:
        """Where it listens: `http://127.0.0.1:40123`."""
        return f"http://{_HOST}:{self.port}"

    async def start(self) -> None:
        """Listen. Raises OSError when the port is taken."""
        app = web.Application(client_max_size=rest.MAX_BODY_BYTES)
        app.router.add_route("*", "/{path:.*}", self._answer)
        app.on_shutdown.append(self._end_watches)
        runner = web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=1.0)
        await runner.setup()
        try:
            self.port = await self._listen(runner)
        except OSError:
            await runner.cleanup()
            raise
        self._runner = runner

    async def _listen(self, runner: web.AppRunner) -> int:
        """Have every connection that arrives served by `runner`; return the port. Raises OSError when it is taken."""
        await web.TCPSite(runner, _HOST, self.port).start()
        port: int = runner.addresses[0][1]
        return port

    async def stop(self) -> None:
        """Stop listening and close every connection. The store stays: `start` continues where this stopped."""
        runner, self._runner = self._runner, None
        if runner is not None:
            await runner.cleanup()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.stop()

    def write_kubeconfig(self, path: Path, token: str | None = None, namespace: str = "default") -> None:
        """Write a kubeconfig for this server, readable by its owner only. JSON, which is YAML too."""
        user = {"token": token} if token else {}
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "clusters": [{"name": "embedded", "cluster": {"server": self.url}}],
            "users": [{"name": "embedded", "user": user}],
            "contexts": [
                {"name": "embedded", "context": {"cluster": "embedded", "user": "embedded", "namespace": namespace}}
            ],
            "current-context": "embedded",
        }
        path.touch(mode=0o600)
        path.write_text(json.dumps(config, indent=2) + "\n")

    # -- faults -------------------------------------------------------------------------------------------------------

    @property
    def open_watches(self) -> int:
        """How many watches are being served."""
        return len(self._watches)

    def cut_watches(self) -> int:
        """Close the connection of every open watch, without a goodbye. Returns how many there were."""
        cut = list(self._watches.values())
        for request in cut:
            _close(request)
        return len(cut)

    async def _end_watches(self, _: web.Application) -> None:
        self.cut_watches()

    # -- requests -----------------------------------------------------------------------------------------------------

    async def _answer(self, request: web.Request) -> web.StreamResponse:
        target: rest.Target | None = None
        try:
            target = rest.target_of(request)
            if target is not None:
                self.requests[target.verb, target.resource.plural] += 1
            response = await self.before_request(request) if self.before_request else None
            if response is None:
                response = await self._handled(request, target)
            if self.before_answer and not response.prepared:
                response = await self.before_answer(request, response) or response
        except DropConnection:
            _close(request)
            return web.Response()
        except ApiError as error:
            return rest.failure(error, target)
        return response

    async def _handled(self, request: web.Request, target: rest.Target | None) -> web.StreamResponse:
        try:
            user = self._user(request)
            if target is None:
                return _plain(request, user)
            if user is not None:
                # A namespace is, for the rules of access, within itself.
                namespace = target.name if target.resource is NAMESPACES else target.namespace
                require(user, target.verb, target.resource, namespace, target.name)
            return await self._served(request, target)
        except ApiError as error:
            return rest.failure(error, target)

    def _user(self, request: web.Request) -> User | None:
        """Return who asks; None when nobody is asked."""
        if self.users is None:
            return None
        scheme, _, token = request.headers.get("Authorization", "").partition(" ")
        if scheme.lower() != "bearer" or not token:
            return ANONYMOUS
        user = self.users.get(token.strip())
        if user is None:
            raise unauthorized()
        return user

    async def _served(self, request: web.Request, target: rest.Target) -> web.StreamResponse:
        resource, namespace, name = target.resource, target.namespace, target.name
        partial = rest.wants_metadata_only(request)
        code = HTTPStatus.OK
        match target.verb:
            case "list":
                return self._list(request, target, partial=partial)
            case "watch":
                return await self._watch(request, target, partial=partial)
            case "delete":
                return await self._delete(request, target)
            case "get":
                stored = self.store.get(resource, namespace, name)
            case "create":
                stored = self.store.create(resource, namespace, await rest.read_object(request, resource))
                code = HTTPStatus.CREATED
            case "update":
                body = await rest.read_object(request, resource)
                stored, created = self.store.update(resource, namespace, name, body)
                code = HTTPStatus.CREATED if created else HTTPStatus.OK
            case "patch":
                stored = self.store.patch(resource, namespace, name, await rest.read_patch(request))
            case _:
                raise method_not_allowed()
        return rest.success(resource, rest.shown(stored, partial=partial), code)

    async def _delete(self, request: web.Request, target: rest.Target) -> web.StreamResponse:
        resource, name = target.resource, target.name
        options = await rest.read_delete_options(request)
        deleted = self.store.delete(
            resource,
            target.namespace,
            name,
            uid=options.uid,
            version=options.version,
            grace_seconds=options.grace_seconds,
        )
        if resource.answers_deleted_object:
            return rest.success(resource, deleted)
        named = details(resource, name) | {"uid": deleted["metadata"]["uid"]}
        status = {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": named}
        return rest.success(resource, status)

    def _list(self, request: web.Request, target: rest.Target, *, partial: bool) -> web.StreamResponse:
        options = rest.list_options(request, target.resource)
        listing = self.store.list_objects(
            target.resource,
            target.namespace,
            selectors=options.selectors,
            limit=options.limit,
            continue_token=options.continue_token,
            at=options.at,
            not_older_than=options.not_older_than,
        )
        return rest.success(target.resource, rest.shown_list(target.resource, listing, partial=partial))

    # -- watches ------------------------------------------------------------------------------------------------------

    async def _watch(self, request: web.Request, target: rest.Target, *, partial: bool) -> web.StreamResponse:
        resource = target.resource
        options = rest.watch_options(request, resource)
        ready = asyncio.Event()
        response = web.StreamResponse(headers=rest.headers(resource))
        response.enable_chunked_encoding()
        try:
            watch = self.store.watch(
                resource,
                target.namespace,
                selectors=options.selectors,
                since=options.since,
                initial=options.initial,
                mark_initial_end=options.bookmarks and options.initial is True,
                wake=ready.set,
            )
        except ApiError as error:
            # As the real server does: once the request itself is sound, what fails is told in the stream.
            await response.prepare(request)
            await response.write(rest.error_line(error))
            return response
        self._watches[watch] = request
        try:
            await response.prepare(request)
            await self._stream(response, watch, ready, target, options, partial=partial)
        except (ConnectionError, TimeoutError):
            _close(request)
        finally:
            watch.stop()
            del self._watches[watch]
        return response

    async def _stream(
        self,
        response: web.StreamResponse,
        watch: Watch,
        ready: asyncio.Event,
        target: rest.Target,
        options: rest.WatchOptions,
        *,
        partial: bool,
    ) -> None:
        """Send events until the watch is over or ended. Raises TimeoutError for a watcher that does not read."""
        clock = asyncio.get_running_loop().time
        end = clock() + (options.seconds or _WATCH_SECONDS)
        bookmark_at = self._next_bookmark(clock(), end) if options.bookmarks else end
        while not watch.ended and clock() < end:
            ready.clear()
            events = watch.take()
            if options.bookmarks and clock() >= bookmark_at:
                events.append(self.store.bookmark(target.resource))
                bookmark_at = self._next_bookmark(clock(), end)
            if events:
                lines = b"".join(rest.event_line(event, partial=partial) for event in events)
                async with asyncio.timeout(_WRITE_SECONDS):
                    await response.write(lines)
                continue
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(end, bookmark_at)):
                    await ready.wait()

    def _next_bookmark(self, now: float, end: float) -> float:
        """Return when to send the next bookmark: at intervals, and shortly before the end in any case."""
        last = end - _LAST_BOOKMARK_SECONDS
        return min(now + self._bookmark_seconds, last if last > now else end)


def _close(request: web.Request) -> None:
    if request.transport is not None:
        request.transport.abort()


def _plain(request: web.Request, user: User | None) -> web.Response:
    """Answer what lies outside the API: health and version."""
    path = request.path
    if path not in _OPEN_PATHS:
        if user is not None and not user.is_admin:
            raise refused_path(user, path)
        return web.Response(status=HTTPStatus.NOT_FOUND, text="404 page not found\n")
    if request.method != HTTPMethod.GET:
        raise method_not_allowed()
    if path != "/version":
        return web.Response(text="ok")
    version = {"major": "1", "minor": "37", "gitVersion": "v1.37.0+embedded", "platform": "embedded"}
    return rest.success(None, version)
