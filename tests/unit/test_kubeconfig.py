"""The pod's service account: what it leads to, and how its token is rotated."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

import pytest
from kubernetes_asyncio.config import incluster_config

from sidecar import kubeconfig
from sidecar.kube import KubeClient, UnauthorizedError
from tests.testbed.certificate import Authority, self_signed
from tests.testbed.connection import write_kubeconfig
from tests.unit.wire import Wire, answered, wire

if TYPE_CHECKING:
    from collections.abc import Callable

PATH = "/api/v1/namespaces/default/endpoints/example"
OBJECT = {"metadata": {"name": "example", "resourceVersion": "7"}}


@dataclass
class Pod:
    """What a pod mounts, and the server's side of TLS that its authority vouches for.

    `now` is the time by which the library judges how old a token is.
    """

    token: Path
    tls: ssl.SSLContext
    _monkeypatch: pytest.MonkeyPatch
    now: datetime = field(default_factory=lambda: datetime(2026, 1, 1))  # noqa: DTZ001 - the library's are naive

    def client(self, server: Wire, *, clock: Callable[[], float] = lambda: 0.0) -> KubeClient:
        """Return a client with the pod's credentials; its environment names `server`."""
        address = urlsplit(server.url)
        self._monkeypatch.setenv("KUBERNETES_SERVICE_HOST", str(address.hostname))
        self._monkeypatch.setenv("KUBERNETES_SERVICE_PORT", str(address.port))
        load = kubeconfig.choose(kubeconfig=None, use_cluster_credentials=True, environ={}, home=Path("/nowhere"))
        return KubeClient(load, timeout=5, user_agent="t", clock=clock)


@pytest.fixture
def pod(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Pod:
    """Mount a service account whose token is `old`."""
    token = tmp_path / "token"
    token.write_text("old")
    authority = self_signed(tmp_path / "ca.crt")
    monkeypatch.setattr(incluster_config, "SERVICE_TOKEN_FILENAME", str(token))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority))
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    tls.load_cert_chain(authority)
    pod = Pod(token, tls, monkeypatch)
    clock = SimpleNamespace(datetime=SimpleNamespace(now=lambda: pod.now))
    monkeypatch.setattr(incluster_config, "datetime", clock)
    return pod


def tokens(server: Wire) -> list[str]:
    """Return the credentials of each request."""
    return [asked.headers["authorization"] for asked in server.asked]


@pytest.mark.parametrize("ending", ["", "\n"])
async def test_a_pods_service_account_is_used(pod: Pod, ending: str) -> None:
    """Host and port are the environment's, the authority and the token the mounted ones; a newline is forgiven."""
    pod.token.write_text(f"secret{ending}")
    async with wire(answered(OBJECT), tls=pod.tls) as server:
        kube = pod.client(server)
        assert await kube.get(PATH) == OBJECT
        await kube.close()
    assert tokens(server) == ["Bearer secret"]


async def test_a_rotated_token_is_used_within_a_minute(pod: Pod) -> None:
    """The kubelet replaces a token long before it expires: it is read again by itself, without being refused first."""
    async with wire(answered(OBJECT), tls=pod.tls) as server:
        kube = pod.client(server)
        await kube.get(PATH)
        pod.token.write_text("new\n")
        pod.now += timedelta(seconds=60)
        await kube.get(PATH)
        await kube.get(PATH)
        await kube.close()
    assert tokens(server) == ["Bearer old", "Bearer new", "Bearer new"]


async def test_a_refused_token_is_read_again_at_once(pod: Pod) -> None:
    """After a 401 the next request carries what the file holds now, with no minute in between."""
    seconds = iter(range(100, 200, 10))
    async with wire(answered({}, 401), answered(OBJECT), tls=pod.tls) as server:
        kube = pod.client(server, clock=lambda: next(seconds))
        with pytest.raises(UnauthorizedError):
            await kube.get(PATH)
        pod.token.write_text("new\n")
        assert await kube.get(PATH) == OBJECT
        await kube.close()
    assert tokens(server) == ["Bearer old", "Bearer new"]


@pytest.fixture
def strict_python(monkeypatch: pytest.MonkeyPatch) -> None:
    """Verify certificates as Python 3.13 and later do by default."""
    context = ssl.create_default_context

    def strict(*, cafile: str | None) -> ssl.SSLContext:
        made = context(cafile=cafile)
        made.verify_flags |= ssl.VERIFY_X509_STRICT
        return made

    monkeypatch.setattr(ssl, "create_default_context", strict)


@pytest.mark.usefixtures("strict_python")
async def test_an_authority_that_client_go_accepts_is_accepted(
    pod: Pod, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """One that states no key usage, as many a cluster's: from the service account and from a kubeconfig."""
    authority = Authority(tmp_path, strict=False)
    pod.tls.load_cert_chain(*authority.server("server", names=[], addresses=["127.0.0.1"]))
    monkeypatch.setattr(incluster_config, "SERVICE_CERT_FILENAME", str(authority.certificate))
    async with wire(answered(OBJECT), tls=pod.tls) as server:
        file = write_kubeconfig(tmp_path / "file", url=server.url, ca_file=authority.certificate, token="secret")
        load = kubeconfig.choose(kubeconfig=str(file), use_cluster_credentials=False, environ={}, home=Path("/nowhere"))
        for kube in (pod.client(server), KubeClient(load, timeout=5, user_agent="t")):
            assert await kube.get(PATH) == OBJECT
            await kube.close()


async def test_a_home_that_may_not_be_looked_into_has_no_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    """An unprivileged process with root's HOME uses its service account; a kubeconfig out of reach is one line."""

    def refuse(path: Path) -> bool:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "is_file", refuse)
    in_pod = {"KUBERNETES_SERVICE_HOST": "10.96.0.1"}
    home = Path("/root")
    load = kubeconfig.choose(kubeconfig=None, use_cluster_credentials=False, environ=in_pod, home=home)
    with pytest.raises(kubeconfig.ConfigError, match="service account"):
        await load()
    load = kubeconfig.choose(kubeconfig="/root/config", use_cluster_credentials=False, environ={}, home=home)
    with pytest.raises(kubeconfig.ConfigError, match="kubeconfig /root/config: no such file, or not readable"):
        await load()


def test_nobody_at_home_has_no_kubeconfig(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user without a home directory, as a container's random uid, gets the one line, and no traceback."""

    def nowhere(_path: Path) -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "expanduser", nowhere)
    with pytest.raises(kubeconfig.ConfigError, match=r"there is no ~/.kube/config; set KUBECONFIG"):
        kubeconfig.choose(kubeconfig=None, use_cluster_credentials=False, environ={}, home=Path("~"))
