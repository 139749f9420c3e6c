"""
The kernel's packet filter, through libnftables in this process: 0.2 ms a call; starting `nft` takes 4.5.

Commands are written in nft's own language. All commands of one call are one transaction: all hold, or none.
"""

import ctypes
import json
import threading
from typing import Any, Protocol, cast

LIBRARY = "libnftables.so.1"

_OUTPUT_JSON = 1 << 4


class NftablesError(Exception):
    """The kernel or the parser refused a command; holds nft's own words."""


class NoSuchObjectError(NftablesError):
    """The table, set or element that a command names is not there."""


class Packetfilter(Protocol):
    """What takes commands: ``Nftables``, or a test's notebook."""

    def run(self, commands: str) -> None:
        """Run commands as one transaction, or raise ``NftablesError``."""
        ...


class Nftables:
    """One context of the library. Threads may share it: calls take turns."""

    def __init__(self, library: str = LIBRARY) -> None:
        """
        Load the library.

        Raises:
            NftablesError: it is not installed (Debian: package libnftables1).
        """
        self._turn = threading.Lock()
        try:
            self._library = _load(library)
        except OSError as error:
            raise NftablesError(f"cannot load {library}: {error}") from error
        context = self._library.nft_ctx_new(0)
        if not context:
            raise NftablesError("nft_ctx_new failed")
        self._context = ctypes.c_void_p(context)
        self._library.nft_ctx_buffer_output(self._context)
        self._library.nft_ctx_buffer_error(self._context)

    def close(self) -> None:
        """Free the context; a no-op the second time."""
        with self._turn:
            context, self._context = self._context, ctypes.c_void_p()
            if context:
                self._library.nft_ctx_free(context)

    def run(self, commands: str) -> None:
        """
        Run commands as one transaction.

        Raises:
            NoSuchObjectError: a named object is not there.
            NftablesError: anything else; nothing was changed.
        """
        self._run(commands, output=0)

    def query(self, command: str) -> list[dict[str, Any]]:
        """
        Run a listing command, and return what nft's JSON says: one dict for each object.

        Raises:
            NoSuchObjectError: a named object is not there.
            NftablesError: anything else.
        """
        text = self._run(command, output=_OUTPUT_JSON)
        return cast("list[dict[str, Any]]", json.loads(text)["nftables"]) if text else []

    def _run(self, commands: str, *, output: int) -> str:
        with self._turn:
            if not self._context:
                raise NftablesError("the context is closed")
            self._library.nft_ctx_output_set_flags(self._context, output)
            failed = self._library.nft_run_cmd_from_buffer(self._context, commands.encode())
            # Reading a buffer empties it, so both are read each time.
            errors = (self._library.nft_ctx_get_error_buffer(self._context) or b"").decode(errors="replace")
            answer = (self._library.nft_ctx_get_output_buffer(self._context) or b"").decode(errors="replace")
        if failed:
            kind = NoSuchObjectError if "No such file or directory" in errors else NftablesError
            raise kind(errors.strip() or "nft failed without a word")
        return answer


def _load(name: str) -> ctypes.CDLL:
    library = ctypes.CDLL(name, use_errno=True)
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_free.argtypes = [ctypes.c_void_p]
    library.nft_ctx_free.restype = None
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_ctx_output_set_flags.restype = None
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    library.nft_run_cmd_from_buffer.restype = ctypes.c_int
    for buffer in (library.nft_ctx_buffer_output, library.nft_ctx_buffer_error):
        buffer.argtypes = [ctypes.c_void_p]
        buffer.restype = ctypes.c_int
    for getter in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
        getter.argtypes = [ctypes.c_void_p]
        getter.restype = ctypes.c_char_p
    return library
