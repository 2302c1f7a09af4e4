"""The sidecar put together: a client, a lock object, a candidate, and what answers for it."""

from __future__ import annotations

import asyncio
import os
import random
import secrets
import signal
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from sidecar import __version__, duration, imports, kubeconfig, web
from sidecar.candidate import Candidate, SystemClock
from sidecar.election import Balance, Candidacy
from sidecar.group import EndpointsGroup
from sidecar.kube import KubeClient
from sidecar.kubeconfig import ConfigError
from sidecar.locks import EndpointsLock

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.typing import FilteringBoundLogger

    from sidecar.settings import Address, Settings

FAILED, MISUSED = 1, 2


class StartError(Exception):
    """The sidecar cannot start; the text is one line that says why. `exit_code` is the code to exit with."""

    def __init__(self, message: str, exit_code: int) -> None:
        super().__init__(message)
        self.exit_code = exit_code


async def run(chosen: Settings, log: FilteringBoundLogger) -> None:
    """Take part in the election, and answer who leads, until SIGTERM or SIGINT. Raises `StartError`."""
    for warning in chosen.warnings:
        log.warning(warning)
    try:
        load = kubeconfig.choose(
            kubeconfig=chosen.kubeconfig,
            use_cluster_credentials=chosen.use_cluster_credentials,
            environ=os.environ,
            home=Path("~"),
        )
    except ConfigError as error:
        raise StartError(str(error), MISUSED) from error
    kube = KubeClient(load, timeout=chosen.request_timeout, user_agent=f"leader-elector/{__version__}")
    candidacy = _candidacy(chosen)
    balanced = candidacy.balance is not None
    candidate = Candidate(
        candidacy,
        EndpointsLock(
            kube, namespace=chosen.namespace, election=chosen.election, group=chosen.group if balanced else ""
        ),
        group=EndpointsGroup(
            kube,
            namespace=chosen.namespace,
            group=chosen.group,
            cluster=chosen.balance_scope == "cluster",
            log=log,
        )
        if balanced
        else None,
        clock=SystemClock(),
        random=random.Random(),  # noqa: S311 - spreads requests, protects nothing
        request_timeout=chosen.request_timeout,
        log=log,
    )
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kube.close)
        # Before the first contact with the API server: whoever asks early is told that nobody leads.
        ports = await stack.enter_async_context(_answering(chosen, chosen.http, candidate)) if chosen.http else []
        await imports.complete()
        await _connect(kube, candidate)
        told = {"namespace": chosen.namespace, "ttl": duration.render(chosen.ttl), "ports": ports}
        if chosen.balance and not balanced:
            log.info("nodes do not matter: this candidate does not know its own; set NODE_NAME to spec.nodeName")
        log.info("taking part", pod_uid=chosen.pod_uid or "unknown", **told)
        await candidate.run()


@asynccontextmanager
async def _answering(chosen: Settings, address: Address, candidate: Candidate) -> AsyncIterator[list[int]]:
    group = chosen.group if candidate.is_balanced() else ""
    election = web.Election(name=chosen.election, namespace=chosen.namespace, group=group, candidate=candidate)
    app = web.application(election)
    async with AsyncExitStack() as stack:
        try:
            ports = await stack.enter_async_context(web.serving(app, address.host, address.port))
        except OSError as error:
            reason = error.strerror or error
            raise StartError(f"cannot listen on {address} (--http, ELECTION_HTTP): {reason}", FAILED) from error
        yield ports


async def _connect(kube: KubeClient, candidate: Candidate) -> None:
    """Load the client configuration, unless the process is told to end meanwhile; from here on signals are heard."""
    loop = asyncio.get_running_loop()
    connecting = loop.create_task(kube.connect())

    def leave() -> None:
        candidate.leave()
        connecting.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, leave)
    try:
        with suppress(asyncio.CancelledError):
            await connecting
    except ConfigError as error:
        raise StartError(str(error), MISUSED) from error


def _candidacy(chosen: Settings) -> Candidacy:
    return Candidacy(
        identity=chosen.identity,
        # Without a UID from the pod every process is somebody of its own: a restarted one cannot know that the record
        # in its name is not another pod's, and waits the lease out.
        pod_uid=chosen.pod_uid or f"process-{secrets.token_hex(8)}",
        node=chosen.node_name,
        lease_seconds=chosen.lease_seconds,
        renew_deadline=chosen.renew_deadline,
        retry_period=chosen.retry_period,
        weight=chosen.weight,
        releases_on_exit=chosen.release_on_exit,
        release_delay=chosen.release_delay,
        balance=Balance(slot=chosen.balance_slot, rebalance=chosen.rebalance)
        if chosen.balance and chosen.node_name
        else None,
    )
