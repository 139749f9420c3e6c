"""
The SOCKS5 proxy that a sandbox's TCP goes through, and which there can be.

Where a proxy may be is looked at by whoever resolves its name: a proxy must be no way to what no sandbox
reaches.
Its credentials are in no ``repr``, no error and no answer.
"""

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from typing import Any

from atoll.server.domain.errors import InvalidArgumentError

# RFC 1929: one byte for the length.
MOST_CREDENTIAL_BYTES = 255
MOST_NAME = 253
MOST_CA_BYTES = 8192
MOST_PORT = 65535
_NAME = re.compile(r"([a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?\.)*[a-z0-9_]([a-z0-9_-]{0,61}[a-z0-9_])?", re.I)
_MOST_QUOTED = 64


@dataclass(frozen=True, kw_only=True)
class ProxyTLS:
    """
    How a proxy proves who it is.

    Attributes:
        server_name: in its certificate; empty: the host of its address.
        ca_cert: authorities in PEM form, in place of the host's; empty: the host's.
    """

    server_name: str = ""
    ca_cert: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class EgressProxy:
    """
    A SOCKS5 proxy.

    Attributes:
        address: ``host:port``; an address of IPv6 stands in brackets.
        username: empty: it asks for none.
        password: with a user name only.
        tls: how it is spoken to; None: in the clear.
    """

    address: str
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ProxyTLS | None = None

    @property
    def host(self) -> str:
        """The host of its address."""
        return self.address.rpartition(":")[0].strip("[]")


def check_proxy(proxy: EgressProxy) -> None:
    """
    Check a caller's proxy.

    Raises:
        InvalidArgumentError: no proxy can be like that.
    """
    _check_address(proxy.address)
    if proxy.password and not proxy.username:
        raise InvalidArgumentError("egressProxy: a password needs a username")
    for what, text in (("username", proxy.username), ("password", proxy.password)):
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"egressProxy: the {what} is not valid Unicode") from None
        if size > MOST_CREDENTIAL_BYTES:
            raise InvalidArgumentError(
                f"egressProxy: the {what} has {size} bytes, at most {MOST_CREDENTIAL_BYTES}"
            )
    if proxy.tls is not None:
        _check_tls(proxy.tls)


def _check_address(address: str) -> None:
    host, sign, port = address.rpartition(":")
    shown = ascii(address[:_MOST_QUOTED])[1:-1]
    if not sign or not (port.isascii() and port.isdigit() and len(port) <= 5 and 0 < int(port) <= MOST_PORT):
        raise InvalidArgumentError(f"egressProxy: invalid address {shown}: must be host:port")
    if host.startswith("[") and host.endswith("]") and _is_ipv6(host[1:-1]):
        return
    if _is_address(host) and ":" not in host:
        return
    # A name's last label is never a number: that would be an address in an old form.
    if len(host) > MOST_NAME or not _NAME.fullmatch(host) or host.rpartition(".")[2].isdigit():
        raise InvalidArgumentError(f"egressProxy: invalid address {shown}: no host name or IP address")


def _check_tls(tls: ProxyTLS) -> None:
    if tls.server_name and (
        len(tls.server_name) > MOST_NAME
        or not (_NAME.fullmatch(tls.server_name) or _is_address(tls.server_name))
    ):
        raise InvalidArgumentError("egressProxy: tls.serverName is no host name")
    if not tls.ca_cert:
        return
    if len(tls.ca_cert) > MOST_CA_BYTES:
        raise InvalidArgumentError(f"egressProxy: tls.caCert is longer than {MOST_CA_BYTES} bytes")
    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT).load_verify_locations(cadata=tls.ca_cert)
    except (ssl.SSLError, ValueError):
        raise InvalidArgumentError("egressProxy: tls.caCert holds no certificate in PEM form") from None


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return "%" not in text


def _is_ipv6(text: str) -> bool:
    return _is_address(text) and isinstance(ip_address(text), IPv6Address)


def proxy_to_plain(proxy: EgressProxy) -> dict[str, Any]:
    """Return a proxy as JSON has it, credentials too."""
    plain: dict[str, Any] = {
        "address": proxy.address,
        "username": proxy.username,
        "password": proxy.password,
    }
    if proxy.tls is not None:
        plain["tls"] = {"server_name": proxy.tls.server_name, "ca_cert": proxy.tls.ca_cert}
    return plain


def proxy_from_plain(content: object) -> EgressProxy:
    """
    Read what ``proxy_to_plain`` wrote.

    Raises:
        TypeError: it has another form.
    """
    match content:
        case {"address": str(address), "username": str(username), "password": str(password)}:
            tls = content.get("tls") if isinstance(content, Mapping) else None
            return EgressProxy(address=address, username=username, password=password, tls=_tls(tls))
    raise TypeError("not a proxy")


def _tls(content: object) -> ProxyTLS | None:
    match content:
        case None:
            return None
        case {"server_name": str(name), "ca_cert": str(ca_cert)}:
            return ProxyTLS(server_name=name, ca_cert=ca_cert)
    raise TypeError("not a proxy's TLS")
