"""Every contract test runs against the embedded and the real API server; where they differ, the real one is right."""

from collections.abc import AsyncIterator

import pytest_asyncio

from tests.contract.client import Api, opened_session
from tests.testbed.embedded import APIServer


@pytest_asyncio.fixture
async def api(api_server: APIServer) -> AsyncIterator[Api]:
    """Return a client for the administrator, with a fresh namespace."""
    async with opened_session() as session:
        yield Api(api_server, session, api_server.namespace(), api_server.admin_token)
