"""
Watches which calls of the released clients the tests make, and how they end, for docs/compatibility.md.

Every public method of the clients' classes is wrapped for the time of the tests. A call counts as working
when it returned in a test that passed, as refused when it was only ever answered with "not available", and
as failed when tests made it and it did neither.
"""

import functools
import inspect
import json
import re
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import e2b
import e2b_code_interpreter

# What users hold; "Sandbox" and "AsyncSandbox" are one row, in two columns.
SYNC: dict[str, type[Any]] = {
    "Sandbox": e2b.Sandbox,
    "Sandbox.commands": inspect.getattr_static(e2b.Sandbox, "commands").fget.__annotations__["return"],
    "Sandbox.files": inspect.getattr_static(e2b.Sandbox, "files").fget.__annotations__["return"],
    "Sandbox.pty": inspect.getattr_static(e2b.Sandbox, "pty").fget.__annotations__["return"],
    "Sandbox.git": inspect.getattr_static(e2b.Sandbox, "git").fget.__annotations__["return"],
    "CommandHandle": e2b.CommandHandle,
    "WatchHandle": e2b.WatchHandle,
    "SandboxPaginator": e2b.SandboxPaginator,
    "SnapshotPaginator": e2b.SnapshotPaginator,
    "Template": e2b.Template,
    "Volume": e2b.Volume,
    "Secret": e2b.Secret,
    "e2b_code_interpreter.Sandbox": e2b_code_interpreter.Sandbox,
}
ASYNC: dict[str, type[Any]] = {
    "Sandbox": e2b.AsyncSandbox,
    "Sandbox.commands": inspect.getattr_static(e2b.AsyncSandbox, "commands").fget.__annotations__["return"],
    "Sandbox.files": inspect.getattr_static(e2b.AsyncSandbox, "files").fget.__annotations__["return"],
    "Sandbox.pty": inspect.getattr_static(e2b.AsyncSandbox, "pty").fget.__annotations__["return"],
    "Sandbox.git": inspect.getattr_static(e2b.AsyncSandbox, "git").fget.__annotations__["return"],
    "CommandHandle": e2b.AsyncCommandHandle,
    "WatchHandle": e2b.AsyncWatchHandle,
    "SandboxPaginator": e2b.AsyncSandboxPaginator,
    "SnapshotPaginator": e2b.AsyncSnapshotPaginator,
    "Template": e2b.AsyncTemplate,
    "Volume": e2b.AsyncVolume,
    "Secret": e2b.AsyncSecret,
    "e2b_code_interpreter.Sandbox": e2b_code_interpreter.AsyncSandbox,
}
CLIENTS = {"sync": SYNC, "async": ASYNC}
PACKAGES = ("e2b", "e2b-code-interpreter")
_TEMPLATES = (e2b.Template, e2b.AsyncTemplate)
_WRITTEN_DOWN = re.compile("from_|to_|skip_cache$")
WORKS, REFUSED, FAILED, UNTRIED = "works", "refused", "failed", "untried"


def calls(owner: type[Any]) -> list[str]:
    """
    List the public methods of a client's class; not those inherited from another that has rows.

    Nor those of templates that only write down what a build would be: they ask no server.
    """
    listed = {id(one) for classes in CLIENTS.values() for one in classes.values()}
    above = [base for base in owner.__mro__[1:] if id(base) in listed]
    names = []
    for name in dir(owner):
        if name not in vars(owner) and any(hasattr(base, name) for base in above):
            continue
        if issubclass(owner, _TEMPLATES) and _WRITTEN_DOWN.match(name):
            continue
        found = inspect.getattr_static(owner, name)
        if not name.startswith("_") and not isinstance(found, property) and callable(getattr(owner, name)):
            names.append(name)
    return names


class Recorder:
    """What was called in the test that runs, and what the tests that passed showed."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._now: dict[tuple[str, str], set[str]] = defaultdict(set)
        self._restore: list[tuple[type[Any], str, Any, bool]] = []
        self._others: dict[str, set[str]] = defaultdict(set)

    def install(self) -> None:
        """Wrap the clients' methods."""
        for client, classes in CLIENTS.items():
            for noun, owner in classes.items():
                for name in calls(owner):
                    inner = inspect.getattr_static(owner, name)
                    self._restore.append((owner, name, inner, name in vars(owner)))
                    setattr(
                        owner, name, _Watched(inner, functools.partial(self._ended, client, f"{noun}.{name}"))
                    )

    def uninstall(self) -> None:
        """Take the wraps off."""
        for owner, name, inner, own in reversed(self._restore):
            if own:
                setattr(owner, name, inner)
            else:
                delattr(owner, name)

    def test_ended(self, *, passed: bool) -> None:
        """Keep what a test called; what returned in a test that failed has not been shown to work."""
        for call, outcomes in self._now.items():
            self._seen[call] |= outcomes if passed else {FAILED}
        self._now.clear()

    def knows(self, client: str, calls: Iterable[str]) -> None:
        """Note what calls a client of another language has."""
        self._others[client].update(calls)

    def saw(self, client: str, call: str, outcome: str) -> None:
        """Note how a call of such a client ended in the test that runs."""
        self._now[client, call].add(outcome)

    def _ended(self, client: str, call: str, error: BaseException | None) -> None:
        if error is None:
            self._now[client, call].add(WORKS)
        elif "501" in str(error) and "not available" in str(error):
            self._now[client, call].add(REFUSED)
        else:
            self._now[client, call].add(FAILED)

    def save(self, path: Path) -> None:
        """Write what was seen, and what there is."""
        rows = {
            f"{noun}.{name}": {
                client: _verdict(self._seen.get((client, f"{noun}.{name}"), set()))
                for client, classes in CLIENTS.items()
                if name in calls(classes[noun])
            }
            for noun, owner in SYNC.items()
            for name in calls(owner)
        }
        others = {
            client: {call: _verdict(self._seen.get((client, call), set())) for call in sorted(calls)}
            for client, calls in sorted(self._others.items())
        }
        versions = {package: version(package) for package in PACKAGES}
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"versions": versions, "calls": rows, "others": others}))


def _verdict(outcomes: set[str]) -> str:
    """Take the best of how a call ended."""
    return next((outcome for outcome in (WORKS, REFUSED, FAILED) if outcome in outcomes), UNTRIED)


class _Watched:
    """A method of any kind: function, classmethod, staticmethod, or the client's own that are both."""

    def __init__(self, inner: Any, ended: Callable[[BaseException | None], None]) -> None:
        self._inner = inner
        self._ended = ended

    def __get__(self, instance: Any, owner: type[Any]) -> Callable[..., Any]:
        bound = self._inner.__get__(instance, owner) if hasattr(self._inner, "__get__") else self._inner

        @functools.wraps(bound)
        def call(*args: Any, **kwargs: Any) -> Any:
            try:
                result = bound(*args, **kwargs)
            except BaseException as error:
                self._ended(error)
                raise
            if inspect.iscoroutine(result):
                return self._await(result)
            self._ended(None)
            return result

        return call

    async def _await(self, result: Awaitable[Any]) -> Any:
        try:
            value = await result
        except BaseException as error:
            self._ended(error)
            raise
        self._ended(None)
        return value


def recorded() -> Iterator[Recorder]:
    """Record for as long as the generator is not closed."""
    recorder = Recorder()
    recorder.install()
    try:
        yield recorder
    finally:
        recorder.uninstall()
