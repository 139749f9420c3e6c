"""Translates a kernel's messages into the items of E2B's stream."""

import json
import time
from typing import Any

Item = dict[str, Any]

_TYPES = {
    "text/plain": "text",
    "text/html": "html",
    "text/markdown": "markdown",
    "image/svg+xml": "svg",
    "image/png": "png",
    "image/jpeg": "jpeg",
    "application/pdf": "pdf",
    "text/latex": "latex",
    "application/json": "json",
    "application/javascript": "javascript",
    "e2b/data": "data",
    "e2b/chart": "chart",
}
KEEPALIVE: Item = {"type": "keepalive"}
END: Item = {"type": "end_of_execution"}


def line(item: Item) -> bytes:
    """Write an item as clients read it: a line of JSON."""
    return json.dumps(item, ensure_ascii=False, default=str).encode("utf-8", "replace") + b"\n"


KEEPALIVE_LINE, END_LINE = line(KEEPALIVE), line(END)


def output(name: str, text: str) -> Item:
    """Make the item of what was written to "stdout" or "stderr"; times are nanoseconds since 1970."""
    return {"type": name, "text": text, "timestamp": time.time_ns()}


def error(name: str, value: str, traceback: str = "") -> Item:
    """Make the item of an execution that failed."""
    return {"type": "error", "name": name, "value": value, "traceback": traceback or f"{name}: {value}"}


def translate(kind: str, content: dict[str, Any]) -> Item | None:
    """Translate a message of the kernel; None for what clients are not told."""
    if kind == "stream":
        return output("stderr" if content.get("name") == "stderr" else "stdout", str(content.get("text", "")))
    if kind in ("execute_result", "display_data"):
        return _result(content.get("data") or {}, is_main=kind == "execute_result")
    if kind == "error":
        lines = [str(line) for line in content.get("traceback") or []]
        return error(str(content.get("ename", "")), str(content.get("evalue", "")), "\n".join(lines))
    if kind == "execute_input":
        return {"type": "number_of_executions", "execution_count": content.get("execution_count")}
    return None


def can_wait(item: Item) -> bool:
    """Say whether something is due right behind an item, as it is behind a cell's own result."""
    return item["type"] in ("number_of_executions", "end_of_execution") or item.get("is_main_result", False)


def _result(data: dict[str, Any], *, is_main: bool) -> Item:
    item: Item = {"type": "result", "is_main_result": is_main}
    extra: dict[str, Any] = {}
    for mime, value in data.items():
        if mime not in _TYPES:
            extra[mime] = value
        elif value or mime not in ("e2b/data", "e2b/chart"):
            item[_TYPES[mime]] = _unquoted(value) if mime == "text/plain" else value
    item["extra"] = extra
    return item


def _unquoted(text: Any) -> Any:
    """Take the quotes off a string's representation, as clients expect."""
    if isinstance(text, str) and len(text) >= 2 and text[0] == text[-1] and text[0] in "'\"":
        return text[1:-1]
    return text


def drop(_item: Item) -> None:
    """Take an item that no client waits for."""
