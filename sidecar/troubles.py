"""What fails, told once: when it began, and when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sidecar.kube import ForbiddenError, UnauthorizedError
from sidecar.record import format_time

if TYPE_CHECKING:
    from collections.abc import Callable

    from structlog.typing import FilteringBoundLogger

    from sidecar.kube import ApiError

_MEANWHILE = {
    "watch": "polling meanwhile",
    "list": "nodes do not matter meanwhile: leaders are elected as by the stock image",
    "patch": "registrations are written with the whole object, and only where there is a census",
}
"""What is done without a permission, by its RBAC verb."""

_IN_A_ROLE = {
    "leases": "'leases' of 'coordination.k8s.io'",
    "endpoints and leases": "'endpoints' and on 'leases' of 'coordination.k8s.io'",
}
"""How a Role names what is not in the core API group."""


class Troubles:
    """Says once what began to fail, and once that it is over, however often it failed in between.

    `resource` is what RBAC calls the kind of the lock object; `wall` returns seconds since the epoch.
    """

    def __init__(self, log: FilteringBoundLogger, *, resource: str, wall: Callable[[], float]) -> None:
        self._log = log
        self._resource = _IN_A_ROLE.get(resource, repr(resource))
        self._wall = wall
        self._lasting: dict[str, dict[int | None, int]] = {}
        self.last = ""

    def met(self, verb: str, error: ApiError) -> None:
        """A request with this RBAC verb failed."""
        self.last = f"{format_time(int(self._wall()))} {error}"
        lasting = self._lasting.setdefault(verb, {})
        lasting[error.status] = lasting.get(error.status, 0) + 1
        if lasting[error.status] > 1:
            self._log.debug(f"{verb} failed again", error=str(error))
            return
        advice = ""
        if isinstance(error, ForbiddenError):
            advice = f": see that the Role of this service account allows the verb {verb!r} on {self._resource}"
            if verb in _MEANWHILE:
                advice += f"; {_MEANWHILE[verb]}"
        elif isinstance(error, UnauthorizedError):
            advice = ": the credentials are not accepted, and are loaded anew"
        self._log.warning(f"{verb} failed{advice}", error=str(error))

    def ended(self, verb: str) -> None:
        """A request with this verb was answered as it should be."""
        if lasting := self._lasting.pop(verb, None):
            self._log.info(f"{verb} works again", failures=sum(lasting.values()))
