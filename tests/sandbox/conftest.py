"""What several of the sandbox's tests stand on; each module has an endpoint of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest

from helpers.sandbox.endpoint import Endpoint
from tests.sandbox.chain import Chain


@pytest.fixture(scope="module")
def endpoint() -> Iterator[Endpoint]:
    endpoint = Endpoint()
    endpoint.start()
    yield endpoint
    endpoint.stop()


@pytest.fixture
def chain() -> Iterator[Chain]:
    chain = Chain()
    yield chain
    chain.close()


@pytest.fixture
def new_site(region: Any) -> Iterator[Callable[..., Any]]:
    """Makes sites of the module's own `region`, of the kind that it has."""
    sites: list[Any] = []

    def make(**target_group: Any) -> Any:
        sites.append(region.site(**target_group))
        return sites[-1]

    yield make
    for site in sites:
        site.close()
    region.balancer.step()


@pytest.fixture
def site(new_site: Callable[..., Any]) -> Any:
    return new_site()
