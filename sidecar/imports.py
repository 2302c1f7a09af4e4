"""When libraries are imported: as little as possible before the first answer, and nothing once a candidate takes part.

The libraries hold far more than is used here. Imported as they are written, they are twice the memory and twice the
time until the first answer. From Python 3.15 on an import can wait until what it names is used (PEP 810); what is never
used is never loaded. But then whatever happens for the first time loads something: a first request, a first failure, a
first hand-over. A leader that has to read files before it can renew loses its lease on a slow disk, so `complete` loads
what an election may come to use before the candidate takes part.

On older versions of Python everything is imported at once, and there is nothing left to complete.
"""

from __future__ import annotations

import asyncio
import importlib
import os
import sys
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

NEEDED = (
    # Requests: the first one, the first with a body, and the first that fails.
    "aiohappyeyeballs.impl",
    "aiohttp.client",
    "aiohttp.cookiejar",
    "aiohttp.formdata",
    "aiohttp.payload",
    "aiohttp.resolver",
    "aiohttp.tcp_helpers",
    "asyncio.sslproto",
    "asyncio.staggered",
    "concurrent.futures.thread",
    "encodings.idna",
    "kubernetes_asyncio.client.exceptions",
    "kubernetes_asyncio.client.rest",
    "kubernetes_asyncio.config.config_exception",
    "netrc",
    "queue",
    "six.moves.urllib.parse",
    "urllib.request",
    "yarl._path",
    "yarl._quoters",
    # Questions on port 4040: the first one, and those with a header that takes some reading.
    "aiohttp.web_protocol",
    # Our own.
    "sidecar.balance",
    "sidecar.companions",
    "sidecar.settling",
)
"""Modules that are used only once something happens. Found with `python -X importtime` in every test of the system."""


_AUTHORITIES = "SSL_CERT_FILE"


def make_lazy() -> None:
    """Let every import from here on wait until it is needed, where Python can do that.

    In the program, and not by a flag or a variable of the image, so that it is the same wherever the program runs.
    """
    if sys.version_info >= (3, 15):
        sys.set_lazy_imports("all")


@contextmanager
def _no_authorities() -> Iterator[None]:
    """Keep OpenSSL from reading the system's certificate authorities, by the variable that names the file with them.

    aiohttp reads all of them as it is imported, 1.6 MiB, for requests that bring none of their own. Ours do: the
    client's context is made later, and reads them where a kubeconfig names none.
    """
    given = os.environ.get(_AUTHORITIES)
    os.environ[_AUTHORITIES] = os.devnull
    try:
        yield
    finally:
        if given is None:
            del os.environ[_AUTHORITIES]
        else:
            os.environ[_AUTHORITIES] = given


async def complete() -> None:
    """Import what an election may come to need; whoever asks who leads meanwhile is answered."""
    with _no_authorities():
        importlib.import_module("aiohttp.connector")
    for name in NEEDED:
        # A library's next version may be cut into other modules, and what is not loaded here is loaded when it is used.
        with suppress(ModuleNotFoundError):
            importlib.import_module(name)
        await asyncio.sleep(0)
