"""The test bed's own way to an API server: plain, blocking requests as an administrator, and kubeconfigs.

Nothing here is shared with the program under test, so that an error in its client cannot hide itself.
"""

from __future__ import annotations

import base64
import http.client
import json
import ssl
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import yaml


class APIError(Exception):
    """The API server answered with an error `Status`: its code, reason and message."""

    def __init__(self, code: int, reason: str, message: str) -> None:
        super().__init__(f"{code} {reason}: {message}")
        self.code = code
        self.reason = reason


class KubeconfigError(Exception):
    """A kubeconfig does not say what is needed; the message is one line."""


@dataclass(frozen=True, kw_only=True)
class Connection:
    """Where an API server is, and who asks."""

    url: str
    ca_file: Path
    token: str | None
    ssl_context: ssl.SSLContext = field(repr=False)

    @classmethod
    def trusting(cls, url: str, *, ca_file: Path, token: str | None) -> Connection:
        """Connect with a bearer token, trusting one certificate authority. Raises OSError without that file."""
        return cls(url=url, ca_file=ca_file, token=token, ssl_context=ssl.create_default_context(cafile=ca_file))

    def request(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        seconds: float = 10,
    ) -> Any:  # noqa: ANN401 - JSON
        """Send one request and return the answer's JSON. Raises APIError, and OSError when no answer comes in time."""
        return json.loads(self.read(method, path, body, content_type=content_type, seconds=seconds))

    def read(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        content_type: str = "application/json",
        seconds: float = 10,
    ) -> bytes:
        """Send one request and return the answer's bytes; `seconds` bounds each step of it. Raises as `request`."""
        headers = {"Accept": "application/json, */*"}
        if self.token is not None:
            headers["Authorization"] = f"Bearer {self.token}"
        if body is not None:
            headers["Content-Type"] = content_type
        address = urlsplit(self.url)
        client = http.client.HTTPSConnection(
            address.hostname or "", address.port, timeout=seconds, context=self.ssl_context
        )
        try:
            client.request(method, address.path + path, None if body is None else json.dumps(body), headers)
            answer = client.getresponse()
            data = answer.read()
        except http.client.HTTPException as error:
            raise ConnectionError(f"{method} {path}: {error!r}") from error
        finally:
            client.close()
        if answer.status >= http.client.BAD_REQUEST:
            raise _error(answer.status, answer.reason, data)
        return data


def connect(kubeconfig: Path, *, folder: Path) -> Connection:
    """Connect as the current context of a kubeconfig says; files for what it holds inline are made in `folder`.

    It must name a certificate authority, and a token or a client certificate. Raises KubeconfigError.
    """
    try:
        config = yaml.safe_load(kubeconfig.read_text())
        context = _named(config, "contexts", config["current-context"])["context"]
        cluster = _named(config, "clusters", context["cluster"])["cluster"]
        user = _named(config, "users", context["user"])["user"]
        url = cluster["server"]
    except OSError as error:
        raise KubeconfigError(f"{kubeconfig}: {error.strerror}") from error
    except (yaml.YAMLError, KeyError, TypeError) as error:
        raise KubeconfigError(f"{kubeconfig}: not a kubeconfig with a current context ({error!r})") from error
    ca_file = _file(cluster, "certificate-authority", kubeconfig=kubeconfig, folder=folder)
    if ca_file is None:
        raise KubeconfigError(f"{kubeconfig}: the cluster has no certificate-authority")
    certificate = _file(user, "client-certificate", kubeconfig=kubeconfig, folder=folder)
    key = _file(user, "client-key", kubeconfig=kubeconfig, folder=folder)
    token_file = _file(user, "tokenFile", kubeconfig=kubeconfig, folder=folder)
    token = token_file.read_text().strip() if token_file else user.get("token")
    connection = Connection.trusting(url.rstrip("/"), ca_file=ca_file, token=token)
    if certificate is not None:
        connection.ssl_context.load_cert_chain(certificate, key)
    elif token is None:
        raise KubeconfigError(f"{kubeconfig}: the user has neither a token nor a client certificate")
    return connection


def write_kubeconfig(
    path: Path,
    *,
    url: str,
    ca_file: Path | None,
    token: str | Path,
    namespace: str = "default",
) -> Path:
    """Write a kubeconfig for a bearer token, or for the file that holds it, and return its path.

    Without `ca_file` the URL is meant to be plain HTTP.
    """
    cluster = {"server": url} if ca_file is None else {"server": url, "certificate-authority": str(ca_file)}
    user = {"tokenFile": str(token)} if isinstance(token, Path) else {"token": token}
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": cluster}],
        "users": [{"name": "test", "user": user}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": namespace}}],
        "current-context": "test",
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=1))
    return path


def _named(config: Any, kind: str, name: str) -> Any:  # noqa: ANN401 - YAML
    for entry in config[kind]:
        if entry["name"] == name:
            return entry
    raise KeyError(f"{kind}: {name}")


def _file(section: dict[str, str], name: str, *, kubeconfig: Path, folder: Path) -> Path | None:
    if inline := section.get(f"{name}-data"):
        path = folder / f"{kubeconfig.name}.{name}"
        path.touch(mode=0o600)
        path.write_bytes(base64.b64decode(inline))
        return path
    # A relative path is meant from where the kubeconfig stands.
    return kubeconfig.parent / section[name] if section.get(name) else None


def _error(code: int, reason: str, data: bytes) -> APIError:
    try:
        status = json.loads(data)
        return APIError(code, status["reason"], status["message"])
    except (ValueError, TypeError, KeyError):
        return APIError(code, reason, data[:200].decode(errors="replace"))
