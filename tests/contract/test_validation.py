"""What the API server accepts as names, labels and annotations, and how large."""

import pytest

from tests.contract.client import Api, endpoints

NAME_PART = (
    "name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric "
    "character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is "
    "'([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)
SUBDOMAIN = (
    "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
    r"'[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')"
)
LABEL_VALUE = (
    "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and "
    "end with an alphanumeric character (e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
    "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
)
ANNOTATIONS_LIMIT = 256 * 1024


@pytest.mark.parametrize("name", ["a", "a-b.c9", "0", "x" * 253])
async def test_valid_names(api: Api, name: str) -> None:
    """RFC 1123 subdomains up to 253 characters are names."""
    assert (await api.post(api.endpoints(), endpoints(name))).status == 201


@pytest.mark.parametrize("name", ["Bad", "under_score", "-a", "a-", "a..b", ".a", "with space"])
async def test_invalid_names(api: Api, name: str) -> None:
    """Anything else is no name, and the message holds the rule."""
    answer = await api.post(api.endpoints(), endpoints(name))
    why = f'Invalid value: "{name}": {SUBDOMAIN}'
    assert answer.refusal() == (422, "Invalid", f'Endpoints "{name}" is invalid: metadata.name: {why}')
    assert answer.body["details"] == {
        "name": name,
        "kind": "Endpoints",
        "causes": [{"reason": "FieldValueInvalid", "message": why, "field": "metadata.name"}],
    }


async def test_a_name_that_is_too_long(api: Api) -> None:
    """254 characters are one too many."""
    name, why = "x" * 254, "must be no more than 253 characters"
    answer = await api.post(api.endpoints(), endpoints(name))
    message = f'Endpoints "{name}" is invalid: metadata.name: Invalid value: "{name}": {why}'
    assert answer.refusal() == (422, "Invalid", message)


async def test_no_name(api: Api) -> None:
    """An object needs a name."""
    answer = await api.post(api.endpoints(), {"metadata": {}})
    message = 'Endpoints "" is invalid: metadata.name: Required value: name or generateName is required'
    assert answer.refusal() == (422, "Invalid", message)


@pytest.mark.parametrize(
    "key",
    [
        "a",
        "A.b_c-9",
        "control-plane.alpha.kubernetes.io/leader",
        "Up.Per/x",
        "leader-elector/candidate.web-0",
        "k" * 63,
    ],
)
async def test_valid_annotation_keys(api: Api, key: str) -> None:
    """A name of up to 63 characters with an optional subdomain before it; capitals are allowed in both."""
    answer = await api.post(api.endpoints(), endpoints("x", annotations={key: 'any value: {"a": \u00e9}\n'}))
    assert answer.status == 201
    assert answer.body["metadata"]["annotations"] == {key: 'any value: {"a": \u00e9}\n'}


@pytest.mark.parametrize(
    ("key", "whys"),
    [
        ("b c", [NAME_PART]),
        ("", ["name part must be non-empty", NAME_PART]),
        ("b/", ["name part must be non-empty", NAME_PART]),
        ("/x", ["prefix part must be non-empty"]),
        ("-a", [NAME_PART]),
        ("k" * 64, ["name part must be no more than 63 bytes"]),
        ("a_b/x", [f"prefix part {SUBDOMAIN}"]),
        (
            "a/b/c",
            [
                NAME_PART.replace("name part", "a valid label key")
                + " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')"
            ],
        ),
    ],
)
async def test_invalid_annotation_keys(api: Api, key: str, whys: list[str]) -> None:
    """Anything else is no key, and every rule that is broken is told."""
    answer = await api.post(api.endpoints(), endpoints("x", annotations={key: "1"}))
    assert answer.refusal()[:2] == (422, "Invalid")
    assert answer.body["details"]["causes"] == [
        {"reason": "FieldValueInvalid", "message": f'Invalid value: "{key}": {why}', "field": "metadata.annotations"}
        for why in whys
    ]
    texts = [f'metadata.annotations: Invalid value: "{key}": {why}' for why in whys]
    joined = texts[0] if len(texts) == 1 else f"[{', '.join(texts)}]"
    assert answer.body["message"] == f'Endpoints "x" is invalid: {joined}'


async def test_annotations_up_to_the_limit(api: Api) -> None:
    """Keys and values of all annotations together may have 256 KiB."""
    half = "v" * (ANNOTATIONS_LIMIT // 2 - 1)
    assert (await api.post(api.endpoints(), endpoints("x", annotations={"a": half, "b": half}))).status == 201


async def test_annotations_beyond_the_limit(api: Api) -> None:
    """One byte more is refused, whether created or patched; multi-byte characters count as they are encoded."""
    message = 'Endpoints "x" is invalid: metadata.annotations: Too long: may not be more than 262144 bytes'
    created = await api.post(api.endpoints(), endpoints("x", annotations={"a": "v" * ANNOTATIONS_LIMIT}))
    assert created.refusal() == (422, "Invalid", message)
    assert created.body["details"]["causes"][0]["reason"] == "FieldValueTooLong"
    await api.created("x", annotations={"a": "v"})
    patch = {"metadata": {"annotations": {"b": "\u00e9" * (ANNOTATIONS_LIMIT // 2)}}}
    assert (await api.patch(api.endpoints("x"), patch)).refusal() == (422, "Invalid", message)


@pytest.mark.parametrize(("labels", "wrong", "why"), [
    ({"a": "not ok!"}, "not ok!", LABEL_VALUE),
    ({"a": "v" * 64}, "v" * 64, "must be no more than 63 bytes"),
    ({"-a": "v"}, "-a", NAME_PART),
])  # fmt: skip
async def test_invalid_labels(api: Api, labels: dict[str, str], wrong: str, why: str) -> None:
    """Label keys follow the rules of annotation keys, and values are short words."""
    answer = await api.post(api.endpoints(), endpoints("x", labels=labels))
    message = f'Endpoints "x" is invalid: metadata.labels: Invalid value: "{wrong}": {why}'
    assert answer.refusal() == (422, "Invalid", message)


async def test_a_body_beyond_the_limit(api: Api) -> None:
    """A request of more than 3 MiB is not read."""
    answer = await api.post(api.endpoints(), endpoints("x", annotations={"a": "v" * 3 * 1024 * 1024}))
    message = "Request entity too large: limit is 3145728"
    assert answer.refusal() == (413, "RequestEntityTooLarge", message)
