"""What a container needs to reach an API server, as files in a folder that is mounted into it."""

from __future__ import annotations

import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from tests.testbed.connection import write_kubeconfig

if TYPE_CHECKING:
    from collections.abc import Sequence

    from tests.testbed.apiserver import PolicyRule, RealAPIServer

USER = "candidate"
MOUNTED = Path("/etc/kubernetes")
SERVICE_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
"""Where a pod has what is here `ca.crt`, `namespace` and `token`."""


class Credentials:
    """A user of the API server with a token file that can be rotated. Everybody on the machine may read it.

    The folder is made. `gateway` is the machine's address in the containers' network: a server on loopback is reached
    there. `mounts` and `env` are what `Containers.start` takes.
    """

    def __init__(
        self, server: RealAPIServer, folder: Path, *, rules: Sequence[PolicyRule], namespace: str, gateway: str
    ) -> None:
        self.namespace = namespace
        self.url = reachable(server.url, gateway)
        self._server = server
        self._folder = folder
        # The user in the container owns none of it. What pytest makes above the folder lets nobody else in.
        folder.mkdir(mode=0o755)
        self.token_file = folder / "token"
        server.kubeconfig_for(USER, rules, namespace=namespace, token_file=self.token_file)
        (folder / "ca.crt").write_bytes(server.ca_file.read_bytes())
        (folder / "namespace").write_text(namespace)
        write_kubeconfig(
            folder / "kubeconfig",
            url=self.url,
            ca_file=MOUNTED / "ca.crt",
            token=MOUNTED / "token",
        )
        for file in folder.iterdir():
            file.chmod(0o644)

    @property
    def mounts(self) -> dict[Path | str, str]:
        """The folder, for a kubeconfig."""
        return {self._folder: str(MOUNTED)}

    @property
    def env(self) -> dict[str, str]:
        """The variable that names the kubeconfig."""
        return {"KUBECONFIG": f"{MOUNTED}/kubeconfig"}

    @property
    def pod_mounts(self) -> dict[Path | str, str]:
        """The folder, where a pod has its service account."""
        return {self._folder: SERVICE_ACCOUNT}

    @property
    def pod_env(self) -> dict[str, str]:
        """The variables that a pod has."""
        address = urlsplit(self.url)
        return {
            "KUBERNETES_SERVICE_HOST": str(address.hostname),
            "KUBERNETES_SERVICE_PORT": str(address.port or 443),
        }

    def trust(self, authority: Path) -> None:
        """Let containers trust another certificate authority."""
        (self._folder / "ca.crt").write_bytes(authority.read_bytes())

    def rotate(self) -> str:
        """Make the token invalid, put another one into the file, and return the old one."""
        old = self.token_file.read_text()
        self._server.revoke_tokens(USER, namespace=self.namespace)
        self.token_file.write_text(self._server.issue_token(USER, namespace=self.namespace))
        return old


def reachable(url: str, gateway: str) -> str:
    """Return the URL by which containers reach a server that this machine reaches by `url`."""
    address = urlsplit(url)
    host = address.hostname or ""
    try:
        loopback = ipaddress.ip_address(host).is_loopback
    except ValueError:
        loopback = host == "localhost"
    return url.replace(address.netloc, f"{gateway}:{address.port}") if loopback else url
