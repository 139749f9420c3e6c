"""
The entry: finds the verb, and turns every error into words and an exit code.

Exit codes: 0 done; 1 Atoll could not do it; 2 wrong usage; 70 a fault of ours; 128 + n ended by signal n.
``run`` and ``sandbox exec`` end with the command's own code; 124: its time was over; 125: Atoll failed.
"""

import contextlib
import importlib
import os
import signal
import sys
import traceback
from collections.abc import Mapping
from typing import Any

import click

from atoll.cli import output

# Verb: module and function. Loaded when asked for: `atoll env` must not wait for what only others need.
_VERBS: Mapping[str, tuple[str, str]] = {
    "up": ("atoll.cli.up", "up"),
    "down": ("atoll.cli.down", "down"),
    "park": ("atoll.cli.park", "park"),
    "env": ("atoll.cli.env", "env"),
    "dns": ("atoll.cli.dns", "dns"),
    "doctor": ("atoll.cli.doctor", "doctor"),
    "run": ("atoll.cli.run", "run"),
    "sandbox": ("atoll.cli.sandbox", "sandbox"),
    "template": ("atoll.cli.template", "template"),
    "snapshot": ("atoll.cli.snapshot", "snapshot"),
    "pool": ("atoll.cli.pool", "pool"),
    "volume": ("atoll.cli.volume", "volume"),
    "secret": ("atoll.cli.secret", "secret"),
    "team": ("atoll.cli.team", "team"),
    "key": ("atoll.cli.team", "key"),
    "gc": ("atoll.cli.gc", "gc"),
    "ls": ("atoll.cli.files", "ls"),
    "cp": ("atoll.cli.files", "cp"),
}

_EPILOG = """\b
Start:  sudo atoll up --detach && eval "$(sudo atoll env)"
Try:    atoll run -c 'print("hello")'"""


class _Verbs(click.Group):
    """Loads verbs late."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_VERBS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _VERBS:
            return None
        module, name = _VERBS[cmd_name]
        command: click.Command = getattr(importlib.import_module(module), name)
        return command


@click.group(cls=_Verbs, epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="atoll")
def cli() -> None:
    """Run code that nobody trusts, in isolated Linux machines on your own."""


def main(arguments: list[str] | None = None) -> None:
    """Run a verb and exit."""
    code = run(arguments)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        code = 128 + signal.SIGPIPE
    if code == 128 + signal.SIGPIPE:
        # Whoever read us has left: Python must not try again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    with contextlib.suppress(OSError):
        sys.stderr.flush()
    # Not sys.exit: threads of the HTTP client that are still about abort the interpreter at its end, one time
    # in some thousand, and the program's exit code would be lost. All that a verb opened is closed here.
    os._exit(code)


def run(arguments: list[str] | None) -> int:
    """Run a verb; return its exit code."""
    try:
        outcome: Any = cli.main(
            args=arguments, prog_name="atoll", standalone_mode=False, color=None if _may_color() else False
        )
        return outcome if isinstance(outcome, int) else 0
    except click.exceptions.Exit as ended:
        return ended.exit_code
    except click.Abort:
        return 128 + signal.SIGINT
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    except BrokenPipeError:
        return 128 + signal.SIGPIPE
    except Exception as error:  # the last wall
        return _report(error)


def _may_color() -> bool:
    """Tell whether a terminal may be given colours; click leaves them out elsewhere by itself."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def _report(error: Exception) -> int:
    from atoll.sdk.errors import UnauthenticatedError  # here, so that `atoll --help` is quick

    if isinstance(error, UnauthenticatedError):
        # The server does not tell strangers where keys are; here one is most likely its operator.
        output.tell(error.message, error.details, 'eval "$(sudo atoll env)" sets the right one.')
        return 1
    if output.is_told(error):
        output.tell_error(error)
        return 1
    if isinstance(error, OSError):
        # A file of the user's own, nearly always.
        output.tell(f"{error.strerror or error}: {error.filename}" if error.filename else str(error))
        return 1
    if os.environ.get("ATOLL_DEBUG"):
        traceback.print_exception(error)
    output.tell(
        f"This is a fault of Atoll's: {type(error).__name__}: {error}",
        resolution="ATOLL_DEBUG=1 shows where; please report it.",
    )
    return 70
