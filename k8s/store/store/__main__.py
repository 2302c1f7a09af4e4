"""`python3 -m store`: one replica, until SIGTERM."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import sqlite3
import sys
from contextlib import AsyncExitStack, suppress
from functools import partial

import aiohttp
from aiohttp import web

from store.log import LockedError, Log
from store.metrics import Metrics
from store.node import Node
from store.peers import Peer
from store.replica import Replica
from store.replication import Replication
from store.settings import SettingError, Settings, from_environment
from store.sidecar import follow, release
from store.web import Clients

DRAIN_SECONDS = 5.0
"""For the writes that are under way when the process is told to end."""

logger = logging.getLogger("store")


async def serve(settings: Settings) -> None:
    """Run a replica until SIGTERM or SIGINT. Raises LockedError, OSError, and what nobody has foreseen, in a group."""
    ending = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, ending.set)
    async with AsyncExitStack() as stack:
        # One for the replicas, and one for what clients wait for: neither waits for the other's connections.
        replication, forwarding = [await stack.enter_async_context(_session()) for _ in range(2)]
        peers = {name: Peer(name, address, replication) for name, address in settings.peers.items()}
        replica = Replica(settings.name, Log(settings.data, kept=settings.log_kept), peers)
        stack.push_async_callback(replica.close)
        sidecar = settings.sidecar, replication
        node = Node(replica, follow(*sidecar), partial(release, *sidecar))
        clients = Clients(
            node=node,
            session=forwarding,
            writes=settings.writes,
            redirect_to=settings.redirect_to,
            metrics=Metrics(node),
        )
        for application, port in (
            (Replication(node).application(), settings.replication_port),
            (clients.application(), settings.port),
        ):
            runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
            await runner.setup()
            stack.push_async_callback(runner.cleanup)
            await web.TCPSite(runner, settings.host or None, port).start()
        logger.info("%s listens on port %d, one of %d replicas", settings.name, settings.port, len(peers) + 1)
        running = asyncio.create_task(node.run())
        told = asyncio.create_task(ending.wait())
        await asyncio.wait([running, told], return_when=asyncio.FIRST_COMPLETED)
        told.cancel()
        node.stopping = True
        if node.leader is not None and not running.done():
            with suppress(TimeoutError):
                async with asyncio.timeout(DRAIN_SECONDS):
                    await node.leader.drain()
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


def _session() -> aiohttp.ClientSession:
    # A pod that is made anew has another address.
    return aiohttp.ClientSession(connector=aiohttp.TCPConnector(use_dns_cache=False))


def main() -> int:
    """Run the program; return its exit status."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    try:
        asyncio.run(serve(from_environment(os.environ)))
    except (SettingError, LockedError, OSError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except sqlite3.Error as error:
        sys.stderr.write(f"error: the volume fails: {error}\n")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
