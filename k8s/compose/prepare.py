"""Makes the API server of docker-compose.yml to the candidates what a cluster's is to a pod.

Waits until the server is ready, applies the recommended permissions, and writes a service account's files, `ca.crt`,
`token` and `namespace`, for the candidates. It may run any number of times. Exits 0 when whoever has these files may
take part in an election, else 1 with one line that says why.
"""
# ruff: noqa: INP001 - a script, which a container runs

from __future__ import annotations

import json
import ssl
import sys
import time
from pathlib import Path
from typing import Any
from urllib.request import HTTPSHandler, ProxyHandler, Request, build_opener

import yaml

SERVER = "https://kubernetes.default.svc:6443"
CERTIFICATE = Path("/certificates/apiserver.crt")
"""The server's own, with the authority behind it that the server made up for this one."""
TOKENS = Path("/k8s/compose/tokens.csv")
PERMISSIONS = Path("/k8s/rbac/recommended/rbac.yaml")
ACCOUNT = Path("/serviceaccount")

READY_SECONDS = 120.0
"""A server that starts for the first time takes about five."""
RETRY_SECONDS = 0.2
REQUEST_SECONDS = 5.0
TOKEN_SECONDS = 365 * 24 * 3600
"""Nobody here renews a token as a kubelet does; every `up` issues a new one."""


def main() -> int:
    """Try until it is done, and return the exit code."""
    deadline = time.monotonic() + READY_SECONDS
    while True:
        try:
            prepare()
        except OSError as error:
            # At first there is no certificate, nobody listens, not everything is served, and roles take a moment.
            if time.monotonic() > deadline:
                sys.stderr.write(
                    f"error: not after {READY_SECONDS:.0f} s: {SERVER}: {error}; see the log of kube-apiserver\n"
                )
                return 1
            time.sleep(RETRY_SECONDS)
        else:
            sys.stdout.write(f"{SERVER} is ready\n")
            return 0


def prepare() -> None:
    """Do all of it once. Raises OSError when something of it is not possible yet."""
    administrator = TOKENS.read_text().partition(",")[0]
    request("GET", "/readyz", token=administrator)
    paths = {}
    for manifest in yaml.safe_load_all(PERMISSIONS.read_text()):
        path = paths[manifest["kind"]] = path_of(manifest)
        # A server-side apply makes what is not there, and changes nothing the second time.
        apply = f"{path}?fieldManager=compose&force=true"
        request("PATCH", apply, manifest, token=administrator, content_type="application/apply-patch+yaml")
    wanted = {
        "apiVersion": "authentication.k8s.io/v1",
        "kind": "TokenRequest",
        "spec": {"expirationSeconds": TOKEN_SECONDS},
    }
    account = paths["ServiceAccount"]
    token = json.loads(request("POST", f"{account}/token", wanted, token=administrator))["status"]["token"]
    namespace = account.split("/")[4]
    # Roles are in force a moment after they were written, and a candidate that is refused something does without it
    # for minutes.
    request("GET", f"/api/v1/namespaces/{namespace}/endpoints", token=token)
    for name, content in (("ca.crt", CERTIFICATE.read_text()), ("namespace", namespace), ("token", token)):
        # In one step, because candidates of an earlier `up` may be reading it.
        written = ACCOUNT / f".{name}"
        written.write_text(content)
        written.rename(ACCOUNT / name)


def path_of(manifest: dict[str, Any]) -> str:
    """Return an object's path; it is one in a namespace, and of a kind with a regular plural."""
    version, metadata = manifest["apiVersion"], manifest["metadata"]
    base = f"/apis/{version}" if "/" in version else f"/api/{version}"
    return f"{base}/namespaces/{metadata['namespace']}/{manifest['kind'].lower()}s/{metadata['name']}"


def request(
    method: str, path: str, body: object = None, *, token: str, content_type: str = "application/json"
) -> bytes:
    """Send one request and return the answer. Raises OSError, also for an answer that is an error."""
    headers = {"Authorization": f"Bearer {token}", "Content-Type": content_type}
    content = None if body is None else json.dumps(body).encode()
    trusting = HTTPSHandler(context=ssl.create_default_context(cafile=str(CERTIFICATE)))
    # Docker gives containers the proxy that it is configured with, and that one knows nothing of this network.
    opener = build_opener(trusting, ProxyHandler({}))
    question = Request(SERVER + path, content, headers, method=method)  # noqa: S310 - the scheme is a constant's
    with opener.open(question, timeout=REQUEST_SECONDS) as answer:
        return bytes(answer.read())


if __name__ == "__main__":
    sys.exit(main())
