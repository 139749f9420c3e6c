"""
Describes the contents of volumes in our API's document. The edge serves them (dataplane/volumes), so that no
byte of them passes through here; nothing in this file answers a request.
"""

from datetime import datetime
from typing import Any, Literal

from pydantic import BaseModel, Field

_SCHEME = "VolumeToken"
_SCHEMAS = "#/components/schemas/"
_BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}
_MEANINGS = {
    400: "No path of a volume, or not of the kind that this needs.",
    401: "No token.",
    404: "No such volume, not with this token, or no such path.",
    409: "It is there already.",
    429: "Too many requests at once.",
    503: "Not now. The same call may work later.",
    507: "The volume is full.",
}
_ALWAYS = (400, 401, 404, 429, 503)


class ContentEntry(BaseModel):
    """A file, a directory or a link in a volume. Guests chose the names: do not trust them."""

    name: str
    type: Literal["file", "directory", "symlink", "unknown"]
    path: str = Field(description="From the volume's own root.", examples=["/notes/today.txt"])
    size: int
    mode: int = Field(description="Permission bits, as a decimal number: 420 is 0644.")
    uid: int
    gid: int
    atime: datetime
    mtime: datetime
    ctime: datetime
    target: str = Field(default="", description="Where a link points; it is left out of others.")


class ContentProblem(BaseModel):
    """What went wrong."""

    code: str = Field(examples=["not_found"])
    message: str


class ContentChange(BaseModel):
    """What is to be changed; what is left out stays."""

    uid: int | None = None
    gid: int | None = None
    mode: int | None = None


def describe(document: dict[str, Any]) -> None:
    """Add the calls to an OpenAPI document."""
    components = document["components"]
    for model in (ContentEntry, ContentProblem, ContentChange):
        components["schemas"][model.__name__] = model.model_json_schema()
    components["securitySchemes"][_SCHEME] = {
        "type": "http",
        "scheme": "bearer",
        "description": "The token of a volume, which getting it shows.",
    }
    entry = _json({"$ref": f"{_SCHEMAS}ContentEntry"})
    entries = _json({"type": "array", "items": {"$ref": f"{_SCHEMAS}ContentEntry"}})
    new = [
        _query("mode", "integer", "Permission bits, as a decimal number."),
        _query("uid", "integer", "Its owner; default: 1000, the templates' user."),
        _query("gid", "integer", "Its group; default: 1000."),
        _query("force", "boolean", "Make missing directories above it."),
    ]
    depth = _query("depth", "integer", "How many levels, 1 to 64.")
    at = "/volumecontent/{volume_id}"
    document["paths"] |= {
        f"{at}/dir": {
            "get": _call("List a directory", "Entries of one, 10,000 at most.", 200, entries, more=[depth]),
            "post": _call(
                "Make a directory", "With force, one that is there is fine.", 201, entry, (409, 507), new
            ),
        },
        f"{at}/file": {
            "get": _call("Read a file", "Its bytes, as a stream.", 200, _BYTES),
            "put": _call("Write a file", "In one step: nobody reads half.", 201, entry, (507,), new)
            | {"requestBody": {"required": True, "content": _BYTES}},
        },
        f"{at}/path": {
            "get": _call("Get an entry", "A link is described, not followed.", 200, entry),
            "patch": _call("Change owner or mode", "Of a link, the link's own.", 200, entry)
            | {"requestBody": {"required": True, "content": _json({"$ref": f"{_SCHEMAS}ContentChange"})}},
            "delete": _call("Remove an entry", "A directory goes with all that is in it.", 204, None),
        },
    }


def _call(
    summary: str,
    text: str,
    status: int,
    content: dict[str, Any] | None,
    errors: tuple[int, ...] = (),
    more: list[dict[str, Any]] | None = None,
) -> dict[str, Any]:
    problem = _json({"$ref": f"{_SCHEMAS}ContentProblem"})
    volume = {"name": "volume_id", "in": "path", "required": True, "schema": {"type": "string"}}
    path = _query("path", "string", "In the volume; no '..', no NUL, at most 4,096 bytes.") | {
        "required": True
    }
    done = {"description": "Done."} | ({"content": content} if content is not None else {})
    answers = {
        str(code): {"description": _MEANINGS[code], "content": problem} for code in (*_ALWAYS, *errors)
    }
    return {
        "tags": ["contents of volumes"],
        "summary": summary,
        "description": text,
        "operationId": f"{summary.lower().replace(' ', '_')}_of_volume",
        "parameters": [volume, path, *(more or ())],
        "security": [{_SCHEME: []}],
        "responses": {str(status): done, **answers},
    }


def _query(name: str, kind: str, text: str) -> dict[str, Any]:
    return {"name": name, "in": "query", "description": text, "schema": {"type": kind}}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}
