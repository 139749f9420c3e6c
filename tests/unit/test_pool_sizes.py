"""How many machines should wait: what was asked for, between bounds, as far as the memory goes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from atoll.server.domain.ids import TeamId, TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.pool import Demand, PoolKey, Stock, first_to_go, sizes

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(cpus=1, memory_bytes=10**9, processes=100, disk_bytes=10**9)
A = PoolKey(template_id=TemplateId("a"), limits=LIMITS)
B = PoolKey(template_id=TemplateId("b"), limits=LIMITS)


def stock(burst: int = 0, ago: int | None = None, each: int = 10, teams: str = "") -> Stock:
    asked = None if ago is None else NOW - timedelta(seconds=ago)
    whose = frozenset(map(TeamId, teams))
    return Stock(burst=burst, last_asked=asked, machine_bytes=each, teams=whose)


def key(name: str) -> PoolKey:
    return PoolKey(template_id=TemplateId(name), limits=LIMITS)


def test_as_many_wait_as_the_largest_burst_had_between_least_and_most() -> None:
    stocks = {A: stock(burst=7, ago=1), B: stock()}
    assert sizes(stocks, least=2, most=100, budget_bytes=10_000) == {A: 7, B: 2}
    assert sizes(stocks, least=2, most=5, budget_bytes=10_000) == {A: 5, B: 2}


def test_memory_that_is_short_goes_to_everybodys_least_first_and_then_to_who_asked_last() -> None:
    stocks = {A: stock(burst=7, ago=10), B: stock(burst=7, ago=1)}
    assert sizes(stocks, least=1, most=100, budget_bytes=60) == {A: 1, B: 5}
    assert sizes(stocks, least=1, most=100, budget_bytes=10) == {A: 0, B: 1}


def test_many_sizes_of_one_team_take_no_other_teams_least() -> None:
    stocks = {key(str(ago)): stock(burst=9, ago=ago, teams="a") for ago in range(5)}
    stocks[A] = stock(burst=1, ago=100, teams="b")
    stocks[B] = stock()

    assert sizes(stocks, least=2, most=100, budget_bytes=60) == {
        **dict.fromkeys(stocks, 0),
        key("0"): 2,
        A: 2,
        B: 2,
    }


def gone(*, team: str = "", kept: str = "", **stocks: Stock) -> str:
    found = first_to_go(
        {key(name): one for name, one in stocks.items()},
        kept={key(name) for name in kept},
        team=TeamId(team) if team else None,
    )
    return found.template_id


def test_who_has_most_pools_gives_up_the_one_that_was_not_asked_for_longest() -> None:
    theirs = stock(ago=100, teams="b")
    assert gone(team="a", b=theirs, one=stock(ago=9, teams="a"), two=stock(ago=5, teams="a")) == "one"
    assert gone(team="b", b=theirs, one=stock(ago=9, teams="a"), two=stock(ago=5, teams="a")) == "b"
    assert gone(team="c", b=theirs, one=stock(ago=9, teams="a"), two=stock(ago=5, teams="a")) == "one"


def test_who_has_none_gets_one_though_all_others_have_as_few() -> None:
    assert gone(team="c", one=stock(ago=9, teams="a"), two=stock(ago=5, teams="b")) == "one"


def test_a_pool_that_others_ask_for_too_goes_later_than_ones_own() -> None:
    assert gone(team="a", both=stock(ago=9, teams="ab"), own=stock(ago=5, teams="a")) == "own"
    assert gone(team="a", both=stock(ago=9, teams="ab"), other=stock(ago=5, teams="b")) == "both"


def test_a_pool_of_all_does_not_go_for_the_second_of_one_of_them() -> None:
    theirs = {one: stock(ago=ago, teams=one) for ago, one in enumerate("tuvwxyz", start=1)}

    assert gone(team="c", base=stock(ago=99, teams="ctuvwxyz"), **theirs) == "z"
    assert gone(team="c", base=stock(ago=99, teams="cdtuvwxyz"), **theirs) == "z"


def test_what_is_kept_goes_last_and_what_nobody_asked_for_first() -> None:
    own = stock(ago=1, teams="a")
    assert gone(team="a", kept="k", k=stock(), own=own) == "own"
    assert gone(team="a", k=stock(), own=own) == "k"
    assert gone(kept="kj", k=stock(ago=3, teams="a"), j=stock(ago=9, teams="b")) == "j"


@given(
    st.dictionaries(
        st.sampled_from("pqrs"),
        st.builds(stock, ago=st.none() | st.integers(0, 99), teams=st.text("abc", max_size=3)),
        min_size=1,
    ),
    st.text("pq", max_size=2),
    st.sampled_from(["", "a", "z"]),
)
def test_something_goes_always(stocks: dict[str, Stock], kept: str, team: str) -> None:
    assert gone(team=team, kept=kept, **stocks) in stocks


def test_another_size_is_another_key() -> None:
    assert replace(A, limits=replace(LIMITS, cpus=2)) != A


@given(
    st.dictionaries(
        st.sampled_from([A, B, replace(A, template_id=TemplateId("c"))]),
        st.builds(
            Stock,
            burst=st.integers(0, 1000),
            last_asked=st.none() | st.just(NOW),
            machine_bytes=st.integers(0, 100),
        ),
    ),
    st.integers(0, 10),
    st.integers(0, 50),
    st.integers(0, 5000),
)
def test_the_budget_and_the_most_are_never_exceeded(
    stocks: dict[PoolKey, Stock], least: int, most: int, budget: int
) -> None:
    found = sizes(stocks, least=least, most=most, budget_bytes=budget)
    assert found.keys() == stocks.keys()
    assert all(0 <= size <= most for size in found.values())
    assert sum(size * max(stocks[key].machine_bytes, 1) for key, size in found.items()) <= budget


def test_demand_is_the_largest_burst_of_the_last_time() -> None:
    demand = Demand(window=timedelta(seconds=5), memory=timedelta(minutes=10))
    for second in (0, 1, 2, 20, 21):
        demand.asked(NOW + timedelta(seconds=second), TeamId("a"))

    assert demand.burst(NOW + timedelta(seconds=30)) == 3
    assert demand.burst(NOW + timedelta(minutes=10, seconds=10)) == 2
    assert demand.burst(NOW + timedelta(minutes=11)) == 0
    assert demand.last_asked == NOW + timedelta(seconds=21)


def test_a_team_that_asks_no_more_is_forgotten_as_its_bursts_are() -> None:
    demand = Demand(window=timedelta(seconds=5), memory=timedelta(minutes=10))
    demand.asked(NOW, TeamId("a"))
    demand.asked(NOW, TeamId("b"))
    demand.asked(NOW + timedelta(minutes=6), TeamId("b"))

    assert demand.teams(NOW + timedelta(minutes=10)) == {"a", "b"}
    assert demand.teams(NOW + timedelta(minutes=11)) == {"b"}
    assert demand.teams(NOW + timedelta(minutes=17)) == frozenset()
