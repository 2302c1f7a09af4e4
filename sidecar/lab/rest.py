"""Requests and answers of the Kubernetes REST API: from path, query, headers and body to what is asked, and back.

Knows nothing of a store; what cannot be understood is an ApiError, worded as kube-apiserver words it.
"""

import json
from contextlib import suppress
from dataclasses import dataclass
from http import HTTPMethod, HTTPStatus
from typing import Final

from aiohttp import web

from sidecar.lab.resources import ENDPOINTS, EVENTS, LEASES, NAMESPACES, NODES, PODS, Object, Resource
from sidecar.lab.selectors import FieldSelector, LabelSelector, parse_field_selector, parse_label_selector
from sidecar.lab.status import ApiError, Cause, bad_request, invalid, method_not_allowed, no_such_path
from sidecar.lab.store import Listing, WatchEvent
from sidecar.lab.validation import quoted

MAX_BODY_BYTES: Final = 3 * 1024 * 1024
"""The real server's limit on a request."""

_DEPRECATED: Final = '299 - "v1 Endpoints is deprecated in v1.33+; use discovery.k8s.io/v1 EndpointSlice"'
_MERGE_PATCH: Final = "application/merge-patch+json"
_PREFIXES: Final = {
    ("api", "v1"): (ENDPOINTS, PODS, EVENTS, NAMESPACES, NODES),
    ("apis", "coordination.k8s.io", "v1"): (LEASES,),
}


@dataclass(frozen=True, slots=True)
class Target:
    """What a request is about, from its path and query alone, as the real server's RequestInfo."""

    resource: Resource
    verb: str
    namespace: str
    name: str
    """For a list or a watch, the name that its field selector asks for; it counts for access only."""


