"""A template, as data: what sandboxes start from."""

from dataclasses import dataclass
from datetime import datetime

from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits


@dataclass(frozen=True, kw_only=True)
class Template:
    """
    A built template.

    Attributes:
        id: names this build: "<name>-<first 12 digits of the recipe's hash>".
        name: what users say: "base".
        built_at: when it was ready.
        limits: the size of sandboxes that name none.
        default_user: who runs commands that name nobody.
        default_workdir: where they run; empty: the user's home.
        env: for every command inside, below the sandbox's own.
    """

    id: TemplateId
    name: str
    built_at: datetime
    limits: Limits
    default_user: str = "user"
    default_workdir: str = ""
    env: tuple[tuple[str, str], ...] = ()
