"""Who is who and who may what: 401 and 403, with the words that a user has to find the mistake by."""

import asyncio

import pytest

from tests.contract.client import Api, endpoints, eventually

STOCK = [{"apiGroups": [""], "resources": ["endpoints"], "verbs": ["get", "create", "update"]}]


@pytest.fixture
def stock(api: Api) -> Api:
    """Return a user with the permissions of the stock image and nothing more."""
    api.server.kubeconfig_for("stock", STOCK, namespace=api.namespace)
    return api.as_user(api.server.issue_token("stock", namespace=api.namespace))


def _forbidden(api: Api, user: str, what: str, verb: str, resource: str, *, group: str = "", where: str = "") -> object:
    place = where or f'in the namespace "{api.namespace}"'
    message = f'{what} is forbidden: User "{user}" cannot {verb} resource "{resource}" in API group "{group}" {place}'
    return 403, "Forbidden", message


async def test_an_unknown_token_is_nobody(api: Api) -> None:
    """A token that nobody has is 401, on every path of the API."""
    stranger = api.as_user("no-such-token")
    for answer in (await stranger.get(api.endpoints("x")), await stranger.post(api.endpoints(), endpoints("x"))):
        assert answer.refusal() == (401, "Unauthorized", "Unauthorized")
        assert "details" not in answer.body


async def test_no_token_is_anonymous(api: Api) -> None:
    """Who shows no token is a user without rights, not an error of authentication."""
    answer = await api.as_user(None).get(api.endpoints("x"))
    assert answer.refusal() == _forbidden(api, "system:anonymous", 'endpoints "x"', "get", "endpoints")
    assert answer.body["details"] == {"name": "x", "kind": "endpoints"}


async def test_a_revoked_token_is_refused_and_a_new_one_accepted(api: Api, stock: Api) -> None:
    """A token that is no longer valid becomes 401 within seconds; a fresh one of the same user works."""
    await api.created("x")
    assert (await stock.get(api.endpoints("x"))).status == 200
    await asyncio.to_thread(api.server.revoke_tokens, "stock", namespace=api.namespace)

    async def status() -> int:
        return (await stock.get(api.endpoints("x"))).status

    await eventually(status, 401, seconds=30)
    fresh = api.as_user(api.server.issue_token("stock", namespace=api.namespace))
    assert (await fresh.get(api.endpoints("x"))).status == 200


async def test_the_stock_permissions_are_enough_for_the_lock(api: Api, stock: Api) -> None:
    """Get, create and update Endpoints work with them, in the one namespace."""
    assert (await stock.post(api.endpoints(), endpoints("x"))).status == 201
    assert (await stock.put(api.endpoints("x"), endpoints("x", annotations={"a": "1"}))).status == 200
    assert (await stock.get(api.endpoints("x"))).status == 200


async def test_everything_else_is_forbidden_by_name(api: Api, stock: Api) -> None:
    """A refusal names the user, the verb, the resource and the namespace; no deprecation warning comes with it."""
    user = f"system:serviceaccount:{api.namespace}:stock"
    one, many = 'endpoints "x"', "endpoints"
    selected = {"fieldSelector": "metadata.name=x"}
    refused = [
        (await stock.patch(api.endpoints("x"), {}), one, "patch"),
        (await stock.delete(api.endpoints("x")), one, "delete"),
        (await stock.get(api.endpoints()), many, "list"),
        (await stock.get(api.endpoints(), selected), one, "list"),
        (await stock.get(api.endpoints(), {"watch": "true"}), many, "watch"),
        (await stock.get(api.endpoints(), {"watch": "true", **selected}), one, "watch"),
    ]
    for answer, what, verb in refused:
        assert answer.refusal() == _forbidden(api, user, what, verb, "endpoints")
        named = {"name": "x"} if what == one else {}
        assert answer.body["details"] == {**named, "kind": "endpoints"}
        assert "Warning" not in answer.headers


async def test_other_places_are_forbidden(api: Api, stock: Api) -> None:
    """Rights in one namespace are none in another, nor over all of them, nor on other resources."""
    user = f"system:serviceaccount:{api.namespace}:stock"
    elsewhere = await stock.get("/api/v1/namespaces/default/endpoints/x")
    where = 'in the namespace "default"'
    assert elsewhere.refusal() == _forbidden(api, user, 'endpoints "x"', "get", "endpoints", where=where)
    everywhere = await stock.get("/api/v1/endpoints")
    where = "at the cluster scope"
    assert everywhere.refusal() == _forbidden(api, user, "endpoints", "list", "endpoints", where=where)
    group = "coordination.k8s.io"
    lease = await stock.get(api.leases("x"))
    assert lease.refusal() == _forbidden(api, user, f'leases.{group} "x"', "get", "leases", group=group)
    assert lease.body["details"] == {"name": "x", "group": group, "kind": "leases"}
    pods = await stock.post(api.path("pods"), {})
    assert pods.refusal() == _forbidden(api, user, "pods", "create", "pods")
    namespace = await stock.get(f"/api/v1/namespaces/{api.namespace}")
    assert namespace.refusal() == _forbidden(api, user, f'namespaces "{api.namespace}"', "get", "namespaces")


async def test_a_right_on_one_name(api: Api) -> None:
    """ResourceNames allow that object only; a watch is allowed when its field selector asks for it; no create is."""
    await api.created("x")
    await api.created("y")
    one = {"apiGroups": [""], "resources": ["endpoints"], "resourceNames": ["x"]}
    rules = [{**one, "verbs": ["get", "watch", "create"]}]
    api.server.kubeconfig_for("one", rules, namespace=api.namespace)
    user = api.as_user(api.server.issue_token("one", namespace=api.namespace))
    assert (await user.get(api.endpoints("x"))).status == 200
    assert (await user.get(api.endpoints("y"))).status == 403
    assert (await user.post(api.endpoints(), endpoints("x"))).status == 403
    assert (await user.get(api.endpoints(), {"watch": "true"})).status == 403
    async with user.watch(api.endpoints(), {"fieldSelector": "metadata.name=x"}) as events:
        assert (await events.next())["object"]["metadata"]["name"] == "x"


async def test_health_and_version_are_open_to_users(api: Api, stock: Api) -> None:
    """Whoever has a token may ask for health and version; other paths are refused by name."""
    for path in ("/readyz", "/livez", "/healthz"):
        answer = await stock.get(path)
        assert (answer.status, answer.text) == (200, "ok")
    version = await stock.get("/version")
    assert version.body["gitVersion"].startswith(f"v{version.body['major']}.{version.body['minor']}.")
    user = f"system:serviceaccount:{api.namespace}:stock"
    refused = await stock.get("/nowhere")
    assert refused.refusal() == (403, "Forbidden", f'forbidden: User "{user}" cannot get path "/nowhere"')


async def test_what_does_not_exist_in_the_api(api: Api) -> None:
    """Unknown resources and methods are 404 and 405, for whoever may do everything."""
    nothing = (404, "NotFound", "the server could not find the requested resource")
    assert (await api.get(api.path("foos"))).refusal() == nothing
    assert (await api.get("/api/v1/endpoints/x")).refusal() == nothing
    method = (405, "MethodNotAllowed", "the server does not allow this method on the requested resource")
    assert (await api.post(api.endpoints("x"), {})).refusal() == method
    assert (await api.put(api.endpoints(), {})).refusal() == method
    assert (await api.get("/nowhere")).status == 404
