"""The rules for names, labels and annotations: k8s.io/apimachinery `pkg/util/validation` and `pkg/api/validation`."""

import json
import re
from collections.abc import Mapping
from typing import Final

from sidecar.lab.resources import NAMESPACES, Object, Resource
from sidecar.lab.status import Cause

TOTAL_ANNOTATION_BYTES: Final = 256 * 1024
"""How long all keys and values of an object's annotations may be together."""

_SUBDOMAIN: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL: Final = r"[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_NAME_PART: Final = r"([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]"
_LABEL_VALUE: Final = rf"({_NAME_PART})?"
_MAX_SUBDOMAIN: Final = 253
_MAX_LABEL: Final = 63

_NAME_PART_RULE: Final = (
    "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character "
    f"(e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '{_NAME_PART}')"
)
_KEY_RULE: Final = (
    f"a valid label key {_NAME_PART_RULE} with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
)
_SUBDOMAIN_RULE: Final = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', "
    "and must start and end with an alphanumeric character "
    f"(e.g. 'example.com', regex used for validation is '{_SUBDOMAIN}')"
)
_LABEL_RULE: Final = (
    "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', "
    "and must start and end with an alphanumeric character "
    f"(e.g. 'my-name',  or '123-abc', regex used for validation is '{_LABEL}')"
)
_LABEL_VALUE_RULE: Final = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', "
    "and must start and end with an alphanumeric character "
    f"(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is '{_LABEL_VALUE}')"
)


def quoted(text: str) -> str:
    """A string as Go's `%q` writes it, near enough: in double quotes, with escapes."""
    return json.dumps(text, ensure_ascii=False)


def _too_long(limit: int, unit: str = "bytes") -> str:
    # The real server measures names in "characters" and everything else in "bytes". Both are ASCII, so both are right.
    return f"must be no more than {limit} {unit}"


def _subdomain_errors(text: str, unit: str = "bytes") -> list[str]:
    errors = [] if len(text) <= _MAX_SUBDOMAIN else [_too_long(_MAX_SUBDOMAIN, unit)]
    return errors if re.fullmatch(_SUBDOMAIN, text) else [*errors, _SUBDOMAIN_RULE]


def _qualified_name_errors(key: str) -> list[str]:
    prefix, slash, name = key.rpartition("/")
    if "/" in prefix:
        return [_KEY_RULE]
    errors: list[str] = []
    if slash and not prefix:
        errors.append("prefix part must be non-empty")
    elif slash:
        errors += [f"prefix part {error}" for error in _subdomain_errors(prefix)]
    if not name:
        errors.append("name part must be non-empty")
    elif len(name) > _MAX_LABEL:
        errors.append(f"name part {_too_long(_MAX_LABEL)}")
    if not re.fullmatch(_NAME_PART, name):
        errors.append(f"name part {_NAME_PART_RULE}")
    return errors


def selector_key_errors(key: str) -> list[str]:
    """What is wrong with the key of a label."""
    return _qualified_name_errors(key)


def label_value_errors(value: str) -> list[str]:
    """What is wrong with the value of a label."""
    errors = [] if len(value) <= _MAX_LABEL else [_too_long(_MAX_LABEL)]
    return errors if re.fullmatch(_LABEL_VALUE, value) else [*errors, _LABEL_VALUE_RULE]


def _name_causes(resource: Resource, name: str) -> list[Cause]:
    if not name:
        return [Cause("FieldValueRequired", "metadata.name", "Required value: name or generateName is required")]
    if resource is NAMESPACES and "." in name:
        errors = ["must not contain dots"]
    elif resource is NAMESPACES:
        errors = [] if len(name) <= _MAX_LABEL else [_too_long(_MAX_LABEL, "characters")]
        errors += [] if re.fullmatch(_LABEL, name) else [_LABEL_RULE]
    else:
        errors = _subdomain_errors(name, "characters")
    return [Cause("FieldValueInvalid", "metadata.name", f"Invalid value: {quoted(name)}: {e}") for e in errors]


def _label_causes(labels: Mapping[str, str]) -> list[Cause]:
    causes: list[Cause] = []
    for key, value in labels.items():
        wrong = [(key, error) for error in _qualified_name_errors(key)]
        wrong += [(value, error) for error in label_value_errors(value)]
        causes += [
            Cause("FieldValueInvalid", "metadata.labels", f"Invalid value: {quoted(text)}: {error}")
            for text, error in wrong
        ]
    return causes


def _annotation_causes(annotations: Mapping[str, str]) -> list[Cause]:
    # The real server compares keys in lower case: capitals are allowed in the prefix of an annotation.
    causes = [
        Cause("FieldValueInvalid", "metadata.annotations", f"Invalid value: {quoted(key)}: {error}")
        for key in annotations
        for error in _qualified_name_errors(key.lower())
    ]
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > TOTAL_ANNOTATION_BYTES:
        message = f"Too long: may not be more than {TOTAL_ANNOTATION_BYTES} bytes"
        causes.append(Cause("FieldValueTooLong", "metadata.annotations", message))
    return causes


def _lease_causes(spec: Object) -> list[Cause]:
    causes: list[Cause] = []
    duration, transitions = spec.get("leaseDurationSeconds"), spec.get("leaseTransitions")
    if duration is not None and duration <= 0:
        message = f"Invalid value: {duration}: must be greater than 0"
        causes.append(Cause("FieldValueInvalid", "spec.leaseDurationSeconds", message))
    if transitions is not None and transitions < 0:
        message = f"Invalid value: {transitions}: must be greater than or equal to 0"
        causes.append(Cause("FieldValueInvalid", "spec.leaseTransitions", message))
    return causes


def causes_against(resource: Resource, candidate: Object) -> list[Cause]:
    """Everything that is wrong with an object, empty when it may be stored."""
    metadata = candidate["metadata"]
    causes = _name_causes(resource, metadata.get("name", ""))
    causes += _label_causes(metadata.get("labels", {}))
    causes += _annotation_causes(metadata.get("annotations", {}))
    if resource.kind == "Lease":
        causes += _lease_causes(candidate.get("spec", {}))
    if resource.kind == "Event":
        about = candidate.get("involvedObject", {}).get("namespace", "")
        if about != metadata.get("namespace") and not (not about and metadata.get("namespace") == "default"):
            message = f"Invalid value: {quoted(about)}: does not match event.namespace"
            causes.append(Cause("FieldValueInvalid", "involvedObject.namespace", message))
    return causes
