"""From what a client sent to what is stored: the part of kube-apiserver's typed decoding that clients can notice."""

import json
import re
from typing import Final

from sidecar.lab.resources import Object, Resource
from sidecar.lab.status import ApiError, bad_request
from sidecar.lab.validation import quoted

_MICRO_TIME: Final = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}(Z|[-+]\d\d:\d\d)")
_METADATA: Final = (
    "name",
    "generateName",
    "namespace",
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "labels",
    "annotations",
    "ownerReferences",
    "finalizers",
)
_LEASE_SPEC: Final = ("holderIdentity", "leaseDurationSeconds", "acquireTime", "renewTime", "leaseTransitions")
_STRINGS: Final = frozenset({"name", "generateName", "namespace", "uid", "resourceVersion"})
_GO_TYPES: Final[dict[type, str]] = {bool: "bool", int: "number", float: "number", str: "string", list: "array"}


def _go_type(value: object) -> str:
    return _GO_TYPES.get(type(value), "object")


def decoded(resource: Resource, namespace: str, body: object) -> Object:
    """Copy what a client sent into the form that is stored: known fields only, empty ones left out.

    Raises ApiError 400 for what is no object of this resource, or of another namespace.
    """
    if not isinstance(body, dict):
        raise bad_request(
            f"the object provided is unrecognized (must be of type {resource.kind}): couldn't get version/kind; "
            f"json parse error: json: cannot unmarshal {_go_type(body)} into Go value of type "
            r'struct { APIVersion string "json:\"apiVersion,omitempty\""; Kind string "json:\"kind,omitempty\"" }'
            f" ({json.dumps(body).encode()[:32].hex()})"
        )
    kind, api_version = body.get("kind") or resource.kind, body.get("apiVersion") or resource.api_version
    if (kind, api_version) != (resource.kind, resource.api_version):
        raise bad_request(
            f'{kind} in version "{api_version.rpartition("/")[2]}" cannot be handled as a {resource.kind}: '
            f'no kind "{kind}" is registered for version "{api_version}" in scheme "pkg/runtime/scheme.go:111"'
        )
    metadata = _decoded_metadata(resource, body.get("metadata") or {})
    sent_to = metadata.get("namespace", namespace) if resource.namespaced else ""
    if sent_to != namespace:
        raise bad_request("the namespace of the provided object does not match the namespace sent on the request")
    if namespace:
        metadata["namespace"] = namespace
    decoded: Object = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": ordered(metadata)}
    for name in resource.fields:
        value = body.get(name)
        if value is not None and value != []:
            decoded[name] = _copied(value)
    if resource.kind == "Lease":
        spec = decoded.get("spec", {})
        _require_lease_types(resource, spec)
        # Without the feature gate CoordinatedLeaderElection the other two are dropped, as is what is unknown.
        decoded["spec"] = {name: spec[name] for name in _LEASE_SPEC if spec.get(name) is not None}
    return decoded


def _decoded_metadata(resource: Resource, sent: object) -> Object:
    if not isinstance(sent, dict):
        raise _wrong_type(
            resource, f"{_go_type(sent)} into Go struct field {resource.kind}.metadata of type v1.ObjectMeta"
        )
    metadata: Object = {}
    for name in _METADATA:
        value = sent.get(name)
        if name in {"labels", "annotations"}:
            value = _string_map(resource, name, value)
        elif name in _STRINGS and value is not None and not isinstance(value, str):
            raise _wrong_type(
                resource, f"{_go_type(value)} into Go struct field ObjectMeta.metadata.{name} of type string"
            )
        if value:
            metadata[name] = value if isinstance(value, (str, int)) else _copied(value)
    return metadata


def _string_map(resource: Resource, name: str, value: object) -> dict[str, str]:
    where = f"into Go struct field ObjectMeta.metadata.{name} of type"
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise _wrong_type(resource, f"{_go_type(value)} {where} map[string]string")
    for entry in value.values():
        if entry is not None and not isinstance(entry, str):
            raise _wrong_type(resource, f"{_go_type(entry)} {where} string")
    return {key: entry or "" for key, entry in value.items()}


def _wrong_type(resource: Resource, what: str) -> ApiError:
    return _undecodable(resource, f"json: cannot unmarshal {what}")


def _undecodable(resource: Resource, why: str) -> ApiError:
    return bad_request(f'{resource.kind} in version "{resource.version}" cannot be handled as a {resource.kind}: {why}')


def _require_lease_types(resource: Resource, spec: object) -> None:
    if not isinstance(spec, dict):
        raise _wrong_type(resource, f"{_go_type(spec)} into Go struct field Lease.spec of type v1.LeaseSpec")
    for name, wanted, go_type in (
        ("holderIdentity", str, "string"),
        ("leaseDurationSeconds", int, "int32"),
        ("leaseTransitions", int, "int32"),
    ):
        value = spec.get(name)
        if value is not None and type(value) is not wanted:
            raise _wrong_type(
                resource, f"{_go_type(value)} into Go struct field LeaseSpec.spec.{name} of type {go_type}"
            )
    for name in ("acquireTime", "renewTime"):
        value = spec.get(name)
        if value is not None and not (isinstance(value, str) and _MICRO_TIME.fullmatch(value)):
            raise _undecodable(resource, f'parsing time {quoted(str(value))} as "2006-01-02T15:04:05.000000Z07:00"')


def _copied(value: object) -> object:
    if isinstance(value, dict):
        return {key: _copied(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_copied(entry) for entry in value]
    return value


def ordered(metadata: Object) -> Object:
    """Return metadata with its fields in the order in which they are always answered."""
    return {name: metadata[name] for name in _METADATA if name in metadata}


def require_same_name(name: str, sent: Object) -> None:
    """Raise ApiError 400 unless the object has the name that the path names."""
    given = sent["metadata"].get("name")
    if not given:
        raise bad_request(f"the name of the object ({name} based on URL) was undeterminable: name must be provided")
    if given != name:
        raise bad_request(f"the name of the object ({given}) does not match the name on the URL ({name})")
