"""Codes and HTTP."""

import pytest
import structlog

from atoll.server.api.errors import CODE_OF_STATUS, STATUS, answer_to
from atoll.server.domain.errors import (
    Code,
    InternalError,
    NotFoundError,
    Reason,
    ResourceExhaustedError,
    UnavailableError,
)


def test_every_code_has_a_status() -> None:
    assert set(STATUS) == set(Code)
    assert all(400 <= status < 600 for status in STATUS.values())
    assert all(400 <= status < 600 for status in CODE_OF_STATUS)


def test_a_caller_sees_the_message_and_operators_the_facts() -> None:
    error = NotFoundError("no such thing", details="row 7 of /var/lib", resolution="look there")

    with structlog.testing.capture_logs() as logs:
        answer = answer_to(error, "req_1")

    assert (answer.status, answer.message) == (404, "no such thing")
    assert logs[0]["details"] == "row 7 of /var/lib"
    assert logs[0]["resolution"] == "look there"


@pytest.mark.parametrize("error", [RuntimeError("secret path"), KeyError("secret"), MemoryError("secret")])
def test_what_nobody_expected_is_internal_and_names_only_an_id(error: Exception) -> None:
    with structlog.testing.capture_logs() as logs:
        answer = answer_to(error, "req_42")

    assert answer.code is Code.INTERNAL
    assert "secret" not in answer.message
    assert "req_42" in answer.message
    assert [entry["request_id"] for entry in logs] == ["req_42"]


def test_clients_are_told_whether_to_send_the_same_again() -> None:
    def advice(error: Exception) -> str | None:
        return answer_to(error, "req_1").headers.get("Should-Retry")

    assert advice(ResourceExhaustedError("full")) == "false"
    assert advice(InternalError("broken")) == "false"
    assert advice(UnavailableError("not now")) == "true"
    assert advice(UnavailableError("it hangs", reason=Reason.PAUSE_REFUSED)) == "false"
    assert advice(NotFoundError("none")) is None
