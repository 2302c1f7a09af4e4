"""The embedded API server, for tests that run unchanged against it and a real one."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Protocol

from sidecar.lab.access import ADMIN, User, rule
from sidecar.lab.resources import NAMESPACES
from tests.testbed.connection import write_kubeconfig

if TYPE_CHECKING:
    import ssl
    from collections.abc import Sequence
    from pathlib import Path

    from sidecar.lab.apiserver import EmbeddedAPIServer
    from tests.testbed.apiserver import PolicyRule


class APIServer(Protocol):
    """What the embedded and the real API server have in common for a test. Their docstrings are in apiserver.py."""

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""

    @property
    def ssl_context(self) -> ssl.SSLContext | None:
        """What to trust, and the administrator's client certificate where there is one; None for plain HTTP."""

    @property
    def admin_token(self) -> str | None:
        """The administrator's bearer token; None where a client certificate stands for it."""

    @property
    def admin_kubeconfig(self) -> Path:
        """The administrator's kubeconfig."""

    def namespace(self) -> str:
        """Create a namespace that nobody else uses, and return its name."""

    def kubeconfig_for(
        self, user: str, rules: Sequence[PolicyRule], *, namespace: str, token_file: Path | None = None
    ) -> Path:
        """Write a kubeconfig of a user who may do in `namespace` what the rules say, and nothing else."""

    def issue_token(self, user: str, *, namespace: str) -> str:
        """Return a new token for a user of `kubeconfig_for`."""

    def revoke_tokens(self, user: str, *, namespace: str) -> None:
        """Make every token issued to the user so far invalid; new ones can be issued."""


class EmbeddedForTests:
    """A started embedded server, with an administrator and users of its own."""

    def __init__(self, server: EmbeddedAPIServer, folder: Path) -> None:
        self.server = server
        self.ssl_context: ssl.SSLContext | None = None
        self.admin_token: str | None = secrets.token_hex(16)
        self.admin_kubeconfig = folder / "admin.kubeconfig"
        self._folder = folder
        self._kubeconfigs = 0
        self._users: dict[str, User] = {}
        self._tokens: dict[str, User] = {self.admin_token: ADMIN}
        server.users = self._tokens
        server.write_kubeconfig(self.admin_kubeconfig, token=self.admin_token)

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return self.server.url

    def namespace(self) -> str:
        """Create a namespace that nobody else uses, and return its name."""
        name = f"test-{secrets.token_hex(4)}"
        self.server.store.create(NAMESPACES, "", {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
        return name

    def kubeconfig_for(
        self,
        user: str,
        rules: Sequence[PolicyRule],
        *,
        namespace: str,
        token_file: Path | None = None,
    ) -> Path:
        """Write a kubeconfig of a user who may do in `namespace` what the rules say, and nothing else.

        With `token_file`, the token is written there, and the kubeconfig names that file. Called again for the same
        user, it replaces the rules.
        """
        granted = tuple(
            rule(one["verbs"], _resources(one), names=one.get("resourceNames", ()), namespaces=[namespace])
            for one in rules
        )
        name = _account(user, namespace)
        self._users[name] = User(name, granted)
        for token, known in self._tokens.items():
            if known.name == name:
                self._tokens[token] = self._users[name]
        token_or_file: str | Path = self.issue_token(user, namespace=namespace)
        if token_file is not None:
            token_file.touch(mode=0o600)
            token_file.write_text(str(token_or_file))
            token_or_file = token_file
        self._kubeconfigs += 1
        path = self._folder / f"{namespace}-{user}-{self._kubeconfigs}.kubeconfig"
        return write_kubeconfig(path, url=self.url, ca_file=None, token=token_or_file, namespace=namespace)

    def issue_token(self, user: str, *, namespace: str) -> str:
        """Return a new token for a user of `kubeconfig_for`."""
        token = secrets.token_hex(16)
        self._tokens[token] = self._users[_account(user, namespace)]
        return token

    def revoke_tokens(self, user: str, *, namespace: str) -> None:
        """Make every token issued to the user so far invalid; new ones can be issued."""
        name = _account(user, namespace)
        for token in [token for token, known in self._tokens.items() if known.name == name]:
            del self._tokens[token]


def _account(user: str, namespace: str) -> str:
    # The name that a service account has on a real server, because messages show it.
    return f"system:serviceaccount:{namespace}:{user}"


def _resources(one: PolicyRule) -> list[str]:
    return [f"{resource}.{group}" if group else resource for group in one["apiGroups"] for resource in one["resources"]]
