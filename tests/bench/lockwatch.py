"""Sees what becomes of the lock objects of a namespace: every version, as it is written."""

from __future__ import annotations

import http.client
import json
import socket
import threading
import time
from collections import defaultdict
from contextlib import suppress
from typing import TYPE_CHECKING, Self
from urllib.parse import urlsplit

from tests.bench.holdings import Holding, Version, holdings, version_of

if TYPE_CHECKING:
    from tests.testbed.connection import Connection

KINDS = ("api/v1/namespaces/{}/endpoints", "apis/coordination.k8s.io/v1/namespaces/{}/leases")
WATCH_SECONDS = 3600
STARTED_SECONDS = 10.0
"""Within which a watch has to start."""


class WatchError(Exception):
    """The lock objects cannot be watched any more; the message says why."""


class LockWatch:
    """Sees every version of every lock object in a namespace, from when it is made until it is closed."""

    def __init__(self, connection: Connection, namespace: str) -> None:
        self._connection = connection
        self._versions: defaultdict[str, list[Version]] = defaultdict(list)
        self._sockets: list[socket.socket] = []
        self._problem = ""
        self._closed = False
        self._threads = []
        for kind in KINDS:
            started = threading.Event()
            path = f"/{kind.format(namespace)}?watch=true&timeoutSeconds={WATCH_SECONDS}"
            thread = threading.Thread(target=self._follow, args=(path, started), daemon=True, name=path)
            thread.start()
            self._threads.append(thread)
            started.wait(STARTED_SECONDS)
        if len(self._sockets) < len(KINDS):
            self.close()
            raise WatchError(self._problem or f"a watch did not start within {STARTED_SECONDS:g} s")

    def holdings(self) -> dict[str, list[Holding]]:
        """Return who held which lock so far, by election. Raises WatchError when something may have been missed."""
        if self._problem:
            raise WatchError(self._problem)
        return {election: holdings(list(versions)) for election, versions in list(self._versions.items())}

    def close(self) -> None:
        """End the watches."""
        self._closed = True
        for open_socket in self._sockets:
            with suppress(OSError):
                open_socket.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(STARTED_SECONDS)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _follow(self, path: str, started: threading.Event) -> None:
        try:
            self._stream(path, started)
            problem = "the API server ended it"
        except (OSError, http.client.HTTPException, ValueError, WatchError) as error:
            problem = str(error)
        if not self._closed:
            self._problem = f"the watch on {path.partition('?')[0]}: {problem}"
        started.set()

    def _stream(self, path: str, started: threading.Event) -> None:
        address = urlsplit(self._connection.url)
        token = self._connection.token
        client = http.client.HTTPSConnection(address.hostname or "", address.port, context=self._connection.ssl_context)
        try:
            client.request("GET", path, headers={"Authorization": f"Bearer {token}"} if token else {})
            open_socket = client.sock
            answer = client.getresponse()
            if answer.status != http.client.OK:
                raise WatchError(f"status {answer.status}: {answer.read(500)!r}")
            self._sockets.append(open_socket)
            started.set()
            while line := answer.readline():
                self._take(line)
        finally:
            client.close()

    def _take(self, line: bytes) -> None:
        at = time.time()
        event = json.loads(line)
        if event["type"] == "ERROR":
            raise WatchError(str(event["object"].get("message")))
        seen = version_of(event["object"], at=at, deleted=event["type"] == "DELETED")
        self._versions[seen.election].append(seen)
