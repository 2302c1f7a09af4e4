"""The thin client: get, list, create, update, patch and watch, in raw JSON.

Configuration, TLS, exec plug-ins and the refresh of tokens are kubernetes_asyncio's; its generated models are not
used (a millisecond an object, for nothing that is needed here). What this adds: every request has a deadline, every
answer a size limit, every failure a class of its own, no connection is trusted once one of them has fallen silent, and
credentials that the API server no longer accepts are loaded anew.
"""

from __future__ import annotations

import asyncio
import json
import time
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from kubernetes_asyncio.client import ApiClient
from kubernetes_asyncio.config import ConfigException

from sidecar.kubeconfig import ConfigError
from sidecar.record import decimal

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping

    from kubernetes_asyncio.client import Configuration

ANSWER_LIMIT = 4 * 2**20
"""Bytes of one answer, and of one event of a watch. etcd keeps objects below 1.5 MiB."""

LIST_LIMIT = 32 * 2**20
"""Bytes of all pages of one list."""

PAGE_SIZE = 500
"""Objects that a page of a consistent list is asked to hold, as client-go's pager asks."""

PAGE_LIMIT = 40
"""Pages of one list."""

RELOAD_INTERVAL = 1.0
"""Seconds between two loads because of refused credentials."""

MESSAGE_LIMIT = 500
"""Characters of an error's message that are kept."""

DENIAL_SECONDS = 600.0
"""Seconds for which a refused permission is not asked for again. Roles are edited, though rarely."""

_VERBS = {"GET": "get", "POST": "create", "PUT": "update", "PATCH": "patch"}
"""RBAC's verbs of requests that are neither lists nor watches."""

_JSON = "application/json"
_MERGE_PATCH = "application/merge-patch+json"  # RFC 7396
_METADATA = "application/json;as=PartialObjectMetadata;g=meta.k8s.io;v=v1"
_METADATA_LIST = "application/json;as=PartialObjectMetadataList;g=meta.k8s.io;v=v1"


class ApiError(Exception):
    """A request to the API server failed.

    `status` is the HTTP status, `None` when there was no answer. `refused` says that a write was not applied;
    where it is false, nobody knows. `retry_after` is in seconds.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: float = 0.0) -> None:
        super().__init__(message)
        self.status = status
        self.retry_after = retry_after

    @property
    def refused(self) -> bool:
        """Tell whether the API server said that it did not do what was asked."""
        return self.status is not None and 400 <= self.status < 500  # noqa: PLR2004 - RFC 9110: client errors


class NotFoundError(ApiError):
    """404: no such object, or no such namespace."""


class ConflictError(ApiError):
    """409: the object exists already, or is not the version that was named."""


class GoneError(ApiError):
    """410: the version to watch from is no longer in the API server's history."""


class ForbiddenError(ApiError):
    """403: the credentials are good, and do not allow this."""


class NoAnswerError(ApiError):
    """The request's time was over."""


class UnauthorizedError(ApiError):
    """401: the credentials are not accepted (any more)."""


class UntrustedError(ApiError):
    """No secure connection: a certificate, the API server's or ours, was not accepted (any more)."""


_BY_STATUS: dict[int, type[ApiError]] = {
    401: UnauthorizedError,
    403: ForbiddenError,
    404: NotFoundError,
    409: ConflictError,
    410: GoneError,
}


