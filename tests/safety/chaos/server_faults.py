"""Faults of the API server and of etcd below it."""

from __future__ import annotations

import asyncio
import http.client
import json
import os
import signal
from functools import partial

from tests.safety.chaos.faults import REQUEST_SECONDS, Fault, MissedError
from tests.testbed.apiserver import LocalAPIServer


class _OfServer(Fault):
    """A fault of the API server's processes, which every election feels."""

    traits = frozenset({"server"})
    touches_all = True

    @property
    def server(self) -> LocalAPIServer:
        """The server, whose processes are ours. Raises MissedError where they are not."""
        if not isinstance(self.stage.server, LocalAPIServer):
            raise MissedError("the API server's processes are not ours")
        return self.stage.server


class ServerKilled(_OfServer):
    """SIGKILL of kube-apiserver; it is started again, with nothing left of what its watches could show."""

    name = "apiserver-killed"
    leases = (0.1, 1.2)

    async def _begin(self) -> None:
        self.target = "kube-apiserver"
        await asyncio.to_thread(self.server.stop_apiserver)

    async def _end(self) -> None:
        if self.target:
            await asyncio.to_thread(self.server.start_apiserver)


class ServerPaused(_OfServer):
    """SIGSTOP of kube-apiserver, then SIGCONT: what was asked meanwhile is done late, and all of it at once."""

    name = "apiserver-paused"
    leases = (0.3, 1.8)

    async def _begin(self) -> None:
        self.target = "kube-apiserver"
        await asyncio.to_thread(self.server.pause)

    async def _end(self) -> None:
        if self.target:
            self.server.resume()


class EtcdPaused(_OfServer):
    """SIGSTOP of etcd, then SIGCONT: reads from the server's cache go on, writes hang."""

    name = "etcd-paused"
    leases = (0.3, 1.8)

    async def _begin(self) -> None:
        pid = self.server.etcd_pid
        self.target = "etcd"
        os.kill(pid, signal.SIGSTOP)

    async def _end(self) -> None:
        if self.target:
            os.kill(self.server.etcd_pid, signal.SIGCONT)


class EtcdKilled(_OfServer):
    """SIGKILL of etcd; it is started again with its data, and the API server finds it."""

    name = "etcd-killed"
    leases = (0.1, 1.2)

    async def _begin(self) -> None:
        self.target = "etcd"
        await asyncio.to_thread(self.server.stop_etcd)

    async def _end(self) -> None:
        if self.target:
            self.server.start_etcd()


class DiskFull(_OfServer):
    """etcd raises its alarm that the space is used up: reads work, every write is answered with status 500."""

    name = "disk-full"
    leases = (0.5, 2.0)

    async def _begin(self) -> None:
        self.target = "etcd"
        await asyncio.to_thread(partial(_alarm, self.server, "ACTIVATE"))

    async def _end(self) -> None:
        if self.target:
            await asyncio.to_thread(partial(_alarm, self.server, "DEACTIVATE"))


def _alarm(server: LocalAPIServer, action: str) -> None:
    """Raise or end the alarm that etcd raises by itself once its quota is used up. Raises OSError."""
    etcd = http.client.HTTPConnection("127.0.0.1", server._etcd_port, timeout=REQUEST_SECONDS)
    try:
        body = {"action": action, "memberID": 0, "alarm": "NOSPACE"}
        etcd.request("POST", "/v3/maintenance/alarm", json.dumps(body), {"Content-Type": "application/json"})
        answer = etcd.getresponse()
        answer.read()
    except http.client.HTTPException as error:
        raise ConnectionError(f"etcd: {error!r}") from error
    finally:
        etcd.close()
    if answer.status != http.HTTPStatus.OK:
        raise ConnectionError(f"etcd answered {answer.status} to an alarm")
