"""``@once``, the line above a handler that lets clients repeat its requests safely."""

import re
from collections.abc import Awaitable, Callable
from functools import cache, wraps
from hashlib import sha256
from inspect import Parameter, signature
from typing import Annotated, Any, Final, get_type_hints

from fastapi import Header, Request, Response
from pydantic import PlainValidator, TypeAdapter, WithJsonSchema

from app.dependencies import DbSession
from app.idempotency import repository

__all__ = ["once"]

_LONGEST: Final = 255
"""Maximum length of the header in characters, quotes included."""

_QUOTED: Final = re.compile(r'"((?:[ !#-\[\]-~]|\\["\\])+)"')  # a string as in RFC 9651, section 3.3.3
_BARE: Final = re.compile("[!#-~][ -~]*")

_adapter: Final = cache(TypeAdapter[Any])


def _read_key(value: str) -> str:
    quoted = _QUOTED.fullmatch(value)
    if len(value) > _LONGEST or not (quoted or _BARE.fullmatch(value)):
        raise ValueError(f'must be 1 to {_LONGEST} printable ASCII characters, such as a UUID, bare or as "..."')
    return re.sub(r"\\(.)", r"\1", quoted[1]) if quoted else value


_Key = Annotated[
    str | None,
    PlainValidator(_read_key),
    WithJsonSchema({"type": "string", "minLength": 1, "maxLength": _LONGEST, "pattern": "^[ -~]+$"}),
    Header(
        alias="Idempotency-Key",
        description="A new value for each new request, such as a UUID, bare or in quotes. The request is carried out "
        "once: if it is repeated with the same value within a day, it gets the first answer again.",
    ),
]


def once(handler: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    """Run a handler once for each ``Idempotency-Key``; a repeated request gets the stored answer.

    It goes between the route and its handler::

        @router.post("", status_code=201, responses=...)
        @once
        async def create_user(new: NewUser, session: DbSession, request: Request, response: Response) -> UserOut: ...

    Key and answer are stored in the transaction of the handler's session, so a request that fails stores neither. The
    handler must write only in that session. Without the header nothing changes. A handler without a parameter of each
    of the types `DbSession`, `Request` and `Response` raises TypeError. Their names do not matter.
    """
    hints = get_type_hints(handler, include_extras=True)
    returns = hints.pop("return", Any)
    session_, request_, response_ = (_parameter(handler, hints, kind) for kind in (DbSession, Request, Response))

    @wraps(handler)
    async def handle_once(*, idempotency_key: str | None, **arguments: Any) -> Any:
        request: Request = arguments[request_]
        if idempotency_key is None:
            request.state.advice = "send an Idempotency-Key, so that it is safe to repeat the request"
            return await handler(**arguments)
        request.state.advice = "repeat the request with the same Idempotency-Key"
        # The subject of the access token, if routes require one: two callers may choose the same key.
        session, key = arguments[session_], (getattr(request.state, "subject", ""), idempotency_key)
        target = f"{request.method} {request.scope['path']}".encode()
        fingerprint = sha256(b"\0".join([target, request.scope["query_string"], await request.body()])).digest()
        stored = await repository.claim(session, key, fingerprint=fingerprint)
        if stored is not None:
            return Response(stored.body, stored.status, stored.headers)
        answer = _answer(await handler(**arguments), returns, request, arguments[response_])
        await repository.keep(session, key, answer.status_code, dict(answer.headers), bytes(answer.body))
        return answer

    own = signature(handler)
    header = Parameter("idempotency_key", Parameter.KEYWORD_ONLY, default=None, annotation=_Key)
    handle_once.__signature__ = own.replace(parameters=[*own.parameters.values(), header])  # type: ignore[attr-defined]
    return handle_once


def _parameter(handler: Callable[..., Any], hints: dict[str, Any], kind: Any) -> str:
    for name, hint in hints.items():
        if hint == kind:
            return name
    raise TypeError(
        f"{handler.__qualname__}: a handler below @once needs `session: DbSession`, whose transaction stores the "
        "answer, `request: Request` and `response: Response`"
    )


def _answer(returned: Any, kind: Any, request: Request, response: Response) -> Response:
    """Create the same response as FastAPI would, so that its bytes can be stored."""
    if isinstance(returned, Response):
        return returned
    status = response.status_code or request.scope["route"].status_code or 200
    value = _adapter(kind).validate_python(returned, from_attributes=True)
    body = b"" if status == 204 else _adapter(kind).dump_json(value, by_alias=True)
    answer = Response(body, status, media_type="application/json")
    answer.raw_headers.extend(response.raw_headers)
    return answer
