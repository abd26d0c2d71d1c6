"""An OpenID provider with keys of several kinds, and the tokens that its friends and its enemies make."""

import base64
import json
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from jwt.algorithms import get_default_algorithms

AUDIENCE = "orders"
ALGORITHMS = get_default_algorithms()


def b64(data: bytes) -> str:
    """Encode as the parts of a token are."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def sign(header: Any, claims: Any, key: Any, algorithm: str) -> str:
    """Sign anything: bytes as they are, everything else as JSON."""
    parts = [b64(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in (header, claims)]
    signing = ALGORITHMS[algorithm]
    key = key if isinstance(key, bytes) else signing.prepare_key(key)
    return ".".join([*parts, b64(signing.sign(".".join(parts).encode(), key))])


class Provider:
    """A provider on a socket. It publishes its keys; the test holds their private halves."""

    def __init__(self) -> None:
        self.keys: dict[str, tuple[str, Any]] = {
            "ec": ("ES256", ec.generate_private_key(ec.SECP256R1())),
            "rsa": ("RS256", rsa.generate_private_key(65537, 2048)),
            "ed": ("EdDSA", ed25519.Ed25519PrivateKey.generate()),
            "weak": ("RS256", rsa.generate_private_key(65537, 1024)),  # noqa: S505  # to see it refused
            "p384": ("ES384", ec.generate_private_key(ec.SECP384R1())),
            "encryption": ("ES256", ec.generate_private_key(ec.SECP256R1())),
        }
        self.requests: list[str] = []
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider.requests.append(self.path)
                body = json.dumps(provider.answer(self.path)).encode()
                self.send_response(200)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: Any) -> None: ...

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> "Provider":
        """Serve."""
        Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        """Serve no longer."""
        self._server.shutdown()
        self._server.server_close()

    def answer(self, path: str) -> Any:
        """Return the document at a path."""
        if path == "/.well-known/openid-configuration":
            return {"issuer": self.url, "jwks_uri": f"{self.url}/keys"}
        return {"keys": [self.jwk(key_id) for key_id in list(self.keys)]}

    def jwk(self, key_id: str) -> dict[str, Any]:
        """Return a public key as the provider publishes it."""
        algorithm, key = self.keys[key_id]
        public = ALGORITHMS[algorithm].to_jwk(key.public_key(), as_dict=True)
        return {**public, "kid": key_id, "use": "enc" if key_id == "encryption" else "sig"}

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Return the claims of a good token, with changes; None takes a claim away."""
        now = int(time.time())
        good = {"iss": self.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 600, "scope": "users:write"}
        return {name: value for name, value in {**good, **changes}.items() if value is not None}

    def token(self, key_id: str = "ec", header: dict[str, Any] | None = None, **changes: Any) -> str:
        """Sign the claims of a good token, with changes to them and to its header."""
        algorithm, key = self.keys[key_id]
        full = {"alg": algorithm, "kid": key_id, "typ": "at+jwt", **(header or {})}
        return sign(
            {name: value for name, value in full.items() if value is not None}, self.claims(**changes), key, algorithm
        )

    def environment(self) -> dict[str, str]:
        """Return the settings of a service that trusts this provider."""
        return {"AUTH_ISSUER": self.url, "AUTH_AUDIENCE": AUDIENCE}
