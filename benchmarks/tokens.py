"""Measures what an access token costs: a read with tokens, compared with the same read on an open route."""

import json
import secrets
import tempfile
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from benchmarks.load import Sample, measure, median, server
from benchmarks.project import Project, baked_project

TOKEN_STEPS = 3
_MANY = 8192
"""Twice as many as the service remembers, so that each one is new to it."""


def access_tokens(*, rounds: int, seconds: int, users: int, advance: Callable[[], Any]) -> list[list[str]]:
    """Return a table of ``GET /users/{id}``: open, with one token again and again, and with a new one each time."""
    path = "/users/00000000-0000-7000-8000-000000000100"
    with baked_project(auth="oidc") as project, ExitStack() as stack, tempfile.TemporaryDirectory() as folder:
        project.seed(users)
        one, many = Path(folder) / "one", Path(folder) / "many"
        many.write_text("\n".join(_token(project) for _ in range(_MANY)))
        one.write_text(many.read_text().split("\n")[0])
        apps = {app: stack.enter_context(server(project, app, ready="/health/live")) for app in ("open", "service")}
        ways = {
            "open": ("open", ""),
            "a token that was seen before": ("service", one),
            "a new token": ("service", many),
        }
        samples: dict[str, list[Sample]] = {name: [] for name in ways}
        for number in range(rounds + 1):
            for name, (app, tokens) in ways.items():
                sample = measure(apps[app], path, seconds if number else 1, users=users, tokens=str(tokens))
                if number:  # the first one only warms up
                    samples[name].append(sample)
                advance()
    free = median(samples["open"])
    table = [["caller", "requests/s", "of the open route", "CPU a request, µs", "of it for the token", "p50 ms"]]
    for name, taken in samples.items():
        sample = median(taken)
        share = f"{(sample.cpu - free.cpu) / sample.cpu:.0%}"
        table.append(
            [
                name,
                f"{sample.rate:.0f}",
                f"{sample.rate / free.rate:.2f}",
                f"{sample.cpu:.0f}",
                share,
                f"{sample.p50:.1f}",
            ]
        )
    return table


def _token(project: Project) -> str:
    """Request tokens from the development issuer, which `make db` has started."""
    line = next(line for line in (project.folder / ".env").read_text().splitlines() if line.startswith("AUTH_ISSUER="))
    issuer = line.removeprefix("AUTH_ISSUER=").split("  #")[0]
    asked = json.dumps({"scope": "users:read", "jti": secrets.token_hex(8)}).encode()
    with urllib.request.urlopen(f"{issuer}/token", asked, timeout=30) as answer:
        return str(json.load(answer)["access_token"])