@dataclass(frozen=True, slots=True)
class ListOptions:
    """What a list asks for. `at` is a version to stay at exactly, `not_older_than` one that must have been reached."""

    selectors: tuple[LabelSelector, FieldSelector]
    limit: int
    continue_token: str
    at: int | None
    not_older_than: int


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What a watch asks for. `since` is 0 for the present; `seconds` None for no limit of the client's own."""

    selectors: tuple[LabelSelector, FieldSelector]
    since: int
    initial: bool | None
    bookmarks: bool
    seconds: int | None


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a deletion asks for beside the object: preconditions and grace period."""

    uid: str | None
    version: str | None
    grace_seconds: int | None


def target_of(request: web.Request) -> Target | None:
    """Read the path. None for a path outside the API; ApiError 404 or 405 for what the API does not have."""
    parts = [part for part in request.path.split("/") if part]
    for prefix, resources in _PREFIXES.items():
        if tuple(parts[: len(prefix)]) == prefix and len(parts) > len(prefix):
            return _resource_target(request, parts[len(prefix) :], resources)
    return None


def _resource_target(request: web.Request, parts: list[str], resources: tuple[Resource, ...]) -> Target:
    namespace = ""
    if parts[0] == "namespaces" and len(parts) > 2:  # noqa: PLR2004 - namespaces/NAMESPACE/RESOURCE
        namespace, parts = parts[1], parts[2:]
    plural, name, rest = parts[0], parts[1] if len(parts) > 1 else "", parts[2:]
    resource = next((known for known in resources if known.plural == plural), None)
    if resource is None or rest:
        raise no_such_path()
    if (name and not namespace) if resource.namespaced else namespace:
        raise no_such_path()
    verb = _verb(request, name)
    if verb in {"list", "watch"}:
        name = _selected_name(request, resource)
    return Target(resource, verb, namespace, name)


def _selected_name(request: web.Request, resource: Resource) -> str:
    with suppress(ApiError):  # it is told when the request is served; access is decided before that
        return parse_field_selector(request.query.get("fieldSelector", ""), resource).required("metadata.name") or ""
    return ""


def _verb(request: web.Request, name: str) -> str:
    match request.method:
        case HTTPMethod.GET:
            if name:
                return "get"
            return "watch" if _flag(request.query.get("watch", "false")) else "list"
        case HTTPMethod.POST if not name:
            return "create"
        case HTTPMethod.PUT if name:
            return "update"
        case HTTPMethod.PATCH if name:
            return "patch"
        case HTTPMethod.DELETE if name:
            return "delete"
    raise method_not_allowed()


def wants_metadata_only(request: web.Request) -> bool:
    """Read `Accept`: the first representation that can be given. Raises ApiError 406 when there is none."""
    for clause in request.headers.get("Accept", "*/*").split(","):
        media, *pairs = (part.strip() for part in clause.split(";"))
        options = dict(pair.partition("=")[::2] for pair in pairs)
        if media not in {"application/json", "application/*", "*/*"}:
            continue
        if "as" not in options:
            return False
        if options["as"] in {"PartialObjectMetadata", "PartialObjectMetadataList"}:
            return True
    message = "406: Not Acceptable\n\nAvailable representations: application/json"
    raise ApiError(HTTPStatus.NOT_ACCEPTABLE, "NotAcceptable", message, details={})


def _flag(text: str) -> bool:
    # The real server's conversion of query values: everything but these is true, the empty string included.
    return text.lower() not in {"false", "0"}


def _integer(request: web.Request, name: str) -> int | None:
    text = request.query.get(name, "")
    if not text:
        return None
    try:
        return int(text)
    except ValueError as error:
        raise bad_request(f"strconv.ParseInt: parsing {quoted(text)}: invalid syntax") from error


def _version(text: str, prefix: str) -> int:
    if not text:
        return 0
    if not (text.isascii() and text.isdigit()):
        why = f"strconv.ParseUint: parsing {quoted(text)}: invalid syntax"
        raise bad_request(f"{prefix}resourceVersion: Invalid value: {quoted(text)}: {why}")
    return int(text)


def _selectors(request: web.Request, resource: Resource) -> tuple[LabelSelector, FieldSelector]:
    query = request.query
    labels = parse_label_selector(query.get("labelSelector", ""))
    return labels, parse_field_selector(query.get("fieldSelector", ""), resource)


def list_options(request: web.Request, resource: Resource) -> ListOptions:
    """Read the query of a list. Raises ApiError 400 and 422."""
    query = request.query
    _integer(request, "timeoutSeconds")
    limit = _integer(request, "limit") or 0
    version, match = query.get("resourceVersion", ""), query.get("resourceVersionMatch", "")
    token = query.get("continue", "")
    if "sendInitialEvents" in query:
        why = "Forbidden: sendInitialEvents is forbidden for list"
        raise _bad_options(Cause("FieldValueForbidden", "sendInitialEvents", why))
    _check_match(version, match, token)
    if token and version not in {"", "0"}:
        raise bad_request("specifying resource version is not allowed when using continue")
    asked = _version(version, "invalid resource version: ")
    # Without a match, a page that starts at a version stays exactly at it; 0 is answered whole, from the cache.
    exact = asked > 0 and (match == "Exact" or (not match and limit > 0))
    whole = version == "0" and not token
    return ListOptions(_selectors(request, resource), 0 if whole else limit, token, asked if exact else None, asked)


def watch_options(request: web.Request, resource: Resource) -> WatchOptions:
    """Read the query of a watch. Raises ApiError 400, 422, and 500 for a bad version, as the real server does."""
    query = request.query
    seconds = _integer(request, "timeoutSeconds") or None
    initial = _flag(query["sendInitialEvents"]) if "sendInitialEvents" in query else None
    _check_watch_match(query.get("resourceVersionMatch", ""), initial=initial)
    bookmarks = _flag(query.get("allowWatchBookmarks", "false"))
    selectors = _selectors(request, resource)
    try:
        since = _version(query.get("resourceVersion", ""), "")
    except ApiError as error:
        raise ApiError(HTTPStatus.INTERNAL_SERVER_ERROR, "", error.message) from error
    return WatchOptions(selectors, since, initial, bookmarks, seconds)


def _bad_options(*causes: Cause) -> ApiError:
    return invalid("ListOptions", "meta.k8s.io", "", list(causes))


def _check_match(version: str, match: str, token: str) -> None:
    where = "resourceVersionMatch"
    if not match:
        return
    causes: list[Cause] = []
    if token:
        causes.append(Cause("FieldValueForbidden", where, f"Forbidden: {where} is forbidden when continue is provided"))
    if not version:
        unless = f"Forbidden: {where} is forbidden unless resourceVersion is provided"
        causes.append(Cause("FieldValueForbidden", where, unless))
    if match not in {"Exact", "NotOlderThan"}:
        supported = f'Unsupported value: {quoted(match)}: supported values: "Exact", "NotOlderThan", ""'
        causes.append(Cause("FieldValueNotSupported", where, supported))
    elif match == "Exact" and version == "0":
        zero = f'Forbidden: {where} "exact" is forbidden for resourceVersion "0"'
        causes.append(Cause("FieldValueForbidden", where, zero))
    if causes:
        raise _bad_options(*causes)


def _check_watch_match(match: str, *, initial: bool | None) -> None:
    where = "resourceVersionMatch"
    causes: list[Cause] = []
    if initial is None and match:
        unless = f"Forbidden: {where} is forbidden for watch unless sendInitialEvents is provided"
        causes.append(Cause("FieldValueForbidden", where, unless))
    elif initial is not None and match != "NotOlderThan":
        required = f"Forbidden: sendInitialEvents requires setting {where} to NotOlderThan"
        causes.append(Cause("FieldValueForbidden", where, required))
        if match:
            supported = f'Unsupported value: {quoted(match)}: supported values: "NotOlderThan"'
            causes.append(Cause("FieldValueNotSupported", where, supported))
    if causes:
        raise _bad_options(*causes)


def _unsupported(message: str, details: Object | None = None) -> ApiError:
    return ApiError(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "UnsupportedMediaType", message, details=details)


async def _read(request: web.Request) -> bytes:
    try:
        return await request.read()
    except web.HTTPRequestEntityTooLarge as error:
        message = f"Request entity too large: limit is {MAX_BODY_BYTES}"
        code = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
        raise ApiError(code, "RequestEntityTooLarge", message) from error


async def read_object(request: web.Request, resource: Resource) -> object:
    """Read the JSON body of a create or an update. Raises ApiError 400, 413, 415."""
    if request.headers.get("Content-Type") and request.content_type != "application/json":
        raise _unsupported(
            "the body of the request was in an unknown format - accepted media types include: application/json"
        )
    raw = await _read(request)
    try:
        parsed: object = json.loads(raw)
    except ValueError as error:
        shown = raw[:1024].decode(errors="replace") or "<empty>"
        raise bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): couldn't get version/kind; "
            f"json parse error: {error} ({shown})"
        ) from error
    return parsed


async def read_patch(request: web.Request) -> object:
    """Read a JSON merge patch. Raises ApiError 400, 413, and 415 for any other kind of patch."""
    if request.content_type != _MERGE_PATCH:
        raise _unsupported("415: Unsupported Media Type", details={})
    try:
        parsed: object = json.loads(await _read(request))
    except ValueError as error:
        raise bad_request("invalid JSON patch") from error
    return parsed


async def read_delete_options(request: web.Request) -> DeleteOptions:
    """Read query and body of a deletion; the query's grace period wins. Raises ApiError 400, 413."""
    grace = _integer(request, "gracePeriodSeconds")
    raw = await _read(request)
    if not raw:
        return DeleteOptions(None, None, grace)
    try:
        body = json.loads(raw)
        preconditions = body.get("preconditions") or {}
        uid, version = preconditions.get("uid"), preconditions.get("resourceVersion")
        return DeleteOptions(uid, version, body.get("gracePeriodSeconds") if grace is None else grace)
    except (ValueError, AttributeError) as error:
        raise bad_request(f"couldn't get version/kind; json parse error: {error}") from error


