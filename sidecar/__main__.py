"""leader-elector: the sidecar. Flags and environment become settings, settings become a running candidate."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
import socket
import sys
from contextlib import AsyncExitStack, suppress
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from sidecar import duration, kubeconfig, logs, settings, web
from sidecar.candidate import Candidate, SystemClock
from sidecar.election import Candidacy
from sidecar.kube import KubeClient
from sidecar.kubeconfig import ConfigError
from sidecar.locks import EndpointsLock

if TYPE_CHECKING:
    from structlog.typing import FilteringBoundLogger

OK, FAILED, MISUSED = 0, 1, 2


def main() -> None:
    """Run the sidecar until it is told to end; exit 0, 1 when it failed, 2 when it was called wrongly."""
    try:
        chosen = settings.load(sys.argv[1:], os.environ, socket.gethostname())
    except settings.HelpRequested:
        sys.stdout.write(settings.usage())
        sys.exit(OK)
    except settings.UsageError as error:
        sys.stderr.write(f"{error.usage}leader-elector: {error}\n")
        sys.exit(error.exit_code)
    logs.configure(chosen.log_format, chosen.log_level, sys.stderr)
    log = structlog.get_logger().bind(election=chosen.election, identity=chosen.identity)
    try:
        sys.exit(asyncio.run(_serve(chosen, log)))
    except ConfigError as error:
        sys.exit(_told(error, MISUSED))
    except Exception:
        log.critical("ended by a defect of the program", exc_info=True)
        sys.exit(FAILED)


async def _serve(chosen: settings.Settings, log: FilteringBoundLogger) -> int:
    for warning in chosen.warnings:
        log.warning(warning)
    load = kubeconfig.choose(
        kubeconfig=chosen.kubeconfig,
        use_cluster_credentials=chosen.use_cluster_credentials,
        environ=os.environ,
        home=Path.home(),
    )
    kube = KubeClient(load, timeout=chosen.request_timeout, user_agent=f"leader-elector/{version('leader-elector')}")
    candidate = Candidate(
        _candidacy(chosen),
        EndpointsLock(kube, namespace=chosen.namespace, election=chosen.election),
        clock=SystemClock(),
        random=random.Random(),  # noqa: S311 - spreads requests, protects nothing
        request_timeout=chosen.request_timeout,
        log=log,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kube.close)
        ports: list[int] = []
        if chosen.http is not None:
            # Before the first contact with the API server: whoever asks early is told that nobody leads.
            contest = web.Contest(election=chosen.election, namespace=chosen.namespace, candidate=candidate)
            serving = web.serving(web.application(contest), chosen.http.host, chosen.http.port)
            try:
                ports = await stack.enter_async_context(serving)
            except OSError as error:
                where = f"{chosen.http} (--http, ELECTION_HTTP)"
                return _told(f"cannot listen on {where}: {error.strerror or error}", FAILED)
        loop = asyncio.get_running_loop()
        connecting = loop.create_task(kube.connect())

        def leave() -> None:
            candidate.leave()
            connecting.cancel()

        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, leave)
        with suppress(asyncio.CancelledError):
            await connecting
        log.info("taking part", namespace=chosen.namespace, ttl=duration.render(chosen.ttl), ports=ports)
        await candidate.run()
    return OK


def _candidacy(chosen: settings.Settings) -> Candidacy:
    return Candidacy(
        identity=chosen.identity,
        # Without a UID from the pod every process is somebody of its own: a restarted one cannot know that the record
        # in its name is not another pod's, and waits the lease out.
        pod_uid=chosen.pod_uid or f"process-{secrets.token_hex(8)}",
        node=chosen.node_name,
        lease_seconds=chosen.lease_seconds,
        renew_deadline=chosen.renew_deadline,
        retry_period=chosen.retry_period,
    )


def _told(error: object, exit_code: int) -> int:
    sys.stderr.write(f"leader-elector: {error}\n")
    return exit_code


if __name__ == "__main__":
    main()
