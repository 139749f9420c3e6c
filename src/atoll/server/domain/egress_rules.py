"""
Rules about requests to a name: which headers they get on their way, and which there can be.

A value never reaches the sandbox: the edge puts it into the request behind the sandbox's back. It may name
secrets, ``${e2b.secrets.<name>}``, and tokens of the sandbox, ``${e2b.identity.tokens.<name>}``, whose values
are looked up or made when a request is made.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from atoll.server.domain.errors import InvalidArgumentError

# Headers that belong to one connection, or say where a request goes and how long it is.
FORBIDDEN = frozenset(
    {
        "host", "connection", "keep-alive", "proxy-connection", "proxy-authenticate", "proxy-authorization",
        "te", "trailer", "transfer-encoding", "upgrade", "content-length", "expect", "http2-settings",
    }
)  # fmt: skip
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_VALUE = re.compile(r"[\t\x20-\x7e]*")
_SECRET = re.compile(r"\$\{e2b\.secrets\.([^{}]*)\}")
_IDENTITY = re.compile(r"\$\{e2b\.identity\.tokens\.([^{}]*)\}")
# What placeholders begin with, behind "${e2b.".
SECRETS, TOKENS = "secrets.", "identity.tokens."
# Error texts repeat at most so much of what the caller sent.
_MOST_QUOTED = 64


@dataclass(frozen=True, kw_only=True)
class RuleLimits:
    """
    What rules may hold; E2B's own limits.

    Attributes:
        domains: with a rule, in one policy.
        headers: of one rule.
        name_bytes: of a header's name.
        value_bytes: of a header's value, before secrets are filled in.
    """

    domains: int = 10
    headers: int = 20
    name_bytes: int = 64
    value_bytes: int = 2048


@dataclass(frozen=True, kw_only=True)
class HeaderRule:
    """
    What requests to a name get.

    Attributes:
        domain: a name, or ``*.`` and a name for all below it.
        headers: names and values.
    """

    domain: str
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)

    @property
    def secrets(self) -> tuple[str, ...]:
        """The names of secrets in the values, as they are written there."""
        return self._named(_SECRET)

    @property
    def tokens(self) -> tuple[str, ...]:
        """The names of workload tokens in the values."""
        return self._named(_IDENTITY)

    @property
    def placeholders(self) -> tuple[str, ...]:
        """All that is filled in, as it is written between ``${e2b.`` and ``}``."""
        return (
            *(SECRETS + name for name in self.secrets),
            *(TOKENS + name for name in self.tokens),
        )

    def _named(self, placeholder: re.Pattern[str]) -> tuple[str, ...]:
        found = (match[1] for _, value in self.headers for match in placeholder.finditer(value))
        return tuple(dict.fromkeys(found))


def check_headers(rule: HeaderRule, limits: RuleLimits) -> None:
    """
    Check what a caller wants put into requests.

    Raises:
        InvalidArgumentError: no request can have it, or it is too much.
    """
    where = f"rule of {rule.domain}"
    if len(rule.headers) > limits.headers:
        raise InvalidArgumentError(f"{where} has {len(rule.headers)} headers, at most {limits.headers}")
    seen: set[str] = set()
    for name, value in rule.headers:
        _check_name(where, name, limits)
        if name.lower() in seen:
            raise InvalidArgumentError(f"{where} names header {name} twice")
        seen.add(name.lower())
        # Never quoted: it is what nobody is to see.
        if len(value) > limits.value_bytes:
            raise InvalidArgumentError(
                f"{where}: the value of {name} has {len(value)} characters, at most {limits.value_bytes}"
            )
        if not _VALUE.fullmatch(value):
            raise InvalidArgumentError(f"{where}: the value of {name} has characters that no header can have")


def check_tokens_named(rules: Sequence[HeaderRule], there: Collection[str]) -> None:
    """
    Check that rules name tokens only that the sandbox has: a typo would send a request without its proof.

    Raises:
        InvalidArgumentError: one does not.
    """
    for rule in rules:
        for name in rule.tokens:
            if name not in there:
                raise InvalidArgumentError(
                    f"rule of {rule.domain} names iam token {name[:_MOST_QUOTED]!a}, "
                    "which the sandbox does not have",
                    resolution="Tokens are named at the create: iam={'tokens': {...}}.",
                )


def _check_name(where: str, name: str, limits: RuleLimits) -> None:
    shown = ascii(name[:_MOST_QUOTED])[1:-1]
    if len(name) > limits.name_bytes:
        raise InvalidArgumentError(
            f"{where}: header name {shown}... is longer than {limits.name_bytes} characters"
        )
    if not _TOKEN.fullmatch(name):
        raise InvalidArgumentError(f"{where}: invalid header name {shown}")
    if name.lower() in FORBIDDEN:
        raise InvalidArgumentError(f"{where}: header {shown} cannot be set")


def rule_to_plain(rule: HeaderRule) -> dict[str, Any]:
    """Return a rule as JSON has it."""
    return {"domain": rule.domain, "headers": dict(rule.headers)}


def rule_from_plain(content: object) -> HeaderRule:
    """
    Read what ``rule_to_plain`` wrote.

    Raises:
        TypeError: it has another form.
    """
    match content:
        case {"domain": str(domain), "headers": Mapping() as headers} if all(
            isinstance(name, str) and isinstance(value, str) for name, value in headers.items()
        ):
            return HeaderRule(domain=domain, headers=tuple(headers.items()))
    raise TypeError("not a rule about headers")
