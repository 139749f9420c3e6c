"""``atoll sandbox``: create, list, look at, use and end sandboxes."""

from contextlib import closing, suppress
from typing import Any, Literal

import click

from atoll import (
    AsyncSandbox,
    AtollError,
    DeadlineExceededError,
    Fall,
    Incoming,
    Network,
    NotFoundError,
    Sandbox,
    SandboxInfo,
)
from atoll.cli import network_options, observing, options, output, streaming, upkeep_options
from atoll.sdk._synchronization import async_undo

_ON_DEADLINE: dict[str, Literal["kill", "pause", "pause_files"]] = {
    "kill": "kill",
    "pause": "pause",
    "pause-files": "pause_files",
}


@click.group()
def sandbox() -> None:
    """Work with sandboxes that stay."""


sandbox.add_command(observing.logs)
sandbox.add_command(observing.metrics)


@sandbox.command()
@options.creation
@network_options.network
@network_options.incoming
@upkeep_options.upkeep
@click.option(
    "--timeout", type=click.IntRange(1), default=300, show_default=True, help="Seconds until its deadline."
)
@click.option(
    "--on-deadline",
    type=click.Choice(["kill", "pause", "pause-files"]),
    default="kill",
    show_default=True,
    help="What happens then; pause-files keeps no memory.",
)
@click.option("--auto-resume", is_flag=True, help="Have a request for it wake it while it is paused.")
@click.option("--metadata", "-m", multiple=True, metavar="NAME=VALUE", help="Your own words about it.")
@options.as_json
def create(
    template: str,
    timeout: int,
    on_deadline: str,
    auto_resume: bool,
    env: tuple[str, ...],
    volume: tuple[str, ...],
    metadata: tuple[str, ...],
    no_internet: bool,
    network: Network | None,
    incoming: Incoming,
    secured: bool,
    cpus: float | None,
    memory_mb: int | None,
    upkeep: dict[str, Any],
    as_json: bool,
) -> None:
    """Create a sandbox and print its id."""
    made = Sandbox.create(
        template,
        timeout=timeout,
        on_deadline=_ON_DEADLINE[on_deadline],
        auto_resume=auto_resume,
        env=options.environment(env),
        volumes=options.volumes(volume),
        metadata=options.pairs(metadata, "--metadata"),
        allow_internet_access=not no_internet,
        network=network,
        incoming=incoming,
        secured=secured,
        cpus=cpus,
        memory_mb=memory_mb,
        **upkeep,
    )
    with closing(made):
        if as_json:
            output.show_json(made.info())
        else:
            click.echo(made.id)


@sandbox.command("list")
@click.option("--status", help="Only these: running, killed, failed …; default: all that have not ended.")
@click.option("--metadata", "-m", multiple=True, metavar="NAME=VALUE", help="Only those with this.")
@options.as_json
def list_(status: str | None, metadata: tuple[str, ...], as_json: bool) -> None:
    """List sandboxes, newest first."""
    found = Sandbox.list(status=status, metadata=options.pairs(metadata, "--metadata"))
    if as_json:
        output.show_json(found)
        return
    rows = [
        (
            one.id,
            one.template,
            one.status,
            output.moment(one.started_at),
            one.end_reason or ("-" if one.status == "paused" else output.left(one.deadline)),
            " ".join(f"{key}={value}" for key, value in one.metadata.items()),
        )
        for one in found
    ]
    output.show_table(("ID", "TEMPLATE", "STATUS", "STARTED", "ENDS IN", "METADATA"), rows)


