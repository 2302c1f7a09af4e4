"""The namespace that a command is about when none is named: the kubeconfig context's, as kubectl has it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from kubernetes_asyncio.config import list_kube_config_contexts

from sidecar import settings
from sidecar.kubeconfig import DEFAULT_KUBECONFIG, ConfigError

if TYPE_CHECKING:
    from collections.abc import Mapping

SERVICE_ACCOUNT_NAMESPACE = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
"""Where a pod finds the name of its own namespace."""

LONGEST_NAMESPACE = 63


def namespace(*, kubeconfig: str | None, environ: Mapping[str, str], home: Path) -> str:
    """Return the namespace of the context that `sidecar.kubeconfig.choose` chooses, `default` where it names none.

    Raises `ConfigError`. It is meant for a configuration that has been loaded: what is wrong with that is told there.
    """
    paths = kubeconfig or str((home / DEFAULT_KUBECONFIG).expanduser())
    if kubeconfig or Path(paths).is_file():
        source, named = f"kubeconfig {paths}: the context's namespace", _of_context(paths)
    elif environ.get("KUBERNETES_SERVICE_HOST"):
        source, named = str(SERVICE_ACCOUNT_NAMESPACE), _of_pod()
    else:
        return settings.NAMESPACE.default
    try:
        return settings.NAMESPACE.parse(named or settings.NAMESPACE.default)
    except ValueError as error:
        raise ConfigError(f"{source}: {named!r:.100} is {error}") from error


def _of_context(paths: str) -> str:
    try:
        _, active = list_kube_config_contexts(config_file=paths)
        named = active["context"].get("namespace") if active else None
    except Exception as error:  # the library raises whatever a damaged file makes it trip over
        raise ConfigError(f"kubeconfig {paths}: {' '.join(str(error).split()) or type(error).__name__}") from error
    return named if isinstance(named, str) else ""


def _of_pod() -> str:
    try:
        with SERVICE_ACCOUNT_NAMESPACE.open(encoding="utf-8", errors="replace") as file:
            return file.read(LONGEST_NAMESPACE + 1).strip()
    except OSError:
        return ""
