"""An OpenID provider for development and tests only, as a command: ``python -m dev.issuer``.

It signs any token that is requested, so it creates its keys when it starts, listens only on this machine, and is not in
the image. If AUTH_ISSUER is set, in the environment or by the user's own line in .env, that provider is used and none
is started.
"""

import fcntl
import json
import os
import secrets
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import StringIO
from pathlib import Path
from threading import Thread
from typing import Any, Final
from urllib.request import ProxyHandler, build_opener

import click
import jwt
from cryptography.hazmat.primitives.asymmetric import ec
from dotenv import dotenv_values
from jwt.algorithms import ECAlgorithm

from app.metadata import NAME

__all__ = ["Issuer"]

_PROJECT: Final = Path(__file__).resolve().parent.parent
_FOLDER: Final = _PROJECT / ".issuer"
_ENV: Final = _PROJECT / ".env"
_MARK: Final = "  # the development issuer of make db"
_LIFETIME: Final = 12 * 3600
"""Seconds for which a token is valid: a working day."""


class Issuer:
    """A provider that serves its keys and signs tokens.

    Parameters
    ----------
    host
        Address to listen on.
    port
        Port; 0: any free one.
    audience
        Audience of its tokens, unless a request names another.

    Raises
    ------
    ValueError
        If others than this machine could reach the address.
    """

    def __init__(self, *, host: str = "127.0.0.1", port: int = 0, audience: str = NAME) -> None:
        if host not in ("127.0.0.1", "localhost"):
            raise ValueError(f"{host}: the development issuer signs for anyone, so it only listens on 127.0.0.1")
        issuer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(issuer.documents.get(self.path))

            def do_POST(self) -> None:
                asked = self.rfile.read(int(self.headers["Content-Length"])) if self.path == "/token" else b""
                self._answer({"access_token": issuer.token(**json.loads(asked))} if asked else None)

            def _answer(self, document: Any) -> None:
                issuer.requests.append(self.path)
                body = json.dumps(document).encode()
                self.send_response(200 if document else 404)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None:
                """Log nothing: the lines would be between the service's own."""

        self._server = ThreadingHTTPServer((host, port), Handler)
        self.url = f"http://{host}:{self._server.server_port}"
        """Issuer of its tokens, and its own URL."""
        self.audience = audience
        self.requests: list[str] = []
        """Requested paths."""
        self.documents: dict[str, Any] = {
            "/.well-known/openid-configuration": {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        }
        """Its documents, by path."""
        self.rotate()

    def serve(self) -> None:
        """Serve until `stop`."""
        self._server.serve_forever(poll_interval=0.02)

    def start(self) -> None:
        """Serve in a thread."""
        Thread(target=self.serve, daemon=True).start()

    def stop(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()

    def rotate(self) -> None:
        """Sign with a new key from now on, and forget the old one."""
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.key_id = secrets.token_hex(4)
        public = ECAlgorithm.to_jwk(self.key.public_key(), as_dict=True)
        self.documents["/keys"] = {"keys": [{**public, "kid": self.key_id, "use": "sig", "alg": "ES256"}]}

    def token(self, header: Mapping[str, Any] | None = None, **claims: Any) -> str:
        """Sign an access token. The arguments replace, or are added to, the usual header and claims."""
        now = int(time.time())
        usual = {"iss": self.url, "aud": self.audience, "sub": "developer", "iat": now, "exp": now + _LIFETIME}
        full = {"kid": self.key_id, "typ": "at+jwt", **(header or {})}
        return jwt.encode({**usual, **claims}, self.key, "ES256", full)


@click.group()
def main() -> None:
    """Run the development issuer of this project."""


@main.command(context_settings={"ignore_unknown_options": True})
@click.argument("command", nargs=-1, required=True, type=click.UNPROCESSED)
def run(command: Sequence[str]) -> None:
    """Start an issuer, then become COMMAND with AUTH_ISSUER set. The issuer ends when COMMAND does."""
    if not _own_provider():
        ours, theirs = os.pipe()
        _start(stdin=ours)
        os.set_inheritable(theirs, True)  # the issuer ends with the last process that has this end of the pipe open
        os.environ |= _settings()
    os.execvp(command[0], list(command))


@main.command()
def start() -> None:
    """Start the issuer, leave it running, and write its URL to .env."""
    if where := _own_provider():
        click.echo(f"AUTH_ISSUER is set in {where}: that provider is used, none is started.")
        return
    if _kept() is None:
        _start("--keep", stdin=subprocess.DEVNULL)
    _write_env(_settings())
    click.echo("The development issuer is running, and .env has its URL; `make token` prints an access token.")


@main.command()
def stop() -> None:
    """Stop the issuer that `start` has started."""
    if process := _kept():
        os.kill(process, signal.SIGTERM)


@main.command()
@click.argument("scope", default="")
@click.option("--subject", default="developer", show_default=True, help="Caller that the token is for.")
def token(scope: str, subject: str) -> None:
    """Print an access token with scopes, which are separated by spaces."""
    if where := _own_provider():
        sys.exit(f"AUTH_ISSUER is set in {where}: ask that provider for a token")
    asked = json.dumps({"scope": scope, "sub": subject}).encode()
    try:
        with build_opener(ProxyHandler({})).open(f"{_settings()['AUTH_ISSUER']}/token", asked, timeout=5) as answer:
            click.echo(json.load(answer)["access_token"])
    except OSError:
        sys.exit("no development issuer is running: start one with `make run` or `make db`")


@main.command()
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("--keep", is_flag=True, help="Outlive standard input.")
def serve(folder: Path, *, keep: bool) -> None:
    """Serve until standard input ends. Of several issuers in FOLDER one serves; when it ends, another takes over."""
    with (folder / "kept").open("a+") as kept, (folder / "lock").open("w") as lock:
        if keep:
            fcntl.flock(kept, fcntl.LOCK_EX)
            kept.truncate(0)
            kept.write(str(os.getpid()))
            kept.flush()
        else:
            Thread(target=_end_with_input, daemon=True).start()
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("ready", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        issuer = _issuer_on_port_of(folder)
        print("ready", flush=True)
        issuer.serve()


def _end_with_input() -> None:
    sys.stdin.read()
    os._exit(0)


def _issuer_on_port_of(folder: Path) -> Issuer:
    port = folder / "port"
    try:
        return Issuer(port=int(port.read_text()))
    except OSError:  # there is no port yet, or another program has taken it
        issuer = Issuer()
        port.write_text(issuer.url.rpartition(":")[2])
        return issuer


def _start(*options: str, stdin: int) -> None:
    _FOLDER.mkdir(exist_ok=True)
    command = [sys.executable, "-m", "dev.issuer", "serve", str(_FOLDER), *options]
    process = subprocess.Popen(
        command, cwd=_PROJECT, stdin=stdin, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, start_new_session=True
    )
    assert process.stdout is not None
    if process.stdout.readline() != b"ready\n":
        sys.exit("the development issuer does not start; run `python -m dev.issuer serve .issuer` to see why")


def _kept() -> int | None:
    """Return the id of the process that `start` has started, or None."""
    with suppress(FileNotFoundError), (_FOLDER / "kept").open() as kept:
        try:
            fcntl.flock(kept, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:  # it is running
            return int(kept.read())
    return None


def _settings() -> dict[str, str]:
    return {"AUTH_ISSUER": f"http://127.0.0.1:{(_FOLDER / 'port').read_text()}", "AUTH_AUDIENCE": NAME}


def _own_provider() -> str | None:
    """Return where the user has set a provider, or None."""
    lines = _ENV.read_text(encoding="utf-8").splitlines() if _ENV.exists() else []
    own = [line for line in lines if not line.endswith(_MARK)]
    for where, values in (("the environment", os.environ), (".env", dotenv_values(stream=StringIO("\n".join(own))))):
        if any(value and name.upper() in ("AUTH_ISSUER", "AUTH_AUDIENCE") for name, value in values.items()):
            if len(own) < len(lines):
                _write_env({})  # of two lines the last one counts, and that may be a marked one
            return where
    return None


def _write_env(settings: Mapping[str, str]) -> None:
    """Write the settings of the development issuer to .env; without settings, remove them."""
    _ENV.touch(mode=0o600)
    lines = [line for line in _ENV.read_text(encoding="utf-8").splitlines() if not line.endswith(_MARK)]
    marked = [f"{name}={value}{_MARK}" for name, value in settings.items()]
    _ENV.write_text("\n".join([*lines, *marked, ""]), encoding="utf-8")


if __name__ == "__main__":
    main()
