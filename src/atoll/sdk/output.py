"""Gathers a command's output: bytes for the result, within a bound, and text for callbacks."""

import codecs

from atoll.sdk.models import Output, Stream
from atoll.sdk.results import CommandResult

# Bytes of each of a command's two outputs that its result keeps. More than a person reads or a model takes;
# a command that prints a gigabyte must not fill its caller's memory. Callbacks and iteration get all of it.
MOST_KEPT_OUTPUT = 64 * 1024 * 1024


class Collector:
    """What came so far."""

    def __init__(self, most: int = MOST_KEPT_OUTPUT) -> None:
        self._most = most
        self._kept = {Stream.STDOUT: bytearray(), Stream.STDERR: bytearray()}
        decoder = codecs.getincrementaldecoder("utf-8")
        self._decoders = {stream: decoder("replace") for stream in self._kept}
        self._truncated = False

    def add(self, piece: Output) -> str:
        """Keep a piece; return as much text as is complete with it."""
        stream = Stream.STDERR if piece.stream is Stream.STDERR else Stream.STDOUT
        kept = self._kept[stream]
        room = self._most - len(kept)
        kept += piece.data[:room]
        self._truncated |= len(piece.data) > room
        return self._decoders[stream].decode(piece.data)

    def rest(self, stream: Stream) -> str:
        """Return what is left of a character that never became complete."""
        return self._decoders[stream].decode(b"", final=True)

    def result(self, exit_code: int) -> CommandResult:
        """Return how the command ended."""
        return CommandResult(
            stdout_bytes=bytes(self._kept[Stream.STDOUT]),
            stderr_bytes=bytes(self._kept[Stream.STDERR]),
            exit_code=exit_code,
            truncated=self._truncated,
        )
