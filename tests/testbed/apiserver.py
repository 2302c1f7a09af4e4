"""A real API server for the tests: etcd and kube-apiserver on loopback, or the cluster that the environment names.

`python -m tests.testbed.apiserver` runs one until Ctrl-C and prints how to reach it.
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import sys
import tempfile
import time
import unittest
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

from tests.testbed import binaries, golang
from tests.testbed.certificate import signing_key
from tests.testbed.connection import APIError, Connection, KubeconfigError, connect, write_kubeconfig
from tests.testbed.ports import free_ports
from tests.testbed.processes import start, state, tail

if TYPE_CHECKING:
    import ssl
    import subprocess
    from types import FrameType
    from typing import Any, Self

ENVIRONMENT_KUBECONFIG = "LEADER_ELECTOR_TEST_KUBECONFIG"
READY_SECONDS = 60.0

PolicyRule = Mapping[str, Sequence[str]]
"""One RBAC rule as a Role has it: `apiGroups`, `resources`, `verbs`, perhaps `resourceNames`."""

_Permission = tuple[str, str, str, str]
"""API group, resource, name or empty for any, verb."""

STOCK_RULES: tuple[PolicyRule, ...] = (
    {"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update"]},
)
"""All that the stock image needs."""


class StartError(Exception):
    """The API server cannot be had; the message says why, with the ends of the logs where there are any."""


@dataclass(frozen=True, kw_only=True)
class Metrics:
    """What an API server counted since it started."""

    requests: Counter[tuple[str, str]]
    """Finished requests by verb and resource, as `("PUT", "endpoints")`; a watch is finished when it ends."""
    watches: Counter[str]
    """Watches open now, by resource."""
    cpu_seconds: float
    """Processor time of the server's process."""


