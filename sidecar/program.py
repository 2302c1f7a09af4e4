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
from sidecar.companions import accompanied
from sidecar.cordon import CordonWatch
from sidecar.election import Balance, Candidacy
from sidecar.events import EventRecorder, Subject
from sidecar.group import EndpointsGroup, LeaseGroup, MixedGroup
from sidecar.health import HealthGate
from sidecar.kube import KubeClient
from sidecar.kubeconfig import ConfigError
from sidecar.locks import EndpointsLock, LeaseLock
from sidecar.metrics import Metrics
from sidecar.pairlock import PairLock
from sidecar.podlabel import PodLabel
from sidecar.settings import HTTP, METRICS_ADDRESS, PROBE_ADDRESS
from sidecar.tally import Tally

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from aiohttp.web import Application
    from structlog.typing import FilteringBoundLogger

    from sidecar.companions import Companion
    from sidecar.locks import Lock
    from sidecar.settings import Address, Option, Settings

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
    tally = Tally()
    kube = KubeClient(
        load,
        timeout=chosen.request_timeout,
        user_agent=f"leader-elector/{__version__}",
        tell=tally.request,
    )
    candidacy = _candidacy(chosen)
    balanced = candidacy.balance is not None
    candidate = Candidate(
        candidacy,
        _lock(chosen, kube, group=chosen.group if balanced else ""),
        group=_group(chosen, kube, log) if balanced else None,
        clock=SystemClock(),
        random=random.Random(),  # noqa: S311 - spreads requests, protects nothing
        request_timeout=chosen.request_timeout,
        log=log,
        tally=tally,
    )
    metrics = Metrics(
        election=chosen.election,
        group=chosen.group if balanced else "",
        candidate=candidate,
        candidacy=candidacy,
        tally=tally,
    )
    companions = _companions(chosen, candidate, kube, log)
    async with AsyncExitStack() as stack:
        stack.push_async_callback(kube.close)
        # Before the first contact with the API server: whoever asks early is told that nobody leads.
        ports = await stack.enter_async_context(_answering(chosen, candidate, metrics))
        await imports.complete()
        await _connect(kube, candidate)
        told = {"namespace": chosen.namespace, "ttl": duration.render(chosen.ttl), **ports}
        if chosen.balance and not balanced:
            log.info("nodes do not matter: this candidate does not know its own; set NODE_NAME to spec.nodeName")
        log.info("taking part", pod_uid=chosen.pod_uid or "unknown", **told)
        async with accompanied(companions, log):
            await candidate.run()


def _companions(chosen: Settings, candidate: Candidate, kube: KubeClient, log: FilteringBoundLogger) -> list[Companion]:
    """Return what runs beside the candidate; none of it is in its way."""
    clock = SystemClock()
    chance = random.Random()  # noqa: S311 - spreads requests, protects nothing
    about = _subject(chosen)
    found: list[Companion] = [
        EventRecorder(candidate, kube, about, identity=chosen.identity, now=clock.now, wall=clock.wall, log=log)
    ]
    if chosen.health_url:
        found.append(
            HealthGate(
                candidate,
                chosen.health_url,
                interval=chosen.health_interval,
                failures=chosen.health_failures,
                successes=chosen.health_successes,
                log=log,
            )
        )
    if chosen.node_name:
        patience = float(chosen.lease_seconds)
        found.append(CordonWatch(candidate, kube, node=chosen.node_name, patience=patience, random=chance, log=log))
    if chosen.pod_label is None:
        return found
    if not (chosen.pod_name and chosen.pod_uid):
        log.warning("the leader's pod is not labelled: ELECTION_POD_LABEL needs POD_NAME and POD_UID")
        return found
    found.append(
        PodLabel(
            candidate,
            kube,
            label=chosen.pod_label,
            election=(chosen.namespace, chosen.election),
            namespace=chosen.pod_namespace,
            pod=chosen.pod_name,
            uid=chosen.pod_uid,
            settle_seconds=float(chosen.lease_seconds),
            now=clock.now,
            random=chance,
            log=log,
        )
    )
    return found


def _subject(chosen: Settings) -> Subject:
    """Return what Kubernetes Events are about: the pod where it is known, else the lock object."""
    if chosen.pod_name and chosen.pod_uid:
        return Subject(
            api_version="v1",
            kind="Pod",
            namespace=chosen.pod_namespace,
            name=chosen.pod_name,
            uid=chosen.pod_uid,
        )
    kind, version = ("Endpoints", "v1") if chosen.lock == "endpoints" else ("Lease", "coordination.k8s.io/v1")
    return Subject(api_version=version, kind=kind, namespace=chosen.namespace, name=chosen.election)


@asynccontextmanager
async def _answering(chosen: Settings, candidate: Candidate, metrics: Metrics) -> AsyncIterator[dict[str, list[int]]]:
    """Answer on every address that was given; yields the ports.

    Probes and metrics are answered at the first address in any case. So a further address that is the same needs no
    server of its own.
    """
    election = web.Election(
        name=chosen.election,
        namespace=chosen.namespace,
        group=chosen.group if candidate.is_balanced() else "",
        candidate=candidate,
        now=SystemClock().now,
        metrics=metrics.render,
    )
    further: dict[Address, list[Option[object]]] = {}
    for option, address in ((PROBE_ADDRESS, chosen.probe_address), (METRICS_ADDRESS, chosen.metrics_address)):
        if address is not None and address != chosen.http:
            further.setdefault(address, []).append(option)
    async with AsyncExitStack() as stack:

        async def listen(app: Application, address: Address, *options: Option[object]) -> list[int]:
            try:
                return await stack.enter_async_context(web.serving(app, address.host, address.port))
            except OSError as error:
                names = " or ".join(f"--{option.flag}, {option.variable}" for option in options)
                reason = error.strerror or error
                raise StartError(f"cannot listen on {address} ({names}): {reason}", FAILED) from error

        ports = {"ports": await listen(web.application(election), chosen.http, HTTP) if chosen.http else []}
        for address, options in further.items():
            app = web.further(election, probes=PROBE_ADDRESS in options, metrics=METRICS_ADDRESS in options)
            found = await listen(app, address, *options)
            ports |= {f"{option.flag.removesuffix('-address')}_ports": found for option in options}
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


def _lock(chosen: Settings, kube: KubeClient, *, group: str) -> Lock:
    if chosen.lock == "endpointsleases":
        return PairLock(
            kube, namespace=chosen.namespace, election=chosen.election, group=group, timeout=chosen.request_timeout
        )
    kind = LeaseLock if chosen.lock == "leases" else EndpointsLock
    return kind(kube, namespace=chosen.namespace, election=chosen.election, group=group)


def _group(chosen: Settings, kube: KubeClient, log: FilteringBoundLogger) -> MixedGroup:
    cluster = chosen.balance_scope == "cluster"
    endpoints, leases = (
        kind(kube, namespace=chosen.namespace, group=chosen.group, cluster=cluster, log=log)
        for kind in (EndpointsGroup, LeaseGroup)
    )
    own, other = (leases, endpoints) if chosen.lock == "leases" else (endpoints, leases)
    return MixedGroup(own, other, log=log)


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
