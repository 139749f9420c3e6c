"""Which tokens sandboxes can have, and which key signs when."""

from datetime import UTC, datetime, timedelta

import pytest

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.identity import (
    IdentityLimits,
    SigningKey,
    WorkloadToken,
    check_tokens,
    check_trust_domain,
    from_plain,
    plan_keys,
    to_plain,
)

NOON = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
LIMITS = IdentityLimits()


def key(name: str, age: timedelta) -> SigningKey:
    return SigningKey(id=name, created_at=NOON - age, public={})


def token(name: str = "aws", audience: str = "sts.example") -> WorkloadToken:
    return WorkloadToken(name=name, audience=audience)


def test_tokens_are_kept_as_they_are_written() -> None:
    tokens = (token("Aws", "https://Sts.example/a?b=c"), token("aws 2", "ü"))

    assert check_tokens(tokens) == from_plain(to_plain(tokens)) == tokens


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        ((token(""),), "1 to 128 characters"),
        ((token("a}b"),), "no braces"),
        ((token("{"),), "no braces"),
        ((token("a\nb"),), "no control"),
        ((token("x" * 129),), "1 to 128"),
        ((token("\udcff"),), "1 to 128"),
        ((token(audience=""),), "audience of iam token 'aws' must have 1 to 1024"),
        ((token(audience="a\x00"),), "no control"),
        ((token(audience=" a"),), "spaces"),
        ((token(audience="x" * 1025),), "1 to 1024"),
        ((token(audience="\udcff"),), "1 to 1024"),
        (tuple(token(str(n)) for n in range(6)), "6 tokens, at most 5"),
        ((token(), token()), "twice"),
    ],
)
def test_tokens_that_cannot_be_are_refused(tokens: tuple[WorkloadToken, ...], says: str) -> None:
    with pytest.raises(InvalidArgumentError, match=says) as caught:
        check_tokens(tokens)

    caught.value.message.encode()


@pytest.mark.parametrize("content", [{}, None, [1], [{"name": "a"}], [{"name": "a", "audience": 1}]])
def test_what_is_no_list_of_tokens_is_not_taken_for_one(content: object) -> None:
    with pytest.raises(TypeError):
        from_plain(content)


@pytest.mark.parametrize("name", ["", "Sbx.test", "a/b", "a:8443", "x" * 256])
def test_trust_domains_have_spiffes_form(name: str) -> None:
    with pytest.raises(InvalidArgumentError, match="trust domain"):
        check_trust_domain(name)


def test_the_first_key_signs_at_once() -> None:
    first = key("a", timedelta())

    assert plan_keys([], NOON, LIMITS).wants_new
    assert plan_keys([first], NOON, LIMITS) == plan_keys([first], NOON + 29 * DAY, LIMITS)
    assert plan_keys([first], NOON, LIMITS).signing == first


def test_the_next_key_is_known_before_it_signs_and_the_last_one_after_it_did() -> None:
    old, new = key("old", 30 * DAY), key("new", timedelta())
    due = plan_keys([old], NOON, LIMITS)
    minute = timedelta(minutes=1)
    known = plan_keys([new, old], NOON + 2 * DAY - minute, LIMITS)
    taken_over = plan_keys([new, old], NOON + 2 * DAY, LIMITS)
    still_there = plan_keys([new, old], NOON + 4 * DAY, LIMITS)
    over = plan_keys([new, old], NOON + 4 * DAY + LIMITS.token_time, LIMITS)

    assert (due.signing, due.wants_new) == (old, True)
    assert (known.signing, known.wants_new, known.over) == (old, False, ())
    assert (taken_over.signing, taken_over.over) == (new, ())
    assert (still_there.signing, still_there.over) == (new, ())
    assert (over.signing, over.over) == (new, (old,))


def test_after_months_in_which_nobody_asked_a_key_still_signs() -> None:
    old = key("old", 400 * DAY)

    plan = plan_keys([old], NOON, LIMITS)

    assert (plan.signing, plan.wants_new, plan.over) == (old, True, ())
