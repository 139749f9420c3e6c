"""Fixtures that every test folder may use: a home for each run, templates kept between runs."""

import asyncio
import gc
import signal
from collections.abc import Generator, Iterator
from typing import Any

import pytest
from e2b import Sandbox
from support.home import CACHE, LiveHome, fresh_home, processes_in
from xdist.remote import Producer
from xdist.scheduler import LoadFileScheduling

from atoll.server.domain.template import Template
from atoll.server.images.library import TemplateLibrary


def pytest_configure() -> None:
    """Have interrupts arrive where the tests run in the background, though there they begin ignored."""
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_finish() -> None:
    """Have the collector of garbage pass over what stays: a tenth of the time of tests that make much."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Say of a test that failed what was in the logs, and what its sandbox did."""
    report = yield
    if report.failed:
        for name, value in getattr(item, "funcargs", {}).items():
            if isinstance(value, LiveHome):
                report.sections.append((f"logs of {name}", value.log_tail()))
            if isinstance(value, Sandbox):
                report.sections.append((f"processes in {name}", processes_in(value)))
    return report


class OneWorld(LoadFileScheduling):
    """
    Gives each process whole files, and all of a folder named ``world`` to one.

    Those make addresses of the whole machine's (`support.network.world`), which two cannot do at once.
    """

    def _split_scope(self, nodeid: str) -> str:
        # What xdist's own schedulers override. Its xdist_group does nothing under pytest 9.
        folder, world, _ = nodeid.partition("/world/")
        return folder + world if world else super()._split_scope(nodeid)


def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> OneWorld:
    """Share the files out among processes."""
    return OneWorld(config, log)


@pytest.fixture(scope="session")
def home() -> Iterator[LiveHome]:
    """A server of the tests' own, as a user would start it."""
    with fresh_home(pool=True) as live:
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


@pytest.fixture(scope="session")
def library() -> TemplateLibrary:
    """The templates in the cache directory (ATOLL_CACHE_DIR)."""
    return TemplateLibrary(CACHE / "templates")


@pytest.fixture(scope="session")
def minimal_template(library: TemplateLibrary) -> Template:
    """Debian with Python only; built if it is missing, which takes some 15 s."""
    return asyncio.run(library.ensure("minimal"))


@pytest.fixture(scope="session")
def base_template(library: TemplateLibrary) -> Template:
    """What users get; built if it is missing, which takes a minute."""
    return asyncio.run(library.ensure("base"))


@pytest.fixture(scope="session")
def httpbin_template(library: TemplateLibrary) -> Template:
    """An HTTP service from its start command on; built if it is missing, which takes some 40 s."""
    return asyncio.run(library.ensure("httpbin"))


@pytest.fixture(scope="session")
def interpreter_template(library: TemplateLibrary) -> Template:
    """What E2B's code interpreter uses; built if it is missing, which takes some minutes."""
    return asyncio.run(library.ensure("code-interpreter-v1"))
