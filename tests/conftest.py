"""Fixtures of all tests that need a real server: one home for the whole run."""

from collections.abc import Iterator
from typing import Any

import pytest
from e2b import Sandbox
from support.home import LiveHome, fresh_home


@pytest.fixture(scope="session")
def home() -> Iterator[LiveHome]:
    """A server of the tests' own, as a user would start it."""
    with fresh_home() as live:
        yield live


@pytest.fixture(scope="session")
def client_options(home: LiveHome) -> dict[str, Any]:
    """What E2B's client takes to speak to it."""
    return home.client_options


@pytest.fixture(scope="module")
def sandbox(client_options: dict[str, Any]) -> Iterator[Sandbox]:
    """A sandbox from the base template, one for each file of tests."""
    live = Sandbox.create("base", timeout=1800, **client_options)
    yield live
    live.kill()