# -- what is answered -------------------------------------------------------------------------------------------------


def shown(stored: Object, *, partial: bool) -> Object:
    """Return an object as it is answered: whole, or its metadata alone."""
    if not partial:
        return stored
    return {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": stored["metadata"]}


def shown_list(resource: Resource, listing: Listing, *, partial: bool) -> Object:
    """Return a page of a list as it is answered. Items of a whole list do not repeat kind and apiVersion."""
    metadata: Object = {"resourceVersion": str(listing.version)}
    if listing.continue_token:
        metadata["continue"] = listing.continue_token
    if listing.remaining is not None:
        metadata["remainingItemCount"] = listing.remaining
    if partial:
        kind, api_version = "PartialObjectMetadataList", "meta.k8s.io/v1"
        items = [shown(stored, partial=True) for stored in listing.items]
    else:
        kind, api_version = f"{resource.kind}List", resource.api_version
        items = [
            {name: value for name, value in stored.items() if name not in {"kind", "apiVersion"}}
            for stored in listing.items
        ]
    return {"kind": kind, "apiVersion": api_version, "metadata": metadata, "items": items}


def headers(resource: Resource | None) -> dict[str, str]:
    """Return the headers of a JSON answer: with the deprecation warning where the real server sends it."""
    common = {"Content-Type": "application/json", "Cache-Control": "no-cache, private"}
    return common | {"Warning": _DEPRECATED} if resource is ENDPOINTS else common


def encoded(body: Object) -> bytes:
    """Return JSON with a newline: a whole answer, or one line of a watch."""
    return json.dumps(body, separators=(",", ":"), ensure_ascii=False).encode() + b"\n"


def success(resource: Resource | None, body: Object, code: HTTPStatus = HTTPStatus.OK) -> web.Response:
    """Answer an object."""
    return web.Response(status=code, body=encoded(body), headers=headers(resource))


def failure(error: ApiError, target: Target | None) -> web.Response:
    """Answer a Status."""
    # Refusals that come before the resource's own handler carry no deprecation warning, in the real server as well.
    early = error.reason in {"Unauthorized", "Forbidden"} or error.details == {}
    sent = headers(target.resource if target and not early else None)
    if error.retry_after is not None:
        sent["Retry-After"] = str(error.retry_after)
    return web.Response(status=error.code, body=encoded(error.status()), headers=sent)


def event_line(event: WatchEvent, *, partial: bool) -> bytes:
    """Return one line of a watch."""
    return encoded({"type": event.type, "object": shown(event.object, partial=partial)})


def error_line(error: ApiError) -> bytes:
    """Return the line of a watch that tells why it ends."""
    return encoded({"type": "ERROR", "object": error.status()})
