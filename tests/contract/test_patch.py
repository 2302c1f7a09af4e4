"""JSON merge patch: one annotation at a time, without touching what others write."""

import asyncio

from tests.contract.client import Api, endpoints


async def test_patch_sets_one_annotation(api: Api) -> None:
    """A patch of one annotation leaves the others, the labels and the subsets alone."""
    subsets = [{"addresses": [{"ip": "10.0.0.1"}], "ports": [{"port": 80, "protocol": "TCP"}]}]
    body = {**endpoints("x", annotations={"a": "1"}, labels={"l": "1"}), "subsets": subsets}
    before = await api.post(api.endpoints(), body)
    answer = await api.patch(api.endpoints("x"), {"metadata": {"annotations": {"b/c": "2"}}})
    assert answer.status == 200
    assert answer.version > before.version
    assert answer.body["metadata"]["annotations"] == {"a": "1", "b/c": "2"}
    assert answer.body["metadata"]["labels"] == {"l": "1"}
    assert answer.body["subsets"] == subsets


async def test_patch_deletes_with_null(api: Api) -> None:
    """Null deletes a key, of an annotation that is there or not; the last one takes the map with it."""
    await api.created("x", annotations={"a": "1", "b": "2"})
    one = await api.patch(api.endpoints("x"), {"metadata": {"annotations": {"a": None, "none": None}}})
    assert one.body["metadata"]["annotations"] == {"b": "2"}
    both = await api.patch(api.endpoints("x"), {"metadata": {"annotations": {"b": None}}})
    assert "annotations" not in both.body["metadata"]


async def test_patch_of_a_whole_map_to_null(api: Api) -> None:
    """Null for the map deletes all of it."""
    await api.created("x", annotations={"a": "1", "b": "2"})
    answer = await api.patch(api.endpoints("x"), {"metadata": {"annotations": None}})
    assert "annotations" not in answer.body["metadata"]


async def test_patch_of_nothing_keeps_the_version(api: Api) -> None:
    """A patch that changes nothing succeeds and writes nothing."""
    before = await api.created("x", annotations={"a": "1"})
    for patch in ({}, {"metadata": {"annotations": {"a": "1", "none": None}}}):
        answer = await api.patch(api.endpoints("x"), patch)
        assert answer.status == 200
        assert answer.version == int(before["metadata"]["resourceVersion"])


async def test_patches_at_one_moment_all_apply(api: Api) -> None:
    """Patches without a version never conflict: each finds its own annotation set in the end."""
    await api.created("x")
    patches = [{"metadata": {"annotations": {f"a{n}": str(n)}}} for n in range(5)]
    answers = await asyncio.gather(*(api.patch(api.endpoints("x"), patch) for patch in patches))
    assert {answer.status for answer in answers} == {200}
    final = (await api.get(api.endpoints("x"))).body["metadata"]["annotations"]
    assert final == {f"a{n}": str(n) for n in range(5)}


async def test_patch_with_a_version_is_conditional(api: Api) -> None:
    """A resourceVersion in the patch must be the current one; null for it is no condition."""
    before = await api.created("x")
    current = {"metadata": {"resourceVersion": before["metadata"]["resourceVersion"], "annotations": {"a": "1"}}}
    assert (await api.patch(api.endpoints("x"), current)).status == 200
    stale = await api.patch(api.endpoints("x"), current)
    message = (
        'Operation cannot be fulfilled on endpoints "x": the object has been modified; '
        "please apply your changes to the latest version and try again"
    )
    assert stale.refusal() == (409, "Conflict", message)
    free = await api.patch(api.endpoints("x"), {"metadata": {"resourceVersion": None, "annotations": {"a": "2"}}})
    assert free.status == 200


async def test_patch_with_another_uid_is_invalid(api: Api) -> None:
    """In a patch another uid is an attempt to change it."""
    await api.created("x")
    answer = await api.patch(api.endpoints("x"), {"metadata": {"uid": "no"}})
    message = 'Endpoints "x" is invalid: metadata.uid: Invalid value: "no": field is immutable'
    assert answer.refusal() == (422, "Invalid", message)


async def test_patch_of_a_missing_object(api: Api) -> None:
    """A patch creates nothing."""
    answer = await api.patch(api.endpoints("x"), {"metadata": {"annotations": {"a": "1"}}})
    assert answer.refusal() == (404, "NotFound", 'endpoints "x" not found')


async def test_patch_of_another_kind(api: Api) -> None:
    """Plain JSON is no patch format: 415, and no deprecation warning as this comes before the resource's handler."""
    await api.created("x")
    answer = await api.patch(api.endpoints("x"), {}, content_type="application/json")
    assert answer.refusal() == (415, "UnsupportedMediaType", "415: Unsupported Media Type")
    assert "Warning" not in answer.headers


async def test_patch_that_is_no_object(api: Api) -> None:
    """What is no JSON, or no JSON object, is a bad request."""
    await api.created("x")
    broken = await api.patch(api.endpoints("x"), b'{"metadata":')
    assert broken.refusal() == (400, "BadRequest", "invalid JSON patch")
    listed = await api.patch(api.endpoints("x"), [])
    message = "error decoding patch: json: cannot unmarshal array into Go value of type map[string]interface {}"
    assert listed.refusal() == (400, "BadRequest", message)


async def test_patch_to_something_invalid(api: Api) -> None:
    """The patched object is judged as a written one: types, names of annotations, its own name."""
    await api.created("x")
    number = await api.patch(api.endpoints("x"), {"metadata": {"annotations": {"b": 4}}})
    assert number.refusal()[:2] == (422, "Invalid")
    assert number.body["details"]["causes"][0]["field"] == "patch"
    key = await api.patch(api.endpoints("x"), {"metadata": {"annotations": {"b c": "4"}}})
    assert key.refusal()[:2] == (422, "Invalid")
    assert key.body["details"]["causes"][0]["field"] == "metadata.annotations"
    renamed = await api.patch(api.endpoints("x"), {"metadata": {"name": "y"}})
    message = "the name of the object (y) does not match the name on the URL (x)"
    assert renamed.refusal() == (400, "BadRequest", message)