@sandbox.command()
@click.argument("sandbox_id")
@options.as_json
def info(sandbox_id: str, as_json: bool) -> None:
    """Show all about a sandbox; works for some days after its end."""
    with closing(Sandbox.get(sandbox_id)) as named:
        found, usage = named.info(), None
        token = named.traffic_token
        kills = named.memory_kills()
        if found.ended_at is None:
            with suppress(NotFoundError):
                usage = named.usage()
    if as_json:
        output.show_json({"sandbox": found, "usage": usage, "memory_kills": kills})
        return
    limits = found.limits
    lines: list[tuple[str, object]] = [
        ("id", found.id),
        ("template", f"{found.template} ({found.template_id})"),
        ("status", _status(found)),
        ("created", output.moment(found.created_at)),
        ("started", output.moment(found.started_at)),
        ("ended", output.moment(found.ended_at)),
        ("deadline", _deadline(found)),
        (
            "then",
            found.on_deadline.replace("_", "-") + (", a request wakes it" if found.auto_resume else ""),
        ),
        ("internet", "yes" if found.internet else "no"),
        ("volumes", " ".join(f"{one.name}:{one.path}" for one in found.volumes) or "-"),
        ("metadata", " ".join(f"{key}={value}" for key, value in found.metadata.items()) or "-"),
        (
            "cpu",
            f"{usage.cpu_seconds:.2f} s used; {limits.cpus:g} cores" if usage else f"{limits.cpus:g} cores",
        ),
        ("memory", _of(usage.memory_bytes if usage else None, limits.memory_bytes)),
        ("disk", _of(usage.disk_bytes if usage else None, limits.disk_bytes)),
        ("processes", f"at most {limits.processes}"),
        ("ports", "-" if found.ended_at else f"http://PORT-{found.id}.{found.domain}"),
    ]
    if token is not None:
        lines.append(("header", f"E2B-Traffic-Access-Token: {token}, for its ports"))
    if found.fall is not None:
        lines.append(("fell", _fell(found.fall)))
    lines += [
        ("killed", f"{kill.command}, pid {kill.pid}: out of memory, held {output.size(kill.resident_bytes)}")
        for kill in kills
    ]
    for name, value in lines:
        click.echo(f"{name:10} {output.safe(value)}")


def _status(found: SandboxInfo) -> str:
    told = found.end_reason in (None, found.status)
    return found.status if told else f"{found.status}: {found.end_reason}"


def _deadline(found: SandboxInfo) -> str:
    if found.ended_at or found.status == "paused":  # A resume sets a new one.
        return "-"
    if found.deadline is None:
        return "none: it is persistent"
    return f"{output.moment(found.deadline)} ({output.left(found.deadline)})"


def _fell(fall: Fall) -> str:
    origin = f"from snapshot {fall.snapshot_id}" if fall.snapshot_id else "without a snapshot"
    back = f"back {output.moment(fall.back_at)}, {origin}" if fall.back_at else "not back yet"
    return f"{output.moment(fall.at)}: {fall.reason}; {fall.problem or back}"


def _of(used: int | None, limit: int) -> str:
    return output.size(limit) if used is None else f"{output.size(used)} of {output.size(limit)}"


@sandbox.command()
@click.argument("sandbox_ids", nargs=-1, required=True)
def kill(sandbox_ids: tuple[str, ...]) -> int:
    """End sandboxes, with all that is in them."""
    code = 0
    for sandbox_id in sandbox_ids:
        try:
            with closing(Sandbox.get(sandbox_id)) as found:
                reason = found.info().end_reason
                if reason or not found.kill():
                    raise NotFoundError(f"Sandbox {sandbox_id} had ended before: {reason or 'killed'}.")
            click.echo(sandbox_id)
        except AtollError as error:
            output.tell_error(error)
            code = 1
    return code


@sandbox.command()
@click.argument("sandbox_id")
@click.option("--files-only", is_flag=True, help="Without its memory: a resume boots.")
def pause(sandbox_id: str, files_only: bool) -> None:
    """Write a sandbox to the disk and end its processes, until it is resumed."""
    with closing(Sandbox.get(sandbox_id)) as found:
        found.pause(memory=not files_only)
    click.echo(sandbox_id)


