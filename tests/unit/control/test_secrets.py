"""Which secrets there can be, and which values a sandbox's rules get."""

from collections.abc import AsyncIterator, Callable

import pytest
from fakes.secrets import secrets_in
from fakes.teams import add_teams
from fakes.world import ALICE, wish

from atoll.server.control.limits import ControlLimits
from atoll.server.control.owned.secrets import Secrets
from atoll.server.control.requests import Actor
from atoll.server.control.service import Control
from atoll.server.domain.egress import EgressPolicy
from atoll.server.domain.egress_rules import HeaderRule
from atoll.server.domain.errors import InvalidArgumentError, NotFoundError
from atoll.server.domain.ids import TeamId
from atoll.server.stores.database import Database

BOB = Actor(team_id=TeamId("bob"), key_id="bob", key_name="bob")


@pytest.fixture
async def secrets() -> AsyncIterator[Secrets]:
    async with Database(None) as database:
        await add_teams(database, BOB.team_id)
        yield secrets_in(database, ControlLimits(max_secrets=5, secret_value_bytes=8))


async def test_names_are_kept_in_lower_case(secrets: Secrets) -> None:
    made = await secrets.create(ALICE, "GitHub-Token", "x", {})

    assert made.name == "github-token"
    assert await secrets.get(ALICE, "GITHUB-token") == await secrets.get(ALICE, made.id) == made
    with pytest.raises(NotFoundError):
        await secrets.get(BOB, made.id)


@pytest.mark.parametrize(
    "change",
    [
        {"name": ""}, {"name": "a}b"}, {"name": "{"}, {"name": "a/b"}, {"name": "a\nb"}, {"name": "sec_a"},
        {"name": "SEC_a"}, {"name": "x" * 129}, {"name": " a"}, {"name": "\udcff"}, {"name": "a\\b"},
        {"value": ""}, {"value": "x" * 9}, {"value": "\udcff"},
        {"metadata": {str(n): "" for n in range(33)}}, {"metadata": {"x" * 129: ""}},
        {"metadata": {"x": "y" * 1025}}, {"metadata": {str(n): "y" * 1000 for n in range(9)}},
        {"metadata": {"\udcff": ""}},
    ],
)  # fmt: skip
async def test_what_cannot_be_is_refused(secrets: Secrets, change: dict[str, object]) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        await secrets.create(ALICE, **{"untrusted_name": "a", "value": "v", "metadata": {}} | _named(change))  # type: ignore[arg-type]

    caught.value.message.encode()
    assert await secrets.list(ALICE, after="", limit=10) == []


def _named(change: dict[str, object]) -> dict[str, object]:
    return {"untrusted_name" if key == "name" else key: value for key, value in change.items()}


async def test_a_sandbox_gets_what_its_rules_name_and_nothing_else(
    secrets: Secrets, control: Control
) -> None:
    for name in ("one", "two"):
        await secrets.create(ALICE, name, f"v-{name}", {})
    await secrets.create(BOB, "three", "v-three", {})
    value = "${e2b.secrets.One} ${e2b.secrets.three} ${e2b.secrets.four}"
    rule = HeaderRule(domain="a.example", headers=(("X", value),))
    sandbox = await control.create(ALICE, wish(egress=EgressPolicy(rules=(rule,))))

    assert await secrets.values_for(sandbox, ["One", "two", "three", "four"]) == {"One": "v-one"}
    await secrets.update(ALICE, "ONE", "second", None)
    assert await secrets.values_for(sandbox, ["One"]) == {"One": "second"}
    await secrets.delete(ALICE, "ONE")
    assert await secrets.values_for(sandbox, ["One"]) == {}


@pytest.mark.parametrize("limit", [0, -1, 101])
async def test_pages_have_bounds(secrets: Secrets, limit: int) -> None:
    with pytest.raises(InvalidArgumentError):
        await secrets.list(ALICE, after="", limit=limit)


async def test_no_value_is_in_a_log_or_an_error(secrets: Secrets, capsys: pytest.CaptureFixture[str]) -> None:
    calls: list[Callable[[], object]] = [
        lambda: secrets.create(ALICE, "a", "hush", {}),
        lambda: secrets.create(ALICE, "a", "hush", {}),
        lambda: secrets.create(ALICE, "b", "hush" * 9, {}),
        lambda: secrets.update(ALICE, "c", "hush", None),
    ]
    said = ""
    for call in calls:
        try:
            said += repr(await call())  # type: ignore[misc]
        except Exception as error:
            said += repr(error) + str(error)

    assert "hush" not in said + capsys.readouterr().out
