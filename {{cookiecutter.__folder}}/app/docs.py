"""Documentation of the routes: headers, ids of operations, and the page ``/docs`` with scripts of the service's own."""

import base64
import hashlib
import re
from collections import defaultdict
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.routing import iter_route_contexts
from fastapi.staticfiles import StaticFiles

__all__ = ["DuplicateOperationIdError", "header", "install_docs", "refuse_duplicate_operation_ids"]

_FILES: Final = "docs/files"


def header(status: int, **descriptions: str) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a response's headers, by name, for a route's ``responses=``."""
    string = {"schema": {"type": "string"}}
    return {status: {"headers": {name: {"description": text} | string for name, text in descriptions.items()}}}


def install_docs(app: FastAPI) -> None:
    """Add the page and its files. The page may load nothing else, and send requests only to this service."""
    # Relative URLs also work behind a proxy that adds a prefix.
    page = get_swagger_ui_html(
        title=app.title,
        openapi_url="openapi.json",
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_FILES}/favicon.png",
    ).body
    (script,) = re.findall(rb"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    app.mount(f"/{_FILES}", StaticFiles(packages=[("fastapi_offline", "static")]))


class DuplicateOperationIdError(Exception):
    """Two operations have one id: a generated client would have only one of them. The message has a line for each."""


def refuse_duplicate_operation_ids(app: FastAPI) -> None:
    """Raise DuplicateOperationIdError if operations in the OpenAPI document have the same id."""
    operations = defaultdict[str, list[str]](list)
    for route in iter_route_contexts(list(app.routes)):
        if getattr(route, "unique_id", None) and route.include_in_schema:
            handler = f"{getattr(route.endpoint, '__module__', '')}.{route.name}"
            operations[route.operation_id or route.unique_id] += [
                f"{method} {route.path} ({handler})" for method in sorted(route.methods or ())
            ]
    lines = [
        f"operation id {name}: {' and '.join(found)} have the same; rename a handler, or set operation_id= at its route"
        for name, found in operations.items()
        if len(found) > 1
    ]
    if lines:
        raise DuplicateOperationIdError("\n".join(lines))