class RealAPIServer:
    """A real API server, seen by its administrator. Made by `open_api_server`.

    This class serves any cluster. A test that asks it for a fault of the server itself is skipped, with the reason.
    """

    def __init__(self, *, connection: Connection, admin_kubeconfig: Path, folder: Path) -> None:
        self.connection = connection
        self.admin_kubeconfig = admin_kubeconfig
        self.folder = folder
        self._namespaces: list[str] = []
        self._kubeconfigs = 0
        self._granted: dict[tuple[str, str], list[_Permission]] = {}

    @property
    def url(self) -> str:
        """Base URL, without a slash at the end."""
        return self.connection.url

    @property
    def ca_file(self) -> Path:
        """The certificate authority of the server's certificate."""
        return self.connection.ca_file

    @property
    def ssl_context(self) -> ssl.SSLContext:
        """What to trust, and the administrator's client certificate where there is one."""
        return self.connection.ssl_context

    @property
    def admin_token(self) -> str | None:
        """The administrator's bearer token; None where a client certificate stands for it."""
        return self.connection.token

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Any:  # noqa: ANN401 - JSON
        """Send one request as the administrator; return the answer's JSON. Raises connection.APIError or OSError."""
        return self.connection.request(method, path, body, content_type=content_type)

    def namespace(self) -> str:
        """Create a namespace that nobody else uses, and return its name."""
        name = f"test-{secrets.token_hex(4)}"
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}
        self.request("POST", "/api/v1/namespaces", body)
        self._namespaces.append(name)
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

        The user is a service account of that namespace, with a token of an hour. With `token_file`, the token is
        written there, and the kubeconfig names that file. Called again for the same user, it replaces the rules.
        Returns when the server honours them, and refuses what it takes away.
        """
        self._account(user, namespace)
        self._grant(user, rules, namespace)
        token: str | Path = self.issue_token(user, namespace=namespace)
        if token_file is not None:
            token_file.touch(mode=0o600)
            token_file.write_text(str(token))
            token = token_file
        self._kubeconfigs += 1
        path = self.folder / f"{namespace}-{user}-{self._kubeconfigs}.kubeconfig"
        return write_kubeconfig(path, url=self.url, ca_file=self.ca_file, token=token, namespace=namespace)

    def issue_token(self, user: str, *, namespace: str) -> str:
        """Return a new token for a user of `kubeconfig_for`, valid for an hour."""
        body = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenRequest",
            "spec": {"expirationSeconds": 3600},
        }
        answer = self.request("POST", f"/api/v1/namespaces/{namespace}/serviceaccounts/{user}/token", body)
        return str(answer["status"]["token"])

    def revoke_tokens(self, user: str, *, namespace: str) -> None:
        """Make every token issued to the user so far invalid; the rules stay, and new tokens can be issued.

        The server remembers a token that it has seen for up to 10 s, so a test waits for the 401.
        """
        # A token is bound to the account's UID, and a new account has a new one.
        self.request("DELETE", f"/api/v1/namespaces/{namespace}/serviceaccounts/{user}")
        self._account(user, namespace)

    def metrics(self) -> Metrics:
        """Read the server's counters."""
        requests: Counter[tuple[str, str]] = Counter()
        watches: Counter[str] = Counter()
        cpu_seconds = 0.0
        for line in self.connection.read("GET", "/metrics", seconds=30).decode().splitlines():
            found = re.match(r"(\w+)(?:\{(.*)\})? (\S+)$", line)
            if found is None:
                continue
            name, value = found[1], float(found[3])
            labels = dict(re.findall(r'(\w+)="([^"]*)"', found[2] or ""))
            if name == "apiserver_request_total":
                requests[labels["verb"], labels["resource"]] += int(value)
            elif name == "apiserver_longrunning_requests" and labels["verb"] == "WATCH":
                watches[labels["resource"]] += int(value)
            elif name == "process_cpu_seconds_total":
                cpu_seconds = value
        return Metrics(requests=requests, watches=watches, cpu_seconds=cpu_seconds)

    def pause(self) -> None:
        """Stop the server's process (SIGSTOP): connections stay open and nothing answers."""
        _unavailable()

    def resume(self) -> None:
        """Continue the server's process after `pause`."""
        _unavailable()

    def stop_apiserver(self) -> None:
        """Kill the server's process: connections are refused, the data stays."""
        _unavailable()

    def start_apiserver(self) -> None:
        """Start the server again on the same port with the same data, and wait until it is ready. Raises StartError."""
        _unavailable()

    def stop_etcd(self) -> None:
        """Kill etcd below the running server; the data stays."""
        _unavailable()

    def start_etcd(self) -> None:
        """Start etcd again on the same ports with the same data. The server finds it by itself, after a while."""
        _unavailable()

    def restore(self) -> None:
        """Undo what the faults above left behind, and wait until the server is ready. Raises StartError."""

    @property
    def apiserver_pid(self) -> int:
        """Process id of kube-apiserver."""
        _unavailable()

    @property
    def etcd_pid(self) -> int:
        """Process id of etcd."""
        _unavailable()

    def close(self) -> None:
        """Remove what was made."""
        for name in self._namespaces:
            with contextlib.suppress(OSError, APIError):
                self.request("DELETE", f"/api/v1/namespaces/{name}")

    def __enter__(self) -> Self:
        """Return the server itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close the server."""
        self.close()

    def _account(self, user: str, namespace: str) -> None:
        self._apply(f"/api/v1/namespaces/{namespace}/serviceaccounts/{user}", "v1", "ServiceAccount", {})

    def _grant(self, user: str, rules: Sequence[PolicyRule], namespace: str) -> None:
        group = "rbac.authorization.k8s.io"
        base, version = f"/apis/{group}/v1/namespaces/{namespace}", f"{group}/v1"
        self._apply(f"{base}/roles/{user}", version, "Role", {"rules": [dict(rule) for rule in rules]})
        subject = {"kind": "ServiceAccount", "name": user, "namespace": namespace}
        role = {"apiGroup": group, "kind": "Role", "name": user}
        self._apply(f"{base}/rolebindings/{user}", version, "RoleBinding", {"subjects": [subject], "roleRef": role})
        # The authorizer learns of roles by a watch of its own, a moment after they are written.
        deadline = time.monotonic() + 10
        granted = [permission for rule in rules for permission in _permissions(rule)]
        withdrawn = [one for one in self._granted.get((user, namespace), []) if one not in granted]
        self._granted[user, namespace] = granted
        while not (
            all(self._honoured(user, one, namespace) for one in granted)
            and not any(self._honoured(user, one, namespace) for one in withdrawn)
        ):
            if time.monotonic() > deadline:
                raise StartError(f"{self.url}: the rules of {user} in {namespace} are not in force after 10 s")
            time.sleep(0.02)

    def _honoured(self, user: str, permission: _Permission, namespace: str) -> bool:
        group, resource, name, verb = permission
        resource, _, subresource = resource.partition("/")
        attributes = {
            "namespace": namespace,
            "verb": verb,
            "group": group,
            "resource": resource,
            "subresource": subresource,
            "name": name,
        }
        body = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {"user": f"system:serviceaccount:{namespace}:{user}", "resourceAttributes": attributes},
        }
        answer = self.request("POST", "/apis/authorization.k8s.io/v1/subjectaccessreviews", body)
        return bool(answer["status"]["allowed"])

    def _apply(self, path: str, version: str, kind: str, content: dict[str, Any]) -> None:
        body = {"apiVersion": version, "kind": kind, **content}
        self.request(
            "PATCH",
            f"{path}?fieldManager=testbed&force=true",
            {**body, "metadata": {"name": path.rpartition("/")[2]}},
            content_type="application/apply-patch+yaml",
        )


