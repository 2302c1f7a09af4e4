"""LIST: order, selectors, versions, pages, metadata only."""

import pytest

from tests.contract.client import METADATA_LIST, Api, endpoints, eventually

QUALIFIED = (
    "'-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or "
    "'123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')"
)


async def _cached(api: Api) -> list[str]:
    return (await api.get(api.endpoints(), {"resourceVersion": "0"})).names


async def test_a_list_has_items_in_order_and_a_version(api: Api) -> None:
    """Items come sorted by name, without kind and apiVersion of their own; the list has a version at least as new."""
    for name in ("b", "a", "a-b"):
        await api.created(name)
    answer = await api.get(api.endpoints())
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("EndpointsList", "v1")
    assert answer.names == ["a", "a-b", "b"]
    assert not any("kind" in item or "apiVersion" in item for item in answer.body["items"])
    assert answer.version >= max(int(item["metadata"]["resourceVersion"]) for item in answer.body["items"])
    assert set(answer.body["metadata"]) == {"resourceVersion"}


async def test_an_empty_list(api: Api) -> None:
    """Nothing to list is an empty array, not a missing one."""
    assert (await api.get(api.endpoints())).body["items"] == []


async def test_a_list_over_all_namespaces(api: Api) -> None:
    """Without a namespace in the path every namespace is listed, in the order of namespaces and names."""
    other = api.server.namespace()
    label = {"group": api.namespace}
    await api.created("b", labels=label)
    await api.created("a", labels=label)
    await api.post(f"/api/v1/namespaces/{other}/endpoints", endpoints("c", labels=label))
    answer = await api.get("/api/v1/endpoints", {"labelSelector": f"group={api.namespace}"})
    found = [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in answer.body["items"]]
    assert found == sorted([(api.namespace, "a"), (api.namespace, "b"), (other, "c")])


async def test_a_list_of_metadata_with_annotations(api: Api) -> None:
    """A census needs metadata only: annotations and labels are there, subsets are not."""
    body = endpoints("x", annotations={"leader-elector/claim": "{}"}, labels={"leader-elector/group": "g"})
    await api.post(api.endpoints(), {**body, "subsets": [{"addresses": [{"ip": "10.0.0.1"}]}]})
    whole = (await api.get(api.endpoints("x"))).body["metadata"]
    answer = await api.get(api.endpoints(), {"labelSelector": "leader-elector/group=g"}, accept=METADATA_LIST)
    assert (answer.body["kind"], answer.body["apiVersion"]) == ("PartialObjectMetadataList", "meta.k8s.io/v1")
    kind = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1"}
    assert answer.body["items"] == [{**kind, "metadata": whole}]


async def test_an_accept_header_with_a_second_choice(api: Api) -> None:
    """A client that asks for a format that is not known gets its next choice; without one, 406."""
    accept = "application/vnd.nobody+nothing, application/json"
    assert (await api.get(api.endpoints(), accept=accept)).body["kind"] == "EndpointsList"
    refused = await api.get(api.endpoints(), accept="text/html")
    status, reason, message = refused.refusal()
    assert (status, reason) == (406, "NotAcceptable")
    assert message.startswith("406: Not Acceptable\n\nAvailable representations: application/json")


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("", ["a", "b", "c", "none"]),
        ("g=a", ["a"]),
        ("g==a", ["a"]),
        ("g!=a", ["b", "c", "none"]),
        ("g in (a,b)", ["a", "b"]),
        ("g notin (a, b)", ["c", "none"]),
        ("g", ["a", "b", "c"]),
        ("!g", ["none"]),
        ("g,n!=1", ["b", "c"]),
        ("g in (a,b),n=1", ["a"]),
        (" g = a ", ["a"]),
        ("g=", []),
        ("g in ()", []),
        ("empty=", ["a"]),
        ("empty in (,x)", ["a"]),
        ("n>1", ["b"]),
        ("n<2", ["a"]),
        ("in in (in)", ["c"]),
    ],
)
async def test_label_selectors(api: Api, selector: str, names: list[str]) -> None:
    """Every operator selects what it says; what lacks the label matches a negative one."""
    await api.created("a", labels={"g": "a", "n": "1", "empty": ""})
    await api.created("b", labels={"g": "b", "n": "2"})
    await api.created("c", labels={"g": "c", "n": "x", "in": "in"})
    await api.created("none")
    assert (await api.get(api.endpoints(), {"labelSelector": selector})).names == names


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("a in (b", "unable to parse requirement: found '', expected: ',' or ')'"),
        ("a in b", "unable to parse requirement: found 'b' expected: '('"),
        ("!!", "unable to parse requirement: found '!', expected: identifier"),
        ("g=a,", "found '', expected: identifier after ','"),
        (",", "found ',', expected: !, identifier, or 'end of string'"),
        ("g g", "unable to parse requirement: found 'g', expected: in, notin, =, ==, !=, gt, lt"),
        ("g=a b", "found 'b', expected: ',' or 'end of string'"),
        (
            "a/b/c",
            (
                'unable to parse requirement: <nil>: Invalid value: "a/b/c": a valid label key must consist of '
                f"alphanumeric characters, {QUALIFIED} with an optional DNS subdomain prefix and '/' "
                "(e.g. 'example.com/MyName')"
            ),
        ),
        (
            "g=-a",
            (
                'unable to parse requirement: values[0][g]: Invalid value: "-a": a valid label must be an empty '
                "string or "
                "consist of alphanumeric characters, '-', '_' or '.', and must start and end with an "
                "alphanumeric character "
                "(e.g. 'MyValue',  or 'my_value',  or '12345', regex used for validation is "
                "'(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?')"
            ),
        ),
    ],
)
async def test_label_selectors_that_are_none(api: Api, selector: str, message: str) -> None:
    """A selector with an error selects nothing: the request is refused, and says where."""
    answer = await api.get(api.endpoints(), {"labelSelector": selector})
    assert answer.refusal() == (400, "BadRequest", message)