class Permission:
    """Whether something is allowed, as far as the API server has said. `clock` returns seconds."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._denied_until = float("-inf")
        self._refused = False

    @property
    def denied(self) -> bool:
        """Whether the API server denied it within the last `DENIAL_SECONDS`."""
        return self._clock() < self._denied_until

    def deny(self) -> bool:
        """Take note of a 403; return whether that is news."""
        self._denied_until = self._clock() + DENIAL_SECONDS
        news, self._refused = not self._refused, True
        return news

    def allow(self) -> bool:
        """Take note that it is allowed; return whether that is news after a 403."""
        news, self._refused = self._refused, False
        return news


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """One line of a watch: `ADDED`, `MODIFIED`, `DELETED` or `BOOKMARK`, and the object."""

    kind: str
    body: Mapping[str, Any]


class Listing(list["Mapping[str, Any]"]):
    """The objects of a list. `version` is where a watch that is to miss nothing goes on."""

    version: int = 0


class KubeClient:
    """Requests to one API server, each ended after `timeout` seconds. `close` it when done.

    `load` loads the client configuration anew at each call, and raises `ConfigError` when it cannot. `tell` is told of
    each request that was sent: its RBAC verb, and the status of the answer, `None` when none came.
    """

    def __init__(
        self,
        load: Callable[[], Awaitable[Configuration]],
        *,
        timeout: float,
        user_agent: str,
        clock: Callable[[], float] = time.monotonic,
        tell: Callable[[str, int | None], None] | None = None,
    ) -> None:
        self._load = load
        self._timeout = timeout
        self._user_agent = user_agent
        self._clock = clock
        self._tell = tell
        self._configuration: Configuration | None = None
        self._session: _Session | None = None
        """What new requests go over."""
        self._sessions: set[_Session] = set()
        """That one, and those that earlier requests still go over."""
        self._loading: asyncio.Task[None] | None = None
        self._loaded_at = float("-inf")

    async def connect(self) -> None:
        """Load the configuration, so that what is wrong with it is known at once. Raises `ConfigError`."""
        if self._session is not None:
            return
        if self._configuration is not None:
            self._open(self._configuration)
            return
        if self._loading is None:
            # A task of its own, which all requests wait for: an exec plug-in may take longer than one of them is given.
            self._loading = asyncio.create_task(self._load_anew())
            self._loading.add_done_callback(_heard)
        await asyncio.shield(self._loading)

    async def _load_anew(self) -> None:
        try:
            self._open(await self._load())
            self._loaded_at = self._clock()
        finally:
            self._loading = None

    def _open(self, configuration: Configuration) -> None:
        self._configuration = None
        try:
            api = ApiClient(configuration)
        except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
            raise ConfigError(f"the certificates for {configuration.host} cannot be used: {error}") from error
        api.user_agent = self._user_agent
        self._configuration = configuration
        self._session = _Session(api)
        self._sessions.add(self._session)

    async def close(self) -> None:
        """Close every connection."""
        if (loading := self._loading) is not None:
            loading.cancel()
            await asyncio.wait([loading])
        self._configuration = self._session = None
        while self._sessions:
            await self._sessions.pop().api.close()

    async def _leave(self, session: _Session | None) -> None:
        """Send no more requests over this session; those that are under way go on."""
        if session is None:
            return
        if self._session is session:
            self._session = None
        await self._close_unused(session)

    async def _close_unused(self, session: _Session) -> None:
        if session in self._sessions and session is not self._session and not session.users:
            self._sessions.remove(session)
            await session.api.close()

    @asynccontextmanager
    async def _using(self, session: _Session) -> AsyncIterator[None]:
        """Keep a session open for as long as the block runs."""
        session.users += 1
        try:
            yield
        finally:
            session.users -= 1
            await self._close_unused(session)

    async def get(self, path: str) -> Mapping[str, Any]:
        """Return the object at `path`. Raises `ApiError`."""
        return await self._request("GET", path)

    async def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Create an object in the collection at `path` and return it as stored. Raises `ApiError`."""
        return await self._request("POST", path, body)

    async def update(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Replace the object at `path` if it still is `body`'s version; return it. Raises `ApiError`."""
        return await self._request("PUT", path, body)

    async def patch(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """Merge `body` into the object at `path`, where `None` removes; return it. Raises `ApiError`."""
        return await self._request("PATCH", path, body)

    async def list_metadata(self, path: str, *, label: str, cached: bool) -> Listing:
        """Return, of every object of the collection at `path` that the label selector selects, its metadata alone.

        From the API server's cache, which may lag behind, where `cached`; else from what is stored, in pages, each
        with a deadline of its own. Raises `ApiError`; also for more than `LIST_LIMIT` bytes or `PAGE_LIMIT` pages.
        """
        return await self._list(path, [("labelSelector", label)], cached=cached, accept=_METADATA_LIST)

    async def list_objects(self, path: str, *, label: str, field: str = "", cached: bool) -> Listing:
        """Return the whole objects that the label selector and the field selector select, otherwise the same."""
        selectors = [("labelSelector", label), ("fieldSelector", field)]
        return await self._list(path, selectors, cached=cached, accept=_JSON)

    async def _list(self, path: str, selectors: list[tuple[str, str]], *, cached: bool, accept: str) -> Listing:
        query = [*selectors]
        # The cache answers in one piece, whatever the size of a page.
        query += [("resourceVersion", "0")] if cached else [("limit", str(PAGE_SIZE))]
        items = Listing()
        following, left = "", LIST_LIMIT
        for _ in range(PAGE_LIMIT):
            asked = [*query, ("continue", following)] if following else query
            async with (
                self._asking("GET", path) as session,
                await self._send(session, "GET", path, verb="list", query=asked, accept=accept) as response,
            ):
                content = await _content("GET", path, response, left)
                page, following = _page(path, _object("GET", path, response, content))
            items += page
            items.version = page.version
            left -= len(content)
            if not following:
                return items
        raise ApiError(f"GET {path}: the list has more than {PAGE_LIMIT} pages")

    @asynccontextmanager
    async def watch(
        self, path: str, *, name: str, version: int, seconds: int
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Watch one object of the collection at `path` from `version` on, for at most `seconds`.

        The block is entered once the API server has accepted; the events end when it closes the watch. Raises
        `ApiError`, `GoneError` when `version` is too old.
        """
        selectors = [("fieldSelector", f"metadata.name={name}")]
        async with self._watching(path, selectors, version, seconds, _JSON) as events:
            yield events

    @asynccontextmanager
    async def watch_metadata(
        self, path: str, *, label: str, version: int, seconds: int
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Watch what `list_metadata` lists, from its version on, and otherwise as `watch`."""
        async with self._watching(path, [("labelSelector", label)], version, seconds, _METADATA) as events:
            yield events

    @asynccontextmanager
    async def watch_objects(
        self, path: str, *, label: str, field: str = "", version: int, seconds: int
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        """Watch what `list_objects` lists, from its version on, and otherwise as `watch`."""
        selectors = [("labelSelector", label), ("fieldSelector", field)]
        async with self._watching(path, selectors, version, seconds, _JSON) as events:
            yield events

    @asynccontextmanager
    async def _watching(
        self, path: str, selectors: list[tuple[str, str]], version: int, seconds: int, accept: str
    ) -> AsyncIterator[AsyncIterator[WatchEvent]]:
        query = [
            ("watch", "true"),
            *selectors,
            ("resourceVersion", str(version)),
            ("allowWatchBookmarks", "true"),
            ("timeoutSeconds", str(seconds)),
        ]
        async with AsyncExitStack() as watching:
            async with self._asking("GET", path) as session:
                response = await self._send(session, "GET", path, verb="watch", query=query, accept=accept)
                if response.status != _OK:
                    async with response:
                        await _answer("GET", path, response)
                await watching.enter_async_context(self._using(session))
                watching.callback(response.close)
            yield _events(path, response)

    async def _request(self, method: str, path: str, body: Mapping[str, Any] | None = None) -> Mapping[str, Any]:
        # An answer that was read to its end leaves the connection in the pool; any other closes it.
        async with (
            self._asking(method, path) as session,
            await self._send(session, method, path, body=body) as response,
        ):
            return await _answer(method, path, response)

    @asynccontextmanager
    async def _asking(self, method: str, path: str) -> AsyncIterator[_Session]:
        """Yield what a request goes over; bound it in time, and learn from what becomes of it.

        After a time-out no other request goes over the same connections: one may be half-open, and as many of them as
        wait in the pool would each cost the next request its time. Where it says that credentials are out of date, they
        are loaded anew: tokens and certificates are rotated.
        """
        session: _Session | None = None
        try:
            with _told_as_api_errors(method, path):
                async with asyncio.timeout(self._timeout):
                    await self.connect()
                    session = self._session
                    if session is None:
                        raise ApiError(f"{method} {path}: the client configuration is being loaded anew")
                    async with self._using(session):
                        yield session
        except NoAnswerError:
            await self._leave(session)
            raise
        except (UnauthorizedError, UntrustedError):
            if self._clock() - self._loaded_at >= RELOAD_INTERVAL:
                self._configuration = None
                await self._leave(session)
            raise

    async def _send(
        self,
        session: _Session,
        method: str,
        path: str,
        *,
        verb: str = "",
        query: list[tuple[str, str]] | None = None,
        body: Mapping[str, Any] | None = None,
        accept: str = _JSON,
    ) -> aiohttp.ClientResponse:
        status: int | None = None
        try:
            response: aiohttp.ClientResponse = await session.api.call_api(
                path,
                method,
                query_params=query,
                header_params={"Accept": accept, "Content-Type": _MERGE_PATCH if method == "PATCH" else _JSON},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                # The library's default is to wait for ever. The deadline itself is the caller's, so that it spans the
                # refresh of a token as well; a watch goes on for longer than any one deadline.
                _request_timeout=aiohttp.ClientTimeout(total=None, sock_connect=self._timeout),
            )
            status = response.status
        finally:
            if self._tell is not None:
                self._tell(verb or _VERBS[method], status)
        return response


class _Session:
    """One ApiClient, whose connections are closed once nobody uses it any more and new requests go over another."""

    def __init__(self, api: ApiClient) -> None:
        self.api = api
        self.users = 0


def _heard(loading: asyncio.Task[None]) -> None:
    """Take note of a failure that nobody waited for; the next request meets it again."""
    if not loading.cancelled():
        loading.exception()


_OK = 200


async def _answer(method: str, path: str, response: aiohttp.ClientResponse) -> Mapping[str, Any]:
    return _object(method, path, response, await _content(method, path, response, ANSWER_LIMIT))


async def _content(method: str, path: str, response: aiohttp.ClientResponse, limit: int) -> bytearray:
    content = bytearray()
    async for chunk in response.content.iter_chunked(2**16):
        content += chunk
        if len(content) > limit:
            raise ApiError(f"{method} {path}: the answer is larger than {limit} bytes")
    return content


def _object(method: str, path: str, response: aiohttp.ClientResponse, content: bytearray) -> Mapping[str, Any]:
    """Return the object in an answer, or raise what its `Status` says (Kubernetes API conventions)."""
    try:
        body = json.loads(content)
    except (ValueError, RecursionError):
        body = None
    if 200 <= response.status < 300:  # noqa: PLR2004 - RFC 9110: successful
        if not isinstance(body, dict):
            raise ApiError(f"{method} {path}: the answer is not a JSON object: {_excerpt(content)}")
        return body
    message = body.get("message") if isinstance(body, dict) else None
    raise _error(method, path, response.status, str(message or _excerpt(content)), _retry_after(response))


def _page(path: str, body: Mapping[str, Any]) -> tuple[Listing, str]:
    """Return the items of a list, and the token that the next page is asked for with, `""` after the last."""
    items, metadata = body.get("items"), body.get("metadata")
    items = [] if items is None and "items" in body else items  # Go writes an empty list as null
    following = metadata.get("continue") or "" if isinstance(metadata, dict) else None
    if not (isinstance(items, list) and all(isinstance(item, dict) for item in items) and isinstance(following, str)):
        raise ApiError(f"GET {path}: the answer is not a list of objects")
    page = Listing(items)
    if isinstance(metadata, dict):
        page.version = decimal(metadata.get("resourceVersion")) or 0
    return page, following


async def _events(path: str, response: aiohttp.ClientResponse) -> AsyncIterator[WatchEvent]:
    with _told_as_api_errors("GET", path):
        while line := await response.content.readline(max_line_length=ANSWER_LIMIT):
            try:
                event = json.loads(line)
                kind, body = event["type"], event["object"]
            except (ValueError, RecursionError, KeyError, TypeError) as error:
                raise ApiError(f"GET {path}: the watch sent what is no event: {_excerpt(line)}") from error
            if kind == "ERROR" and isinstance(body, dict):
                # The status in the event is what a plain request would have been answered with.
                raise _error("GET", path, body.get("code"), str(body.get("message")), 0.0)
            if not isinstance(kind, str) or not isinstance(body, dict):
                raise ApiError(f"GET {path}: the watch sent what is no event: {_excerpt(line)}")
            yield WatchEvent(kind, body)


def _error(method: str, path: str, status: object, message: str, retry_after: float) -> ApiError:
    code = status if isinstance(status, int) else 500
    kind = _BY_STATUS.get(code, ApiError)
    # Admission webhooks write theirs as they like, also in several lines.
    sentence = " ".join(message.split())[:MESSAGE_LIMIT]
    return kind(f"{method} {path}: {code}: {sentence}", status=code, retry_after=retry_after)


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """Return the seconds of a Retry-After header; the API server sends no dates (RFC 9110, section 10.2.3)."""
    value = response.headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() and len(value) < 10 else 0.0  # noqa: PLR2004 - 30 years


def _excerpt(content: bytes | bytearray) -> str:
    return repr(bytes(content[:100]).decode("utf-8", "replace"))


@contextmanager
def _told_as_api_errors(method: str, path: str) -> Iterator[None]:
    """Turn everything that a request can fail with into an `ApiError`, with its cause."""
    try:
        yield
    except TimeoutError as error:
        raise NoAnswerError(f"{method} {path}: no answer in time") from error
    except ConfigError as error:
        raise ApiError(f"{method} {path}: {error}") from error
    except aiohttp.ClientConnectorCertificateError as error:
        reason = error.certificate_error
        raise UntrustedError(f"{method} {path}: the certificate of {error.host} is not trusted: {reason}") from error
    except aiohttp.ClientSSLError as error:
        raise UntrustedError(f"{method} {path}: no secure connection: {error}") from error
    except aiohttp.ClientPayloadError as error:
        raise ApiError(f"{method} {path}: the answer was cut off") from error
    except (aiohttp.ClientError, HttpProcessingError, OSError, ValueError, ConfigException, RuntimeError) as error:
        # HttpProcessingError: a line of a watch that is too long. ValueError: a token that does not fit into a header.
        # ConfigException: a token file that is empty for a moment. RuntimeError: the client was closed meanwhile. Some
        # of their texts have several lines, and quote what they could not read.
        sentence = " ".join(str(error).split()) or type(error).__name__
        raise ApiError(f"{method} {path}: {sentence[:MESSAGE_LIMIT]}") from error
