"""Code that a kernel was asked to run: what comes of it, and whether all of it came."""

import asyncio
from collections.abc import Callable
from typing import Any

from interpreter import items, limits
from interpreter.items import Item

Message = dict[str, Any]


class Request:
    """Hands a kernel's items on in order, until the kernel says that it is done."""

    def __init__(self, message_id: str, put: Callable[[Item], None]) -> None:
        self.id = message_id
        self._put = put
        self.replied = asyncio.Event()
        self.idle = asyncio.Event()
        # It has put out more than it may: the last item says so.
        self.flooded = asyncio.Event()
        # Nobody wants more of it.
        self.abandoned = False
        self._bytes = 0
        self._failed = False
        self._reply: Any = None

    def take(self, message: Message, size: int) -> None:
        """Hand on what a message of so many bytes says to clients; the content of too many is packed."""
        kind, content = message["msg_type"], message["content"]
        if size > limits.OUTPUT_BYTES:
            self._flood()
        elif kind == "status":
            if content.get("execution_state") == "idle":
                self.idle.set()
        elif (item := items.translate(kind, content)) is not None:
            self._bytes += size
            if self._bytes > limits.OUTPUT_BYTES:
                self._flood()
            self._tell(item)

    def take_reply(self, message: Message, _size: int) -> None:
        """Note how it went, as the kernel says."""
        self._reply = message["content"]
        self.replied.set()

    def settle(self) -> None:
        """Tell of what no message told of: an error that could not be packed, say, or lost output."""
        if self._failed:
            return
        if not self.replied.is_set():
            text = "The kernel gave no answer: what the code did or put out may be lost in part."
            self._tell(items.error("ExecutionFailed", text))
        elif not isinstance(self._reply, dict) or self._reply.get("status") != "ok":
            self._tell(_failure(self._reply))
        elif not self.idle.is_set():
            self._tell(items.output("stderr", "Some of what this execution put out was lost.\n"))

    def _flood(self) -> None:
        text = f"The execution was interrupted: it put out more than {limits.OUTPUT_BYTES >> 20} MiB."
        self._tell(items.error("OutputLimitExceeded", text))
        self.flooded.set()

    def _tell(self, item: Item) -> None:
        if self.abandoned or self.flooded.is_set():
            return
        self._failed = self._failed or item["type"] == "error"
        self._put(item)


def _failure(reply: Any) -> Item:
    """Make the error of a reply, whatever it has in it."""
    try:
        told = items.translate("error", reply) if reply.get("ename") else None
    except (AttributeError, TypeError):
        told = None
    return told or items.error("ExecutionFailed", "The kernel says that the code was not run, or failed.")