@pytest.mark.parametrize(
    ("selector", "names"),
    [
        ("metadata.name=a", ["a"]),
        ("metadata.name==a", ["a"]),
        ("metadata.name!=a", ["b"]),
        ("metadata.name=none", []),
        ("metadata.name=a,metadata.name=b", []),
        ("metadata.name=a,metadata.namespace!=other", ["a"]),
        ("metadata.name=a,metadata.namespace=other", []),
        (",metadata.name=a", ["a"]),
    ],
)
async def test_field_selectors(api: Api, selector: str, names: list[str]) -> None:
    """Name and namespace can be selected, equal or not."""
    await api.created("a")
    await api.created("b")
    assert (await api.get(api.endpoints(), {"fieldSelector": selector})).names == names


@pytest.mark.parametrize(
    ("selector", "message"),
    [
        ("spec.foo=x", '"spec.foo" is not a known field selector: only "metadata.name", "metadata.namespace"'),
        ("x", "invalid selector: 'x'; can't understand 'x'"),
    ],
)
async def test_field_selectors_that_are_none(api: Api, selector: str, message: str) -> None:
    """Other fields of Endpoints cannot be selected."""
    answer = await api.get(api.endpoints(), {"fieldSelector": selector})
    assert answer.refusal() == (400, "BadRequest", message)


async def test_a_list_after_a_write_shows_it(api: Api) -> None:
    """Without a resourceVersion a list is consistent: it shows every write that was answered before."""
    for n in range(5):
        await api.created(f"x{n}")
        assert len((await api.get(api.endpoints())).body["items"]) == n + 1


async def test_a_list_from_the_cache_catches_up(api: Api) -> None:
    """resourceVersion=0 takes whatever the server has in its cache; within seconds that holds the latest write."""
    await api.created("x")
    await eventually(lambda: _cached(api), ["x"])


async def test_a_list_no_older_than_a_version(api: Api) -> None:
    """A list with a version is at least as new as that."""
    written = int((await api.created("x"))["metadata"]["resourceVersion"])
    for match in ({}, {"resourceVersionMatch": "NotOlderThan"}):
        answer = await api.get(api.endpoints(), {"resourceVersion": str(written), **match})
        assert answer.names == ["x"]
        assert answer.version >= written


async def test_a_list_at_exactly_a_version(api: Api) -> None:
    """Exact shows the state at that version, although it has changed since: updates, creations and deletions."""
    await api.created("changed", labels={"l": "old"})
    await api.created("gone")
    at = (await api.get(api.endpoints())).version
    await api.put(api.endpoints("changed"), endpoints("changed", labels={"l": "new"}))
    await api.delete(api.endpoints("gone"))
    await api.created("new")
    query = {"resourceVersion": str(at), "resourceVersionMatch": "Exact"}
    answer = await api.get(api.endpoints(), query)
    assert answer.version == at
    assert answer.names == ["changed", "gone"]
    assert answer.body["items"][0]["metadata"]["labels"] == {"l": "old"}
    assert (await api.get(api.endpoints(), {**query, "labelSelector": "l=new"})).names == []


async def test_a_list_at_a_version_of_the_future(api: Api) -> None:
    """A version that was never reached is a time-out, with advice to come back."""
    answer = await api.get(api.endpoints(), {"resourceVersion": "999999999"})
    status, reason, message = answer.refusal()
    assert (status, reason) == (504, "Timeout")
    assert message.startswith("Timeout: Too large resource version: 999999999, current: ")
    assert answer.headers["Retry-After"] == "1"
    assert answer.body["details"] == {
        "causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}],
        "retryAfterSeconds": 1,
    }


