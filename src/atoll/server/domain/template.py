"""A template, as data: what sandboxes start from."""

from dataclasses import dataclass
from datetime import datetime

from atoll.server.domain.errors import NotFoundError
from atoll.server.domain.ids import TemplateId
from atoll.server.domain.limits import Limits

# E2B's clients may write one behind a name. There is one build of each, and all of these mean it.
_TAGS = frozenset({"default", "latest"})


@dataclass(frozen=True, kw_only=True)
class StartCommand:
    """
    What runs in every sandbox of a template from its creation on.

    Attributes:
        command: a line for the login shell of the default user; it may run for ever, or end with 0.
        ready: a line for the same shell; the sandbox is there when it ends with 0.
        timeout_s: how long that may take, in seconds.
        needs_env: whether it reads the sandbox's own environment: then it is ended and run again in a
            sandbox that has one and was restored from where the command ran already.
    """

    command: str
    ready: str
    timeout_s: int
    needs_env: bool = False


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
        start: what runs in every sandbox from its creation on; None: nothing.
    """

    id: TemplateId
    name: str
    built_at: datetime
    limits: Limits
    default_user: str = "user"
    default_workdir: str = ""
    env: tuple[tuple[str, str], ...] = ()
    start: StartCommand | None = None


def without_tag(untrusted: str) -> str:
    """Drop a tag that means what there is anyway, "base:latest"; another one stays, and no name has it."""
    name, _, tag = untrusted.partition(":")
    return name if tag in _TAGS else untrusted


def no_such_tag(untrusted: str) -> NotFoundError:
    """Make the answer for a name that is there and has a tag, "base:v2", that is not."""
    name, _, tag = untrusted.partition(":")
    return NotFoundError(f"tag '{tag}' does not exist for template '{name}'")
