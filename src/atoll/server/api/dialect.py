"""
What every dialect's FastAPI app has: strict JSON, errors in the dialect's own form, who calls.

Nothing here knows a route.
"""

from collections.abc import Callable, Coroutine, Sequence
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.routing import APIRoute
from pydantic_core import from_json
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse

from atoll.server.api.errors import CODE_OF_STATUS, Answer, answer, answer_to
from atoll.server.control.requests import Actor
from atoll.server.domain.errors import Code, UnauthenticatedError

Render = Callable[[Answer], JSONResponse]

# A validation error names at most so many wrong fields.
_MOST_COMPLAINTS = 5
# An error repeats at most so many characters of a path.
_MOST_PATH = 256


class StrictRequest(Request):
    """Reads JSON as the standard has it: no NaN, no bottomless nesting."""

    async def json(self) -> Any:
        """Parse the body."""
        body = await self.body()
        try:
            return from_json(body, allow_inf_nan=False)
        except ValueError as error:
            raise HTTPException(400, f"the body is not valid JSON: {error}") from error


def route_class(render: Render) -> type[APIRoute]:
    """Make routes that answer every error in a dialect's form."""

    class DialectRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_strictly(request: Request) -> Response:
                try:
                    return await handle(StrictRequest(request.scope, request.receive))
                except Exception as error:  # logged and answered
                    return render(to_answer(error, request))

            return handle_strictly

    return DialectRoute


def add_error_forms(app: FastAPI, render: Render) -> None:
    """Give the errors that no route sees, unknown paths and methods, a dialect's form too."""

    async def on_http_error(request: Request, error: Exception) -> Response:
        return render(to_answer(error, request))

    app.add_exception_handler(HTTPException, on_http_error)


def to_answer(error: Exception, request: Request) -> Answer:
    """Turn what a route or FastAPI raised into an answer."""
    request_id: str = request.state.request_id
    match error:
        case RequestValidationError():
            return answer(Code.INVALID_ARGUMENT, _complaints(error, request), request_id)
        case HTTPException(status_code=405):
            text = f"{request.method} is not possible on {_path(request)}"
            return answer(Code.UNIMPLEMENTED, text, request_id, 405)
        case HTTPException(status_code=404):
            return answer(Code.NOT_FOUND, f"no such path: {request.method} {_path(request)}", request_id)
        case HTTPException():
            code = CODE_OF_STATUS.get(error.status_code, Code.INTERNAL)
            return answer(code, str(error.detail), request_id, error.status_code)
        case _:
            return answer_to(error, request_id)


def _path(request: Request) -> str:
    """Repeat the path that was asked for, as far as it tells something."""
    return request.url.path[:_MOST_PATH]


def _complaints(error: RequestValidationError, request: Request) -> str:
    errors: Sequence[dict[str, Any]] = error.errors()
    if not _is_json(request) and any(tuple(one["loc"]) == ("body",) for one in errors):
        return "the body must be JSON, sent with the header Content-Type: application/json"
    return "; ".join(_complaint(one) for one in errors[:_MOST_COMPLAINTS])


def _is_json(request: Request) -> bool:
    kind = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    return kind == "application/json" or kind.endswith("+json")


def _complaint(error: dict[str, Any]) -> str:
    """Name the field and say what is wrong with it; never repeat the value, which may be huge or secret."""
    where, *path = (str(part) for part in error["loc"])
    name = ".".join(part[:64] for part in path) or where
    text = str(error["msg"]).removeprefix("Value error, ")
    return f"{where} {name}: {text}" if path else f"{where}: {text}"


async def caller(request: Request) -> Actor:
    """
    Return who calls, as the gate found out.

    Nothing is awaited here; but FastAPI calls a plain function in a thread, there and back for each request.
    """
    actor: Actor | None = getattr(request.state, "actor", None)
    if actor is None:
        raise UnauthenticatedError("API key is missing")
    return actor


Caller = Annotated[Actor, Depends(caller)]
