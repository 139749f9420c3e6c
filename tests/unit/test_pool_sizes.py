"""How many machines should wait: what was asked for, between bounds, as far as the memory goes."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

from hypothesis import given
from hypothesis import strategies as st

from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits
from atoll.server.domain.pool import Demand, PoolKey, Stock, sizes

NOW = datetime(2026, 1, 1, tzinfo=UTC)
LIMITS = Limits(cpus=1, memory_bytes=10**9, processes=100, disk_bytes=10**9)
A = PoolKey(template_id=TemplateId("a"), limits=LIMITS)
B = PoolKey(template_id=TemplateId("b"), limits=LIMITS)


def stock(burst: int = 0, ago: int | None = None, each: int = 10) -> Stock:
    asked = None if ago is None else NOW - timedelta(seconds=ago)
    return Stock(burst=burst, last_asked=asked, machine_bytes=each)


def test_as_many_wait_as_the_largest_burst_had_between_least_and_most() -> None:
    stocks = {A: stock(burst=7, ago=1), B: stock()}
    assert sizes(stocks, least=2, most=100, budget_bytes=10_000) == {A: 7, B: 2}
    assert sizes(stocks, least=2, most=5, budget_bytes=10_000) == {A: 5, B: 2}


def test_memory_that_is_short_goes_to_everybodys_least_first_and_then_to_who_asked_last() -> None:
    stocks = {A: stock(burst=7, ago=10), B: stock(burst=7, ago=1)}
    assert sizes(stocks, least=1, most=100, budget_bytes=60) == {A: 1, B: 5}
    assert sizes(stocks, least=1, most=100, budget_bytes=10) == {A: 0, B: 1}


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
        demand.asked(NOW + timedelta(seconds=second))

    assert demand.burst(NOW + timedelta(seconds=30)) == 3
    assert demand.burst(NOW + timedelta(minutes=10, seconds=10)) == 2
    assert demand.burst(NOW + timedelta(minutes=11)) == 0
    assert demand.last_asked == NOW + timedelta(seconds=21)
