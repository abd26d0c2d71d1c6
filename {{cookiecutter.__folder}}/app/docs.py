"""Documentation of the routes: response headers, and the page ``/docs``, whose scripts the service itself serves."""

import base64
import hashlib
import re
from typing import Any, Final

from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.responses import HTMLResponse
from fastapi.staticfiles import StaticFiles

__all__ = ["header", "install_docs"]

_FILES: Final = "docs/files"


def header(status: int, **descriptions: str) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of a response's headers, by name, for a route's ``responses=``."""
    string = {"schema": {"type": "string"}}
    return {status: {"headers": {name: {"description": text} | string for name, text in descriptions.items()}}}


def install_docs(app: FastAPI) -> None:
    """Add the page and its files. The page may load nothing else, and send requests only to this service."""
    # Relative URLs also work behind a proxy that adds a prefix.
    body = get_swagger_ui_html(
        title=app.title,
        openapi_url="openapi.json",
        swagger_js_url=f"{_FILES}/swagger-ui-bundle.js",
        swagger_css_url=f"{_FILES}/swagger-ui.css",
        swagger_favicon_url=f"{_FILES}/favicon.png",
    ).body
    page = bytes(body).decode()
    (script,) = re.findall(r"<script>(.*?)</script>", page, re.DOTALL)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    policy = (
        f"default-src 'none'; script-src 'self' 'sha256-{digest}'; style-src 'self'; img-src 'self' data:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    )

    @app.get("/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(page, headers={"Content-Security-Policy": policy})

    app.mount(f"/{_FILES}", StaticFiles(packages=[("fastapi_offline", "static")]))
