"""Git through the released clients, blocking and asyncio, of what a server in the sandbox guards."""

import inspect
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from e2b import (
    AsyncSandbox,
    CommandExitException,
    GitAuthException,
    GitUpstreamException,
    InvalidArgumentException,
    Sandbox,
)

SERVER = Path(__file__).parents[1] / "clients" / "git_server.py"
PORT = 8418
SERVED = "/home/user/served"
ADA = {"username": "ada", "password": "secret"}
# Main with one commit, side with one more.
MAKE = """
git init --quiet --bare {repository}
git -C {repository} config http.receivepack true
git clone --quiet {repository} {work} && cd {work}
git config user.name Ada && git config user.email ada@example.com
git commit --quiet --allow-empty -m first && git switch --quiet -c side
echo side > side.txt && git add . && git commit --quiet -m second && git push --quiet --all
"""


class Awaited:
    """The calls of either client, to be waited for."""

    def __init__(self, calls: Any) -> None:
        self._calls = calls

    def __getattr__(self, name: str) -> Callable[..., Awaitable[Any]]:
        async def call(*args: Any, **kwargs: Any) -> Any:
            result = getattr(self._calls, name)(*args, **kwargs)
            return await result if inspect.isawaitable(result) else result

        return call


@dataclass(frozen=True)
class World:
    """A client's git, a place of its own, and the repository that is served to it."""

    git: Any
    files: Any
    place: str
    url: str

    async def clone(self, name: str, **wishes: Any) -> str:
        """Clone it as who may, and be somebody in the clone."""
        path = f"{self.place}/{name}"
        await self.git.clone(self.url, path, **ADA, **wishes)
        await self.git.configure_user("Ada", "ada@example.com", scope="local", path=path)
        return path

    async def commit(self, path: str, name: str, text: str) -> None:
        """Write a file, and commit it."""
        await self.files.write(f"{path}/{name}", text)
        await self.git.add(path, files=[name])
        await self.git.commit(path, name)


@pytest.fixture(scope="module")
def served(sandbox: Sandbox) -> Sandbox:
    """A sandbox that serves."""
    sandbox.files.write("/tmp/git_server.py", SERVER.read_text())
    server = sandbox.commands.run(f"python3 /tmp/git_server.py {PORT} {SERVED}", background=True, timeout=0)
    assert next(iter(server)) == ("ready\n", None, None)
    return sandbox


@pytest.fixture(params=["sync", "async"])
async def world(
    request: pytest.FixtureRequest, served: Sandbox, client_options: dict[str, Any], tmp_path: Path
) -> World:
    client: Any = served
    if request.param == "async":
        client = await AsyncSandbox.connect(served.sandbox_id, **client_options)
    name = tmp_path.name
    served.commands.run(MAKE.format(repository=f"{SERVED}/{name}", work=f"/tmp/{name}"))
    return World(
        Awaited(client.git), Awaited(client.files), f"/home/user/{name}", f"http://127.0.0.1:{PORT}/{name}"
    )


async def test_a_clone_needs_the_password_and_does_not_keep_it(world: World) -> None:
    git = world.git
    with pytest.raises(GitAuthException, match="requires credentials"):
        await git.clone(world.url, f"{world.place}/none")
    with pytest.raises(GitAuthException):
        await git.clone(world.url, f"{world.place}/wrong", username="ada", password="guessed")
    with pytest.raises(InvalidArgumentException, match="Username is required"):
        await git.clone(world.url, password="secret")
    with pytest.raises(CommandExitException, match="not found"):
        await git.clone(f"{world.url}-no", f"{world.place}/missing", **ADA)

    path = await world.clone("side", branch="side", depth=1)
    kept = await world.clone("kept", dangerously_store_credentials=True)

    assert (await git.status(path)).current_branch == "side"
    assert await world.files.read(f"{path}/side.txt") == "side\n"
    assert await world.files.exists(f"{path}/.git/shallow")
    assert await git.remote_get(path, "origin") == world.url
    assert "ada:secret@" in await git.remote_get(kept, "origin")


async def test_what_one_pushes_another_pulls(world: World) -> None:
    git, one, other = world.git, await world.clone("one"), await world.clone("other")
    await world.commit(one, "new.txt", "new")
    assert (await git.status(one)).ahead == 1

    await git.push(one, **ADA)
    with pytest.raises(GitAuthException):
        await git.pull(other)
    await git.pull(other, **ADA)

    assert await world.files.read(f"{other}/new.txt") == "new"
    assert (await git.status(one)).ahead == 0
    assert await git.remote_get(one, "origin") == world.url
    with pytest.raises(GitAuthException):
        await git.push(one)


