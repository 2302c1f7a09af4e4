"""What the API server answers instead of an object: `Status`, worded as kube-apiserver words it.

Source of the wording: k8s.io/apimachinery `pkg/api/errors` and answers of kube-apiserver 1.37, held by contract tests.
"""

from dataclasses import dataclass
from http import HTTPStatus

from sidecar.lab.resources import Object, Resource


@dataclass(frozen=True, slots=True)
class Cause:
    """One thing that is wrong with an object: which field, and what about it."""

    reason: str
    field: str
    message: str


class ApiError(Exception):
    """A request that failed, with the `Status` that tells the client."""

    def __init__(
        self,
        code: HTTPStatus,
        reason: str,
        message: str,
        *,
        details: Object | None = None,
        retry_after: int | None = None,
        continue_token: str | None = None,
    ) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details
        self.retry_after = retry_after
        self.continue_token = continue_token

    def status(self) -> Object:
        """The `Status` object that goes over the wire."""
        body: Object = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {"continue": self.continue_token} if self.continue_token else {},
            "status": "Failure",
            "message": self.message,
        }
        if self.reason:
            body["reason"] = self.reason
        if self.details is not None:
            body["details"] = self.details
        body["code"] = int(self.code)
        return body


def details(resource: Resource, name: str) -> Object:
    """The `details` that name an object by resource (`{"name": "x", "kind": "endpoints"}`)."""
    named: Object = {"name": name} if name else {}
    if resource.group:
        named["group"] = resource.group
    return named | {"kind": resource.plural}


def bad_request(message: str) -> ApiError:
    """400: the request cannot be understood."""
    return ApiError(HTTPStatus.BAD_REQUEST, "BadRequest", message)


def not_found(resource: Resource, name: str) -> ApiError:
    """404: no such object."""
    message = f'{resource.qualified_plural} "{name}" not found'
    return ApiError(HTTPStatus.NOT_FOUND, "NotFound", message, details=details(resource, name))


def no_such_path() -> ApiError:
    """404: no such resource."""
    message = "the server could not find the requested resource"
    return ApiError(HTTPStatus.NOT_FOUND, "NotFound", message, details={})


def method_not_allowed() -> ApiError:
    """405: the resource is known, the method is not."""
    message = "the server does not allow this method on the requested resource"
    return ApiError(HTTPStatus.METHOD_NOT_ALLOWED, "MethodNotAllowed", message, details={})


def already_exists(resource: Resource, name: str) -> ApiError:
    """409: an object of that name is there already."""
    message = f'{resource.qualified_plural} "{name}" already exists'
    return ApiError(HTTPStatus.CONFLICT, "AlreadyExists", message, details=details(resource, name))


def conflict(
    resource: Resource,
    name: str,
    why: str = "the object has been modified; please apply your changes to the latest version and try again",
) -> ApiError:
    """409: the object is not the one that the client believes it is."""
    message = f'Operation cannot be fulfilled on {resource.qualified_plural} "{name}": {why}'
    return ApiError(HTTPStatus.CONFLICT, "Conflict", message, details=details(resource, name))


def deletion_conflict(resource: Resource, name: str, why: str) -> ApiError:
    """409: a precondition of a deletion does not hold. The real server names the kind here, not the resource."""
    message = f'Operation cannot be fulfilled on {resource.qualified_kind} "{name}": {why}'
    named = details(resource, name) | {"kind": resource.kind}
    return ApiError(HTTPStatus.CONFLICT, "Conflict", message, details=named)


def invalid(kind: str, group: str, name: str, causes: list[Cause]) -> ApiError:
    """422: the object breaks the rules for its fields."""
    texts = [f"{cause.field}: {cause.message}" for cause in causes]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    qualified = f"{kind}.{group}" if group else kind
    named: Object = {"name": name} if name else {}
    if group:
        named["group"] = group
    if kind:
        named["kind"] = kind
    named["causes"] = [{"reason": cause.reason, "message": cause.message, "field": cause.field} for cause in causes]
    message = f'{qualified} "{name}" is invalid: {joined}'
    return ApiError(HTTPStatus.UNPROCESSABLE_ENTITY, "Invalid", message, details=named)


def expired(message: str, continue_token: str | None = None) -> ApiError:
    """410: the version asked for is no longer in the history."""
    return ApiError(HTTPStatus.GONE, "Expired", message, continue_token=continue_token)


def version_in_future(asked: int, current: int) -> ApiError:
    """504: the version asked for was never reached."""
    return ApiError(
        HTTPStatus.GATEWAY_TIMEOUT,
        "Timeout",
        f"Timeout: Too large resource version: {asked}, current: {current}",
        details={
            "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
            "retryAfterSeconds": 1,
        },
        retry_after=1,
    )


def unauthorized() -> ApiError:
    """401: a credential that nobody has."""
    return ApiError(HTTPStatus.UNAUTHORIZED, "Unauthorized", "Unauthorized")


def forbidden(message: str, named: Object) -> ApiError:
    """403: the user is known, and may not."""
    return ApiError(HTTPStatus.FORBIDDEN, "Forbidden", message, details=named)