class LocalAPIServer(RealAPIServer):
    """etcd and kube-apiserver on free loopback ports, with their data and logs in a folder.

    Both end with the process that made this. `folder` is kept, but for etcd's data; without one, a temporary folder is
    made, and removed by `close`. `arguments` are further ones of kube-apiserver. Raises StartError or
    golang.BuildError.
    """

    def __init__(self, folder: Path | None = None, *, arguments: Sequence[str] = ()) -> None:
        self._programs = binaries.ensure()
        self._temporary = None if folder else Path(tempfile.mkdtemp(prefix="leader-elector-testbed-"))
        place = folder or self._temporary or Path()
        self._arguments = arguments
        self._port, self._etcd_port, self._peer_port = free_ports(3)
        self._etcd = self._launch_etcd(place)
        token = secrets.token_hex(16)
        _write_credentials(place, token)
        self._apiserver = self._launch(place)
        try:
            connection = self._await_ready(place, token)
        except StartError:
            self._end()
            raise
        url, ca_file = connection.url, connection.ca_file
        kubeconfig = write_kubeconfig(place / "admin.kubeconfig", url=url, ca_file=ca_file, token=token)
        super().__init__(connection=connection, admin_kubeconfig=kubeconfig, folder=place)

    def pause(self) -> None:
        """Stop the server's process (SIGSTOP): connections stay open and nothing answers."""
        self._apiserver.send_signal(signal.SIGSTOP)
        deadline = time.monotonic() + 5
        while state(self._apiserver.pid) != "T":
            if time.monotonic() > deadline:
                raise StartError("kube-apiserver does not stop on SIGSTOP")
            time.sleep(0.001)

    def resume(self) -> None:
        """Continue the server's process after `pause`."""
        self._apiserver.send_signal(signal.SIGCONT)

    def stop_apiserver(self) -> None:
        """Kill the server's process: connections are refused, the data stays."""
        self._apiserver.kill()
        self._apiserver.wait()

    def start_apiserver(self) -> None:
        """Start the server again on the same port with the same data, and wait until it is ready. Raises StartError."""
        self._apiserver = self._launch(self.folder)
        self._await_ready(self.folder, self.connection.token or "")

    def stop_etcd(self) -> None:
        """Kill etcd below the running server; the data stays."""
        self._etcd.kill()
        self._etcd.wait()

    def start_etcd(self) -> None:
        """Start etcd again on the same ports with the same data. The server finds it by itself, after a while."""
        self._etcd = self._launch_etcd(self.folder)

    def restore(self) -> None:
        """Undo what the faults above left behind, and wait until the server is ready. Raises StartError."""
        if self._etcd.poll() is not None:
            self.start_etcd()
        if self._apiserver.poll() is not None:
            self._apiserver = self._launch(self.folder)
        self.resume()
        self._await_ready(self.folder, self.connection.token or "")

    @property
    def apiserver_pid(self) -> int:
        """Process id of kube-apiserver."""
        return self._apiserver.pid

    @property
    def etcd_pid(self) -> int:
        """Process id of etcd."""
        return self._etcd.pid

    def close(self) -> None:
        """End both processes and remove the data; an own temporary folder goes altogether."""
        self._end()
        shutil.rmtree(self._temporary or self.folder / "etcd", ignore_errors=True)

    def _end(self) -> None:
        # The data is thrown away, so nothing needs to be put in order.
        for process in (self._apiserver, self._etcd):
            process.kill()
            process.wait()

    def _launch_etcd(self, folder: Path) -> subprocess.Popen[bytes]:
        client, peer = f"http://127.0.0.1:{self._etcd_port}", f"http://127.0.0.1:{self._peer_port}"
        command = [
            str(self._programs / "etcd"),
            f"--data-dir={folder / 'etcd'}",
            "--unsafe-no-fsync",
            "--log-level=warn",
            f"--listen-client-urls={client}",
            f"--advertise-client-urls={client}",
            f"--listen-peer-urls={peer}",
            f"--initial-advertise-peer-urls={peer}",
            f"--initial-cluster=default={peer}",
        ]
        return start(command, log=folder / "etcd.log")

    def _launch(self, folder: Path) -> subprocess.Popen[bytes]:
        command = [
            str(self._programs / "kube-apiserver"),
            f"--etcd-servers=http://127.0.0.1:{self._etcd_port}",
            f"--secure-port={self._port}",
            "--bind-address=127.0.0.1",
            f"--cert-dir={folder}",
            f"--token-auth-file={folder / 'tokens.csv'}",
            "--authorization-mode=RBAC",
            f"--service-account-key-file={folder / 'service-account.pub'}",
            f"--service-account-signing-key-file={folder / 'service-account.key'}",
            "--service-account-issuer=https://kubernetes.default.svc",
            "--service-cluster-ip-range=10.0.0.0/24",
            # Nobody here makes the default accounts that it would wait for.
            "--disable-admission-plugins=ServiceAccount",
            # The server keeps no Endpoints of its own, so that every request for Endpoints is a test's.
            "--endpoint-reconciler-type=none",
            *self._arguments,
        ]
        return start(command, log=folder / "kube-apiserver.log")

    def _await_ready(self, folder: Path, token: str) -> Connection:
        deadline = time.monotonic() + READY_SECONDS
        problem = "it did not write its certificate"
        while time.monotonic() < deadline:
            for name, process in (("etcd", self._etcd), ("kube-apiserver", self._apiserver)):
                if process.poll() is not None:
                    log = tail(folder / f"{name}.log")
                    raise StartError(f"{name} ended with status {process.returncode} as it started:\n{log}")
            try:
                # It makes the certificate itself, and writes it before it listens.
                ca_file = folder / "apiserver.crt"
                connection = Connection.trusting(f"https://127.0.0.1:{self._port}", ca_file=ca_file, token=token)
                connection.read("GET", "/readyz", seconds=5)
                connection.read("GET", "/api/v1/namespaces/default", seconds=5)
            except (OSError, APIError) as error:
                problem = str(error)
                time.sleep(0.05)
            else:
                return connection
        logs = "\n".join(f"{name}:\n{tail(folder / f'{name}.log')}" for name in ("etcd", "kube-apiserver"))
        raise StartError(f"kube-apiserver was not ready after {READY_SECONDS:g} s ({problem})\n{logs}")