async def test_a_branch_without_upstream_is_neither_pushed_nor_pulled(world: World) -> None:
    git, path = world.git, await world.clone("one")
    await git.create_branch(path, "mine")

    with pytest.raises(GitUpstreamException):
        await git.push(path, set_upstream=False)
    with pytest.raises(GitUpstreamException):
        await git.pull(path)
    await git.push(path, remote="origin", branch="mine", **ADA)

    assert (await git.status(path)).upstream == "origin/mine"


async def test_branches_are_made_left_and_deleted(world: World) -> None:
    git, path = world.git, await world.clone("one")

    await git.create_branch(path, "mine")
    await world.commit(path, "new.txt", "new")
    await git.checkout_branch(path, "main")
    with pytest.raises(CommandExitException, match="not fully merged"):
        await git.delete_branch(path, "mine")
    before = await git.branches(path)
    await git.delete_branch(path, "mine", force=True)

    assert (before.current_branch, set(before.branches)) == ("main", {"main", "mine"})
    assert (await git.branches(path)).branches == ["main"]
    with pytest.raises(CommandExitException):
        await git.checkout_branch(path, "mine")


async def test_changes_are_staged_unstaged_and_taken_back(world: World) -> None:
    git, path = world.git, f"{world.place}/plain"
    await git.init(path, initial_branch="trunk")
    await world.files.write(f"{path}/a.txt", "first")
    await git.add(path)
    grace = {"author_name": "Grace", "author_email": "grace@example.com"}
    await git.commit(path, "first", **grace)
    await git.commit(path, "empty", allow_empty=True, **grace)
    await world.files.write(f"{path}/a.txt", "second")

    await git.add(path)
    staged = await git.status(path)
    await git.restore(path, ["a.txt"], staged=True)
    unstaged = await git.status(path)
    await git.restore(path, ["a.txt"])
    clean = await git.status(path)
    await git.reset(path, mode="hard", target="HEAD~1")

    assert [staged.has_staged, unstaged.has_staged, unstaged.is_clean, clean.is_clean] == [
        True,
        False,
        False,
        True,
    ]
    assert await world.files.read(f"{path}/a.txt") == "first"
    with pytest.raises(InvalidArgumentException, match="Reset mode"):
        await git.reset(path, mode="gently")
    with pytest.raises(CommandExitException):
        await git.reset(path, target="no-such-commit")
    with pytest.raises(InvalidArgumentException, match="path is required"):
        await git.restore(path, [])


async def test_remotes_and_settings_are_there_once_they_are_made(world: World) -> None:
    git, path = world.git, f"{world.place}/plain"
    await git.init(path)

    assert await git.remote_get(path, "origin") is None
    await git.remote_add(path, "origin", "http://127.0.0.1:1/elsewhere")
    with pytest.raises(CommandExitException, match="already exists"):
        await git.remote_add(path, "origin", world.url)
    await git.remote_add(path, "origin", world.url, overwrite=True)
    assert await git.remote_get(path, "origin") == world.url

    assert await git.get_config("pull.rebase", scope="local", path=path) is None
    await git.set_config("pull.rebase", "true", scope="local", path=path)
    assert await git.get_config("pull.rebase", scope="local", path=path) == "true"
    with pytest.raises(InvalidArgumentException):
        await git.set_config("pull.rebase", "true", scope="local")
    # Who runs the commands may not write what is the whole system's.
    with pytest.raises(CommandExitException, match="Permission denied"):
        await git.set_config("pull.rebase", "true", scope="system")


async def test_who_authenticates_for_good_needs_no_password_afterwards(world: World) -> None:
    home = {"HOME": world.place}
    await world.files.make_dir(world.place)

    with pytest.raises(InvalidArgumentException):
        await world.git.dangerously_authenticate("ada", "", envs=home)
    await world.git.dangerously_authenticate(
        "ada", "secret", host=f"127.0.0.1:{PORT}", protocol="http", envs=home
    )
    await world.git.clone(world.url, f"{world.place}/one", envs=home)

    assert await world.files.exists(f"{world.place}/one/.git")
