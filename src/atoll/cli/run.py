"""``atoll run``: a program in a fresh sandbox, as if it ran here."""

from pathlib import Path
from typing import Any

import click

from atoll import AsyncSandbox, AtollError, DeadlineExceededError, Network
from atoll.cli import network_options, options, output, streaming

# Seconds that a program may take when nothing else is said: more than most, and an end for those that hang.
_TIMEOUT = 3600
# Seconds that the sandbox outlives the program's time: the program's end must come first, with its message.
_GRACE = 60
# What runs a file, by its suffix. Others are made executable and run themselves.
_INTERPRETERS = {".py": "python3", ".js": "node", ".mjs": "node", ".sh": "bash"}
# Key under which the words behind "--" are kept.
_COMMAND = "atoll.command"


class _Run(click.Command):
    """Knows ``atoll run -- CMD`` from ``atoll run FILE``: click alone drops the two dashes."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        if "--" in args:
            before = args[: args.index("--")]
            given, _, _ = self.make_parser(ctx).parse_args(list(before))
            # What was not given is a mark of click's own, and neither a tuple nor text.
            if not isinstance(given.get("words"), tuple) and not isinstance(given.get("code"), str):
                ctx.meta[_COMMAND] = args[len(before) + 1 :]
                args = before
        return super().parse_args(ctx, args)


@click.command(
    cls=_Run,
    context_settings={"allow_interspersed_args": False, "ignore_unknown_options": False},
    options_metavar="[OPTIONS]",
)
@options.creation
@network_options.network
@click.option("-c", "code", metavar="CODE", help="Run Python code.")
@click.option(
    "--timeout",
    type=click.IntRange(1),
    default=_TIMEOUT,
    show_default=True,
    help="Seconds until it is ended.",
)
@click.option("--user", "-u", help="Who runs it inside; default: the template's user.")
@click.option("--tty", is_flag=True, help="Give it a terminal.")
@click.argument("words", nargs=-1, type=click.UNPROCESSED, metavar="[FILE [ARG]... | -- CMD [ARG]...]")
@click.pass_context
def run(ctx: click.Context, /, code: str | None, words: tuple[str, ...], **wishes: Any) -> int:
    """
    Run a program in a fresh sandbox.

    FILE is uploaded first: .py is run by python3, .js by node, .sh by bash, others run themselves.
    Output, input and exit code are the program's. The sandbox is gone afterwards, also after Ctrl-C.

    Exit codes: the program's; 128+n when signal n ended it; 124 when its time was over; 126 when it is
    no program; 127 when it is not there; 125 when Atoll failed.
    """
    command = ctx.meta.get(_COMMAND)
    program = _program(code, words, command)
    if wishes["tty"] and not streaming.has_terminal():
        raise click.UsageError("--tty needs a terminal on both ends")
    wishes["env"] = options.environment(wishes["env"])
    wishes["volumes"] = options.volumes(wishes.pop("volume"))

    async def work() -> int:
        return await _run(program, **wishes)

    try:
        return streaming.run_until_signal(work)
    except DeadlineExceededError:
        output.tell(
            f"The program was ended after {wishes['timeout']} s.", resolution="--timeout gives it longer."
        )
        return streaming.TIMED_OUT
    except AtollError as error:
        output.tell_error(error)
        return streaming.code_of(error)


def _program(
    code: str | None, words: tuple[str, ...], command: list[str] | None
) -> tuple[Path | None, list[str]]:
    """Return the file to upload, if there is one, and what to run."""
    if command is not None:
        if not command:
            raise click.UsageError("give a command behind --")
        return None, command
    if code is not None:
        return None, ["python3", "-c", code, *words]
    if not words:
        raise click.UsageError("give a FILE, -c CODE, or -- CMD")
    file = Path(words[0])
    if not file.is_file():
        raise click.UsageError(f"there is no file {words[0]!r}; a command goes behind --")
    return file, list(words)


async def _run(
    program: tuple[Path | None, list[str]],
    *,
    template: str,
    timeout: int,  # noqa: ASYNC109  the sandbox's daemon keeps it
    env: dict[str, str],
    no_internet: bool,
    network: Network | None,
    volumes: dict[str, str],
    cpus: float | None,
    memory_mb: int | None,
    user: str | None,
    tty: bool,
) -> int:
    file, words = program
    sandbox = await AsyncSandbox.create(
        template,
        timeout=timeout + _GRACE,
        env=env,
        metadata={"atoll": "run"},
        allow_internet_access=not no_internet,
        network=network,
        volumes=volumes,
        cpus=cpus,
        memory_mb=memory_mb,
    )
    async with sandbox, streaming.explained(sandbox):
        command = words if file is None else await _upload(sandbox, file, words[1:], user)
        handle = await streaming.start(sandbox, command, terminal=tty, user=user, timeout=timeout)
        return await streaming.stream(sandbox, handle, terminal=tty)


async def _upload(sandbox: AsyncSandbox, file: Path, arguments: list[str], user: str | None) -> list[str]:
    """Put a file into the user's home; return how to run it."""
    there = (await sandbox.files.write(file.name, file, user=user)).path
    interpreter = _INTERPRETERS.get(file.suffix)
    if interpreter is not None:
        return [interpreter, there, *arguments]
    await sandbox.commands.run(["chmod", "+x", there], user=user, check=True)
    return [there, *arguments]