@sandbox.command()
@click.argument("sandbox_id")
@click.option(
    "--timeout", type=click.IntRange(1), default=300, show_default=True, help="Seconds until its deadline."
)
@click.option("--files-only", is_flag=True, help="Boot it from its files, whatever was kept.")
def resume(sandbox_id: str, timeout: int, files_only: bool) -> None:
    """Have a paused sandbox go on where it was."""
    with closing(Sandbox.get(sandbox_id)) as found:
        found.resume(timeout, memory=not files_only)
        click.echo(sandbox_id)


@sandbox.command()
@click.argument("sandbox_id")
@click.option("--name", help="An older snapshot of this name loses it.")
@click.option("--files-only", is_flag=True, help="Without its memory: what is created from it boots.")
def snapshot(sandbox_id: str, name: str | None, files_only: bool) -> None:
    """Keep what a running sandbox is now, and print the snapshot's id; the sandbox goes on."""
    with closing(Sandbox.get(sandbox_id)) as found:
        click.echo(found.snapshot(name, memory=not files_only).id)


@sandbox.command()
@click.argument("sandbox_id")
@click.option("--count", "-n", type=click.IntRange(1), default=1, show_default=True, help="How many.")
@click.option(
    "--timeout", type=click.IntRange(1), default=300, show_default=True, help="Seconds until their deadline."
)
def fork(sandbox_id: str, count: int, timeout: int) -> None:
    """Create sandboxes that go on where a running one is now, and print their ids."""
    with closing(Sandbox.get(sandbox_id)) as found:
        made = found.fork(count, timeout=timeout)
    failures = [one for one in made if isinstance(one, AtollError)]
    for one in made:
        if not isinstance(one, AtollError):
            click.echo(one.id)
            one.close()
    for failure in failures:
        output.tell_error(failure)
    if failures:
        raise click.exceptions.Exit(1)


@sandbox.command("exec", context_settings={"allow_interspersed_args": False})
@click.option("--user", "-u", help="Who runs it; default: the template's user.")
@click.option("--cwd", help="Where it runs; default: the user's home.")
@click.option("--env", "-e", multiple=True, metavar="NAME[=VALUE]", help="Set a variable.")
@click.option(
    "--timeout", type=click.IntRange(0), default=0, help="Seconds until it is ended; default: never."
)
@click.option("--tty", "-t", is_flag=True, help="Give it a terminal.")
@click.argument("sandbox_id")
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def exec_(sandbox_id: str, command: tuple[str, ...], env: tuple[str, ...], **wishes: Any) -> int:
    """
    Run a command in a sandbox that is there: atoll sandbox exec ID -- CMD.

    Exit codes: the command's; 128+n when signal n ended it; 124 when its time was over; 126 when it is
    no program; 127 when it is not there; 125 when Atoll failed.
    """
    if wishes["tty"] and not streaming.has_terminal():
        raise click.UsageError("--tty needs a terminal on both ends")
    variables = options.environment(env)
    # Behind the id nothing is an option of ours; the two dashes are for those who like to be clear.
    words = [*command[1:]] if command[0] == "--" else [*command]
    if not words:
        raise click.UsageError("give a command")

    async def work() -> int:
        return await _exec(sandbox_id, words, variables, **wishes)

    try:
        return streaming.run_until_signal(work)
    except DeadlineExceededError:
        output.tell(f"The command was ended after {wishes['timeout']} s.")
        return streaming.TIMED_OUT
    except AtollError as error:
        output.tell_error(error)
        return streaming.code_of(error)


async def _exec(
    sandbox_id: str,
    command: list[str],
    env: dict[str, str],
    *,
    user: str | None,
    cwd: str | None,
    timeout: int,  # noqa: ASYNC109  the sandbox's daemon keeps it
    tty: bool,
) -> int:
    found = await AsyncSandbox.get(sandbox_id)
    try:
        async with streaming.explained(found):
            handle = await streaming.start(
                found, command, terminal=tty, user=user, cwd=cwd, env=env, timeout=timeout
            )
            try:
                return await streaming.stream(found, handle, terminal=tty)
            except BaseException:
                # Who gives up here must not leave it running there.
                await async_undo(handle.kill)
                raise
    finally:
        await found.close()