@pytest.mark.parametrize(
    ("query", "refusal"),
    [
        (
            {"resourceVersion": "abc"},
            (
                400,
                "BadRequest",
                (
                    'invalid resource version: resourceVersion: Invalid value: "abc": '
                    'strconv.ParseUint: parsing "abc": invalid syntax'
                ),
            ),
        ),
        ({"limit": "abc"}, (400, "BadRequest", 'strconv.ParseInt: parsing "abc": invalid syntax')),
        ({"timeoutSeconds": "x"}, (400, "BadRequest", 'strconv.ParseInt: parsing "x": invalid syntax')),
        (
            {"resourceVersionMatch": "NotOlderThan"},
            (
                422,
                "Invalid",
                (
                    'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                    "resourceVersionMatch is forbidden unless resourceVersion is provided"
                ),
            ),
        ),
        (
            {"resourceVersion": "0", "resourceVersionMatch": "Exact"},
            (
                422,
                "Invalid",
                (
                    'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: Forbidden: '
                    'resourceVersionMatch "exact" is forbidden for resourceVersion "0"'
                ),
            ),
        ),
        (
            {"resourceVersion": "1", "resourceVersionMatch": "Foo"},
            (
                422,
                "Invalid",
                (
                    'ListOptions.meta.k8s.io "" is invalid: resourceVersionMatch: '
                    'Unsupported value: "Foo": supported values: "Exact", "NotOlderThan", ""'
                ),
            ),
        ),
        (
            {"sendInitialEvents": "true"},
            (
                422,
                "Invalid",
                (
                    'ListOptions.meta.k8s.io "" is invalid: sendInitialEvents: Forbidden: '
                    "sendInitialEvents is forbidden for list"
                ),
            ),
        ),
    ],
)
async def test_list_options_that_are_wrong(api: Api, query: dict[str, str], refusal: tuple[int, str, str]) -> None:
    """Options that contradict each other, or cannot be read, are refused with the reason."""
    assert (await api.get(api.endpoints(), query)).refusal() == refusal


async def test_pages(api: Api) -> None:
    """A list in pages shows every object once, as it was at the first page, whatever is written meanwhile."""
    for name in "abcde":
        await api.created(name)
    first = await api.get(api.endpoints(), {"limit": "2"})
    assert first.names == ["a", "b"]
    assert first.body["metadata"]["remainingItemCount"] == 3
    await api.delete(api.endpoints("c"))
    await api.created("bb")
    second = await api.get(api.endpoints(), {"limit": "2", "continue": first.body["metadata"]["continue"]})
    assert (second.names, second.version) == (["c", "d"], first.version)
    assert second.body["metadata"]["remainingItemCount"] == 1
    third = await api.get(api.endpoints(), {"limit": "2", "continue": second.body["metadata"]["continue"]})
    assert (third.names, third.version) == (["e"], first.version)
    assert set(third.body["metadata"]) == {"resourceVersion"}


async def test_pages_with_a_selector_do_not_count_the_rest(api: Api) -> None:
    """With a selector the server does not say how many remain."""
    for name in "abc":
        await api.created(name, labels={"g": "g"})
    first = await api.get(api.endpoints(), {"limit": "2", "labelSelector": "g"})
    assert first.names == ["a", "b"]
    assert "remainingItemCount" not in first.body["metadata"]
    query = {"limit": "2", "labelSelector": "g", "continue": first.body["metadata"]["continue"]}
    assert (await api.get(api.endpoints(), query)).names == ["c"]


async def test_limit_and_version(api: Api) -> None:
    """A page from the cache (version 0) is the whole list; one with a version stays exactly at it."""
    for name in "abc":
        await api.created(name)
    at = (await api.get(api.endpoints())).version
    await api.created("aa")
    exact = await api.get(api.endpoints(), {"limit": "2", "resourceVersion": str(at)})
    assert (exact.names, exact.version) == (["a", "b"], at)
    newer = await api.get(
        api.endpoints(), {"limit": "2", "resourceVersion": str(at), "resourceVersionMatch": "NotOlderThan"}
    )
    assert newer.version >= at
    await eventually(lambda: _cached(api), ["a", "aa", "b", "c"])
    cached = await api.get(api.endpoints(), {"limit": "1", "resourceVersion": "0"})
    assert cached.names == ["a", "aa", "b", "c"]
    assert "continue" not in cached.body["metadata"]


async def test_continue_tokens_that_are_none(api: Api) -> None:
    """A token must be the server's own, and comes without a version."""
    for name in "ab":
        await api.created(name)
    broken = await api.get(api.endpoints(), {"continue": "abc"})
    status, reason, message = broken.refusal()
    assert (status, reason) == (400, "BadRequest")
    assert message.startswith("invalid continue token: continue key is not valid: ")
    token = (await api.get(api.endpoints(), {"limit": "1"})).body["metadata"]["continue"]
    versioned = await api.get(api.endpoints(), {"limit": "1", "continue": token, "resourceVersion": "5"})
    message = "specifying resource version is not allowed when using continue"
    assert versioned.refusal() == (400, "BadRequest", message)