def open_api_server(folder: Path | None = None) -> RealAPIServer:
    """Connect to the cluster of `LEADER_ELECTOR_TEST_KUBECONFIG`, or start a server of our own where that is not set.

    Raises StartError when neither can be had.
    """
    given = os.environ.get(ENVIRONMENT_KUBECONFIG)
    try:
        if not given:
            return LocalAPIServer(folder)
        place = folder or Path(tempfile.mkdtemp(prefix="leader-elector-testbed-"))
        connection = connect(Path(given).absolute(), folder=place)
        connection.request("GET", "/version")
    except golang.BuildError as error:
        raise StartError(str(error)) from error
    except (KubeconfigError, APIError, OSError) as error:
        raise StartError(f"{ENVIRONMENT_KUBECONFIG}: {error}") from error
    return RealAPIServer(connection=connection, admin_kubeconfig=Path(given).absolute(), folder=place)


def _write_credentials(folder: Path, token: str) -> None:
    tokens = folder / "tokens.csv"
    tokens.touch(mode=0o600)
    tokens.write_text(f"{token},admin,admin,system:masters\n")
    signing_key(folder)


def _permissions(rule: PolicyRule) -> list[_Permission]:
    return list(product(rule["apiGroups"], rule["resources"], rule.get("resourceNames") or ("",), rule["verbs"]))


def _unavailable() -> NoReturn:
    raise unittest.SkipTest(f"needs a server of its own: the processes of {ENVIRONMENT_KUBECONFIG} are not ours")


def main() -> int:
    """Run an API server until Ctrl-C or SIGTERM; status 1 and the reason on stderr when it cannot be had."""

    def interrupt(_signal: int, _frame: FrameType | None) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    try:
        with LocalAPIServer() as server:
            sys.stdout.write(f"export KUBECONFIG={server.admin_kubeconfig}\n")
            sys.stdout.flush()
            sys.stderr.write(f"{server.url} is ready; logs in {server.folder}; Ctrl-C ends it\n")
            signal.pause()
    except (StartError, golang.BuildError) as error:
        sys.stderr.write(f"error: {error}\n")
        return 1
    except KeyboardInterrupt:
        return 0
    return 0


if __name__ == "__main__":
    sys.exit(main())
