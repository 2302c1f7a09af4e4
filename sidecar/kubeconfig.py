"""Where the client configuration comes from: the pod's service account, or a kubeconfig."""

from __future__ import annotations

import asyncio
import os
import signal
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

from kubernetes_asyncio.client import Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

LOAD_TIMEOUT = 15.0
"""Seconds for loading a configuration, which may run somebody's exec plug-in."""

DEFAULT_KUBECONFIG = Path(".kube") / "config"
"""Below the home directory, as kubectl has it."""


class ConfigError(Exception):
    """There is no usable client configuration; the message names what is wrong, where, and what to do."""


def choose(
    *, kubeconfig: str | None, use_cluster_credentials: bool, environ: Mapping[str, str], home: Path
) -> Callable[[], Awaitable[Configuration]]:
    """Return what loads the configuration, anew at each call: in-cluster when asked, or when nothing else is there.

    Raises `ConfigError` when there is nothing to load; what it returns raises it when loading fails.
    """
    if use_cluster_credentials:
        return _in_cluster
    if kubeconfig:
        return partial(_from_kubeconfig, kubeconfig)
    default = home / DEFAULT_KUBECONFIG
    if _is_file(str(default)):
        return partial(_from_kubeconfig, str(default))
    if environ.get("KUBERNETES_SERVICE_HOST"):
        return _in_cluster
    raise ConfigError(
        f"no API server to talk to: not in a pod, KUBECONFIG is not set and there is no {default}; "
        "set KUBECONFIG or --kubeconfig"
    )


async def _in_cluster() -> Configuration:
    configuration = _configuration()
    try:
        load_incluster_config(client_configuration=configuration)
    except (ConfigException, OSError, ValueError) as error:
        raise ConfigError(
            f"the pod's service account cannot be used: {_sentence(error)}; "
            "automountServiceAccountToken must not be false"
        ) from error
    reread = cast("Callable[[Configuration], None]", configuration.refresh_api_key_hook)

    def refresh(current: Configuration) -> None:
        reread(current)
        _strip_token(current)

    configuration.refresh_api_key_hook = refresh
    return configuration


async def _from_kubeconfig(paths: str) -> Configuration:
    """Load one kubeconfig, or several, merged as kubectl merges a list of paths."""
    if not _any_exists(paths):
        raise ConfigError(
            f"kubeconfig {paths}: no such file, or not readable; set KUBECONFIG or --kubeconfig to one that is"
        )
    configuration = _configuration()
    others = _children()
    try:
        async with asyncio.timeout(LOAD_TIMEOUT):
            await load_kube_config(config_file=paths, client_configuration=configuration, persist_config=False)
    except TimeoutError as error:
        raise ConfigError(f"kubeconfig {paths}: loading it took longer than {LOAD_TIMEOUT:.0f} s") from error
    except Exception as error:  # the library raises whatever a damaged file makes it trip over
        raise ConfigError(f"kubeconfig {paths}: {_sentence(error)}") from error
    finally:
        # The library does not end an exec plug-in that hangs, and the sidecar starts nothing else.
        for plug_in in _children() - others:
            with suppress(ProcessLookupError):
                os.kill(plug_in, signal.SIGKILL)
    _strip_token(configuration)
    return configuration


def _configuration() -> Configuration:
    """Return what a configuration is loaded into: one that trusts the authorities that client-go trusts.

    From Python 3.13 on, certificates without a key usage or a key identifier are refused (RFC 5280, strictly), and many
    a cluster's authority has none. Signatures, names and dates are verified all the same.
    """
    configuration = Configuration()
    configuration.disable_strict_ssl_verification = True
    return configuration


def _children() -> set[int]:
    """Return the processes that this one has started and not yet waited for (proc(5)); none where that is not told."""
    children: set[int] = set()
    for told in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):  # a thread that has just ended
            children.update(int(child) for child in told.read_text().split())
    return children


def _strip_token(configuration: Configuration) -> None:
    """Forgive a token file that ends in a newline, as client-go does; the library sends the newline along."""
    token = configuration.api_key.get("BearerToken")
    if token is not None:
        configuration.api_key["BearerToken"] = token.strip()


def _any_exists(paths: str) -> bool:
    return any(path and _is_file(path) for path in paths.split(os.pathsep))


def _is_file(path: str) -> bool:
    """Tell whether there is a file that may be looked at; a home that is not known, or not ours, has none."""
    try:
        return Path(path).expanduser().is_file()
    except (OSError, RuntimeError):
        return False


def _sentence(error: Exception) -> str:
    """Return an error's text in one line: a YAML error has several."""
    return " ".join(str(error).split()) or type(error).__name__
