"""Who may reach a sandbox's ports: which policies there can be."""

import pytest

from atoll.server.domain.errors import InvalidArgumentError
from atoll.server.domain.ingress import IngressPolicy, checked, from_plain, to_plain


@pytest.mark.parametrize("mask", ["", "localhost", "localhost:${PORT}", "${PORT}.example.com", "10.0.0.1:80"])
def test_a_mask_is_a_host(mask: str) -> None:
    policy = IngressPolicy(public=False, mask_host=mask, https_ports=(8443, 8443))

    assert checked(policy) == IngressPolicy(public=False, mask_host=mask, https_ports=(8443,))
    assert from_plain(to_plain(checked(policy))) == checked(policy)


@pytest.mark.parametrize(
    "mask", ["a b", "a\r\nX: y", "http://a", "a/b", ":80", "a:123456", "x" * 256, "\u00fc"]
)
def test_what_is_no_host_is_no_mask(mask: str) -> None:
    with pytest.raises(InvalidArgumentError, match="invalid mask request host"):
        checked(IngressPolicy(mask_host=mask))


@pytest.mark.parametrize("ports", [(0,), (65536,), (-1,), (49983,), tuple(range(1, 66))])
def test_what_is_no_port_is_refused(ports: tuple[int, ...]) -> None:
    with pytest.raises(InvalidArgumentError):
        checked(IngressPolicy(https_ports=ports))


@pytest.mark.parametrize(
    "content",
    [
        {},
        {"public": 1, "mask_host": "", "https_ports": []},
        {"public": True, "mask_host": "", "https_ports": ["1"]},
        {"public": True, "mask_host": "", "https_ports": [], "x": 1},
    ],
)
def test_what_has_another_form_is_no_policy(content: dict[str, object]) -> None:
    with pytest.raises(TypeError):
        from_plain(content)
