"""What a sandbox may reach, and who may reach it, as users say it; the server checks it."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from atoll.sdk.errors import InvalidArgumentError

# Everything, over IPv4 and IPv6.
ALL_TRAFFIC = "0.0.0.0/0"


def secret_placeholder(name: str) -> str:
    """
    Return what stands for a secret in a header's value.

    Raises:
        InvalidArgumentError: no secret is called that.
    """
    if not name or any(char in "{}/\\" or not char.isprintable() for char in name):
        raise InvalidArgumentError("The name of a secret has no braces, slashes or control characters.")
    return "${e2b.secrets." + name.lower() + "}"


@dataclass(frozen=True, kw_only=True)
class ProxyTLS:
    """
    How a proxy proves who it is.

    Attributes:
        server_name: in its certificate; empty: the host of its address.
        ca_cert: authorities in PEM form, in place of the server's own; empty: those.
    """

    server_name: str = ""
    ca_cert: str = field(default="", repr=False)


@dataclass(frozen=True, kw_only=True)
class Proxy:
    """
    A SOCKS5 proxy that all TCP of a sandbox goes through.

    Attributes:
        address: ``host:port``.
        username: empty: it asks for none.
        password: with a user name only.
        tls: None: it is spoken to in the clear.
    """

    address: str
    username: str = ""
    password: str = field(default="", repr=False)
    tls: ProxyTLS | None = None


@dataclass(frozen=True, kw_only=True)
class Incoming:
    """
    Who reaches the ports of a sandbox, and how its programs are asked; set when it is created.

    The port of the sandbox's daemon is apart: see ``secured``.

    Attributes:
        public: anybody who knows the host name; else only requests whose header
            ``E2B-Traffic-Access-Token`` has the sandbox's ``traffic_token``.
        mask_host: what programs see as the requests' Host, ``${PORT}`` being the port; empty: what the client
            sent.
        https_ports: where programs speak HTTPS; their certificates are not checked.
    """

    public: bool = True
    mask_host: str = ""
    https_ports: tuple[int, ...] = ()

    def plain(self) -> dict[str, Any]:
        """Return it as the API takes it."""
        return {"public": self.public, "mask_host": self.mask_host, "https_ports": list(self.https_ports)}


@dataclass(frozen=True, kw_only=True)
class Network:
    """
    What a sandbox may reach. What is allowed wins over what is denied; what is neither is allowed.

    The host, other sandboxes, private ranges and metadata addresses are never reached.

    Attributes:
        allow_out: addresses, networks, and domains (``example.com``, ``*.example.com``); domains need
            ``0.0.0.0/0`` in ``deny_out``.
        deny_out: addresses and networks; ``0.0.0.0/0`` is everything, IPv6 too.
        dns_servers: IPv4 addresses of who resolves names for it; none: the server's own.
        headers: by domain: headers that requests to it get on their way, unseen by the sandbox. In a value,
            ``Secret.fill(name)`` stands for a secret.
        proxy: what all of its TCP goes through, after all this.
    """

    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    dns_servers: tuple[str, ...] = ()
    headers: Mapping[str, Mapping[str, str]] = field(default_factory=dict, repr=False)
    proxy: Proxy | None = None

    def plain(self) -> dict[str, Any]:
        """Return it as the API takes it."""
        plain: dict[str, Any] = {
            "allow_out": list(self.allow_out),
            "deny_out": list(self.deny_out),
            "dns_servers": list(self.dns_servers),
            "headers": {domain: dict(pairs) for domain, pairs in self.headers.items()},
        }
        if self.proxy is not None:
            proxy = {name: getattr(self.proxy, name) for name in ("address", "username", "password")}
            tls = self.proxy.tls
            told = None if tls is None else {"server_name": tls.server_name, "ca_cert": tls.ca_cert}
            plain["proxy"] = {**proxy, "tls": told}
        return plain
