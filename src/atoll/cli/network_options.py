"""Options about what a new sandbox may reach, and who may reach it."""

import functools
import os
from collections.abc import Callable, Sequence
from typing import Any

import click

from atoll.sdk.network import ALL_TRAFFIC, Incoming, Network, Proxy, ProxyTLS

# Not an option: other users of a machine see command lines.
PASSWORD_VARIABLE = "ATOLL_PROXY_PASSWORD"  # noqa: S105  the variable's name

_OPTIONS = (
    click.option(
        "--proxy-tls", is_flag=True, help="Speak to the proxy over TLS, and have it prove its name."
    ),
    click.option(
        "--proxy",
        metavar="[USER@]HOST:PORT",
        help=f"Send all of its TCP through this SOCKS5 proxy; the password is in {PASSWORD_VARIABLE}.",
    ),
    click.option(
        "--header",
        "headers",
        multiple=True,
        metavar="DOMAIN:NAME=VALUE",
        help="Put a header into its requests to a domain, unseen; ${e2b.secrets.NAME} stands for a secret.",
    ),
    click.option("--dns", multiple=True, metavar="ADDRESS", help="Have this server resolve its names."),
    click.option("--deny", multiple=True, metavar="NETWORK", help="Deny it an address or a network."),
    click.option(
        "--allow",
        multiple=True,
        metavar="NETWORK|DOMAIN",
        help="Let it reach an address, a network or a domain, and without --deny nothing else.",
    ),
)


def network(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the options, and hand them on as ``network``: None when there is none."""

    @functools.wraps(function)
    def wrapped(
        *arguments: Any,
        allow: tuple[str, ...],
        deny: tuple[str, ...],
        dns: tuple[str, ...],
        headers: tuple[str, ...],
        proxy: str | None,
        proxy_tls: bool,
        **others: Any,
    ) -> Any:
        if proxy_tls and proxy is None:
            raise click.UsageError("--proxy-tls needs --proxy")
        wished = Network(
            allow_out=allow,
            deny_out=deny or ((ALL_TRAFFIC,) if allow else ()),
            dns_servers=dns,
            headers=_headers(headers),
            proxy=None if proxy is None else _proxy(proxy, tls=proxy_tls),
        )
        return function(*arguments, network=None if wished == Network() else wished, **others)

    taken: Callable[..., Any] = wrapped
    for option in _OPTIONS:
        taken = option(taken)
    return taken


_INCOMING = (
    click.option(
        "--unsecured",
        is_flag=True,
        help="Let whoever knows its id run commands in it, without its access token.",
    ),
    click.option(
        "--https-port",
        "https_ports",
        multiple=True,
        type=click.IntRange(1, 65535),
        help="Say where its programs speak HTTPS.",
    ),
    click.option(
        "--mask-host",
        default="",
        metavar="HOST",
        help="Have its programs see this Host; ${PORT} is the port.",
    ),
    click.option(
        "--private",
        is_flag=True,
        help="Let only those reach its ports who show its token; `atoll sandbox info` tells it.",
    ),
)


def incoming(function: Callable[..., Any]) -> Callable[..., Any]:
    """Take the options about who may reach it, and hand them on as ``incoming`` and ``secured``."""

    @functools.wraps(function)
    def wrapped(
        *arguments: Any,
        private: bool,
        mask_host: str,
        https_ports: tuple[int, ...],
        unsecured: bool,
        **others: Any,
    ) -> Any:
        wished = Incoming(public=not private, mask_host=mask_host, https_ports=https_ports)
        return function(*arguments, incoming=wished, secured=not unsecured, **others)

    taken: Callable[..., Any] = wrapped
    for option in _INCOMING:
        taken = option(taken)
    return taken


def _headers(words: Sequence[str]) -> dict[str, dict[str, str]]:
    """
    Read DOMAIN:NAME=VALUE words.

    Raises:
        click.BadParameter: a word has another form; its value, which may be secret, is not repeated.
    """
    found: dict[str, dict[str, str]] = {}
    for word in words:
        where, sign, value = word.partition("=")
        domain, colon, name = where.partition(":")
        if not (sign and colon and domain and name):
            raise click.BadParameter("must be DOMAIN:NAME=VALUE", param_hint="--header")
        found.setdefault(domain, {})[name.strip()] = value.strip()
    return found


def _proxy(word: str, *, tls: bool) -> Proxy:
    username, _, address = word.rpartition("@")
    if ":" in username:
        raise click.BadParameter(
            f"others see command lines: put the password into {PASSWORD_VARIABLE}", param_hint="--proxy"
        )
    return Proxy(
        address=address,
        username=username,
        password=os.environ.get(PASSWORD_VARIABLE, "") if username else "",
        tls=ProxyTLS() if tls else None,
    )
