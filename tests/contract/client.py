"""A REST client that adds nothing: what the contract tests see is what the API server sent."""

import asyncio
import io
import json
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, TypeAlias

import aiohttp

from tests.testbed.embedded import APIServer

Json: TypeAlias = dict[str, Any]

DEADLINE = 15.0
"""Seconds until an answer, or an event, counts as missing."""

MERGE_PATCH = "application/merge-patch+json"
METADATA_LIST = "application/json;as=PartialObjectMetadataList;v=v1;g=meta.k8s.io"
METADATA = "application/json;as=PartialObjectMetadata;v=v1;g=meta.k8s.io"


@dataclass(frozen=True)
class Answer:
    """What came back. `body` is empty for an answer that is no JSON."""

    status: int
    body: Json
    headers: Mapping[str, str]
    text: str

    @property
    def version(self) -> int:
        """The resourceVersion of the object or the list."""
        return int(self.body["metadata"]["resourceVersion"])

    @property
    def names(self) -> list[str]:
        """The names of a list's items, in order."""
        return [item["metadata"]["name"] for item in self.body["items"]]

    def refusal(self) -> tuple[int, str, str]:
        """HTTP status, reason and message of a Status, once that is known to be well-formed."""
        assert self.body["kind"] == "Status"
        assert self.body["apiVersion"] == "v1"
        assert self.body["metadata"] == {}
        assert self.body["status"] == "Failure"
        assert self.body["code"] == self.status
        return self.status, self.body.get("reason", ""), self.body["message"]


async def eventually(probe: Callable[[], Awaitable[object]], wanted: object, *, seconds: float = DEADLINE) -> None:
    """Return once `probe` answers what is wanted: a server's caches follow its writes. Raises TimeoutError."""
    async with asyncio.timeout(seconds):
        while await probe() != wanted:  # noqa: ASYNC110 - the condition is in another process
            await asyncio.sleep(0.05)


@asynccontextmanager
async def opened_session() -> AsyncIterator[aiohttp.ClientSession]:
    """Yield a session that has closed every socket when it ends; TLS connections take a moment after the session."""
    sockets: list[socket.socket] = []

    def connected(address: aiohttp.AddrInfoType) -> socket.socket:
        family, kind, protocol = address[:3]
        sockets.append(socket.socket(family, kind, protocol))
        return sockets[-1]

    async def unclosed() -> int:
        return sum(one.fileno() != -1 for one in sockets)

    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(socket_factory=connected)) as session:
        yield session
    await eventually(unclosed, 0)


class Events:
    """The lines of an open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self) -> Json:
        """Return the next event. Raises EOFError when the watch has ended."""
        async with asyncio.timeout(DEADLINE):
            line = await self._response.content.readline()
        if not line:
            raise EOFError
        event: Json = json.loads(line)
        return event

    async def rest(self) -> list[Json]:
        """Return all events until the watch ends."""
        events = []
        while True:
            try:
                events.append(await self.next())
            except EOFError:
                return events


class Api:
    """An API server, as one user, with a namespace of its own to work in."""

    def __init__(self, server: APIServer, session: aiohttp.ClientSession, namespace: str, token: str | None) -> None:
        self.server = server
        self.namespace = namespace
        self._session = session
        self._token = token

    def as_user(self, token: str | None) -> "Api":
        """Return the same server and namespace for the owner of another token; None for nobody."""
        return Api(self.server, self._session, self.namespace, token)

    def endpoints(self, name: str = "") -> str:
        """Return the path of the Endpoints in the namespace, or of one of them."""
        return self.path("endpoints", name)

    def leases(self, name: str = "") -> str:
        """Return the path of the Leases in the namespace, or of one of them."""
        return _join(f"/apis/coordination.k8s.io/v1/namespaces/{self.namespace}/leases", name)

    def path(self, resource: str, name: str = "") -> str:
        """Return the path of a core resource in the namespace, or of one object of it."""
        return _join(f"/api/v1/namespaces/{self.namespace}/{resource}", name)

    async def get(
        self, path: str, query: Mapping[str, str] | None = None, *, accept: str = "application/json"
    ) -> Answer:
        """GET an object or a list."""
        return await self._send("GET", path, query=query, headers={"Accept": accept})

    async def post(self, path: str, body: object, *, content_type: str = "application/json") -> Answer:
        """POST a body: JSON of it, or bytes as they are."""
        return await self._send("POST", path, body=body, headers={"Content-Type": content_type})

    async def put(self, path: str, body: object) -> Answer:
        """PUT a body."""
        return await self._send("PUT", path, body=body, headers={"Content-Type": "application/json"})

    async def patch(self, path: str, body: object, *, content_type: str = MERGE_PATCH) -> Answer:
        """PATCH with a body."""
        return await self._send("PATCH", path, body=body, headers={"Content-Type": content_type})

    async def delete(self, path: str, body: object = None, query: Mapping[str, str] | None = None) -> Answer:
        """DELETE, with DeleteOptions as the body if there is one."""
        headers = {"Content-Type": "application/json"} if body is not None else {}
        return await self._send("DELETE", path, body=body, query=query, headers=headers)

    async def created(self, name: str, **metadata: object) -> Json:
        """Create an Endpoints object and return it."""
        answer = await self.post(self.endpoints(), endpoints(name, **metadata))
        assert answer.status == 201, answer.text
        return answer.body

    @asynccontextmanager
    async def watch(
        self, path: str, query: Mapping[str, str] | None = None, *, accept: str = "application/json"
    ) -> AsyncIterator[Events]:
        """Open a watch that the server has accepted."""
        headers = self._authorized({"Accept": accept})
        url = self.server.url + path
        parameters = {"watch": "true", **(query or {})}
        timeout = aiohttp.ClientTimeout(total=None, connect=DEADLINE)
        async with self._session.get(
            url, params=parameters, headers=headers, ssl=self.server.ssl_context or True, timeout=timeout
        ) as response:
            assert response.status == 200, await response.text()
            yield Events(response)

    async def _send(
        self,
        method: str,
        path: str,
        *,
        headers: dict[str, str],
        body: object = None,
        query: Mapping[str, str] | None = None,
    ) -> Answer:
        data = None if body is None else io.BytesIO(body if isinstance(body, bytes) else json.dumps(body).encode())
        async with self._session.request(
            method,
            self.server.url + path,
            params=query,
            data=data,
            headers=self._authorized(headers),
            ssl=self.server.ssl_context or True,
            timeout=aiohttp.ClientTimeout(total=DEADLINE),
        ) as response:
            text = await response.text()
            decoded = json.loads(text) if response.content_type == "application/json" and text else {}
            return Answer(response.status, decoded, response.headers, text)

    def _authorized(self, headers: dict[str, str]) -> dict[str, str]:
        return headers if self._token is None else {**headers, "Authorization": f"Bearer {self._token}"}


def endpoints(name: str, **metadata: object) -> Json:
    """Return an Endpoints object with the metadata given."""
    return {"apiVersion": "v1", "kind": "Endpoints", "metadata": {"name": name, **metadata}}


def _join(path: str, name: str) -> str:
    return f"{path}/{name}" if name else path
