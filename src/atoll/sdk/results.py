"""How a command ended, and the error that it is for who asks."""

from dataclasses import dataclass

from atoll.sdk.errors import AtollError


class CommandFailedError(AtollError):
    """
    A command ended with another code than 0.

    Attributes:
        result: its output and code.
    """

    code = "failed_precondition"

    def __init__(self, result: "CommandResult") -> None:
        last = result.stderr.strip().splitlines()[-1:] or result.stdout.strip().splitlines()[-1:]
        super().__init__(
            f"the command ended with exit code {result.exit_code}",
            details=f"its last line: {last[0][:500]}" if last else None,
        )
        self.result = result


@dataclass(frozen=True, kw_only=True)
class CommandResult:
    """
    How a command ended.

    Attributes:
        stdout_bytes: its output, as far as it was kept.
        stderr_bytes: its error output, as far as it was kept.
        exit_code: 128 + n when signal n ended it, as shells say it.
        truncated: whether output was dropped: at most ``output.MOST_KEPT_OUTPUT`` bytes of each are kept.
    """

    stdout_bytes: bytes
    stderr_bytes: bytes
    exit_code: int
    truncated: bool = False

    @property
    def stdout(self) -> str:
        """The output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stdout_bytes.decode("utf-8", "replace")

    @property
    def stderr(self) -> str:
        """The error output as text; bytes that are not UTF-8 become U+FFFD."""
        return self.stderr_bytes.decode("utf-8", "replace")

    def check(self) -> "CommandResult":
        """
        Return the result itself when the command succeeded.

        Raises:
            CommandFailedError: its code is not 0.
        """
        if self.exit_code != 0:
            raise CommandFailedError(self)
        return self

    def __repr__(self) -> str:
        outputs = f"stdout={_short(self.stdout)}, stderr={_short(self.stderr)}"
        return f"CommandResult(exit_code={self.exit_code}, {outputs})"


def _short(text: str) -> str:
    return repr(text) if len(text) <= 80 else f"{text[:77]!r}… of {len(text)} characters"
