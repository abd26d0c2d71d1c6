"""Tokens that must open nothing, each with the status of its refusal, and how each is made."""

import base64
import json
import time
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from tokens import ALGORITHMS, Provider, b64, sign

__all__ = ["HOSTILE"]

Make = Callable[[Provider], str]


def public(provider: Provider, key_id: str, encoding: Encoding = Encoding.PEM) -> bytes:
    """Return what everybody knows of a key."""
    return provider.keys[key_id][1].public_key().public_bytes(encoding, PublicFormat.SubjectPublicKeyInfo)


def by_secret(provider: Provider, secret: bytes, algorithm: str = "HS256", key_id: str = "rsa") -> str:
    """Sign with a secret that is none."""
    return sign({"alg": algorithm, "kid": key_id}, provider.claims(), secret, algorithm)


def unsigned(provider: Provider, header: dict[str, Any]) -> str:
    """Return a token with an empty signature."""
    return f"{b64(json.dumps({'kid': 'ec', **header}).encode())}.{b64(json.dumps(provider.claims()).encode())}."


def by_stranger(provider: Provider, **header: Any) -> str:
    """Sign with a key of one's own, and say in the header where it is."""
    return sign({"alg": "ES256", "kid": "ec", **header}, provider.claims(), STRANGER, "ES256")


def with_parts(provider: Provider, change: Callable[[list[str]], list[str]]) -> str:
    """Change the parts of a good token."""
    return ".".join(change(provider.token().split(".")))


def raw(provider: Provider, claims: str) -> str:
    """Sign claims that are written by hand."""
    named = claims.replace("URL", provider.url)
    return sign({"alg": "ES256", "kid": "ec"}, named.encode(), provider.keys["ec"][1], "ES256")


def der_signature(parts: list[str]) -> list[str]:
    """Write the signature as X.509 does."""
    number = base64.urlsafe_b64decode(parts[2] + "==")
    r, s = (int.from_bytes(half, "big") for half in (number[:32], number[32:]))
    return [*parts[:2], b64(encode_dss_signature(r, s))]


def more_rights(parts: list[str]) -> list[str]:
    """Change the claims, and keep the signature."""
    claims = json.loads(base64.urlsafe_b64decode(parts[1] + "=="))
    return [parts[0], b64(json.dumps({**claims, "scope": "users:write admin"}).encode()), parts[2]]


def now() -> int:
    """Return the time at which a token is made: the module may have been imported long before."""
    return int(time.time())


STRANGER = ec.generate_private_key(ec.SECP256R1())
OWN_JWK = {**ALGORITHMS["ES256"].to_jwk(STRANGER.public_key(), as_dict=True), "kid": "ec"}
GOOD = '{"iss": "URL", "aud": "orders", "sub": "ada", "scope": "users:write", "exp": '

HOSTILE: dict[str, tuple[int, Make]] = {
    # Its form.
    "one word": (401, lambda p: "x"),
    "two parts": (401, lambda p: p.token().rpartition(".")[0]),
    "five parts, as an encrypted token": (401, lambda p: f"{p.token()}.x.x"),
    "a header that is not base64": (401, lambda p: with_parts(p, lambda parts: ["!!", *parts[1:]])),
    "a header that is not JSON": (401, lambda p: sign(b"{", p.claims(), p.keys["ec"][1], "ES256")),
    "a header that is a list": (401, lambda p: sign([], p.claims(), p.keys["ec"][1], "ES256")),
    "claims that are not JSON": (401, lambda p: raw(p, "{")),
    "claims that are a list": (401, lambda p: raw(p, "[]")),
    "claims that are not UTF-8": (
        401,
        lambda p: sign({"alg": "ES256", "kid": "ec"}, b'{"sub": "\xff"}', p.keys["ec"][1], "ES256"),
    ),
    "claims nested 5,000 deep": (401, lambda p: raw(p, "[" * 5000)),
    "longer than 16 KiB, and good otherwise": (401, lambda p: p.token(padding="x" * 16_384)),
    "a space inside": (401, lambda p: p.token().replace(".", ". ", 1)),
    "letters beyond ASCII": (401, lambda p: f"{p.token()}é"),
    # Its algorithm and its signature.
    "alg none": (401, lambda p: unsigned(p, {"alg": "none"})),
    "alg nOnE": (401, lambda p: unsigned(p, {"alg": "nOnE"})),
    "no alg": (401, lambda p: unsigned(p, {})),
    "alg a list": (401, lambda p: unsigned(p, {"alg": ["ES256"]})),
    "alg an object": (401, lambda p: unsigned(p, {"alg": {}})),
    "an unknown alg": (401, lambda p: unsigned(p, {"alg": "XS256"})),
    "the RSA key as the secret of HS256": (401, lambda p: by_secret(p, public(p, "rsa"))),
    "the RSA key, in DER, as the secret of HS512": (
        401,
        lambda p: by_secret(p, public(p, "rsa", Encoding.DER), "HS512"),
    ),
    "the EC key as the secret of HS256": (401, lambda p: by_secret(p, public(p, "ec"), key_id="ec")),
    "the published JWK as the secret of HS256": (401, lambda p: by_secret(p, json.dumps(p.jwk("rsa")).encode())),
    "an empty secret": (401, lambda p: by_secret(p, b"")),
    "an RSA signature under the id of an EC key": (401, lambda p: p.token("rsa", {"kid": "ec"})),
    "an EC signature under the id of an RSA key": (401, lambda p: p.token("ec", {"kid": "rsa"})),
    "RS256 in the header, signed by ES256": (401, lambda p: p.token("ec", {"alg": "RS256"})),
    "PS256, which is not among AUTH_ALGORITHMS": (
        401,
        lambda p: sign({"alg": "PS256", "kid": "rsa"}, p.claims(), p.keys["rsa"][1], "PS256"),
    ),
    "RS512, which is not among AUTH_ALGORITHMS": (
        401,
        lambda p: sign({"alg": "RS512", "kid": "rsa"}, p.claims(), p.keys["rsa"][1], "RS512"),
    ),
    "ES384, which is not among AUTH_ALGORITHMS": (401, lambda p: p.token("p384")),
    "ES256 by a key of another curve": (401, lambda p: p.token("p384", {"alg": "ES256"})),
    "an RSA key of 1,024 bits": (401, lambda p: p.token("weak")),
    "a key for encryption": (401, lambda p: p.token("encryption")),
    "no signature": (401, lambda p: with_parts(p, lambda parts: [*parts[:2], ""])),
    "a signature of zeros": (401, lambda p: with_parts(p, lambda parts: [*parts[:2], b64(bytes(64))])),
    "a signature in DER": (401, lambda p: with_parts(p, der_signature)),
    "a signature cut short": (401, lambda p: with_parts(p, lambda parts: [*parts[:2], parts[2][:-2]])),
    "a signature of another token": (
        401,
        lambda p: with_parts(p, lambda parts: [*parts[:2], p.token(jti="x").split(".")[2]]),
    ),
    "claims that were changed": (401, lambda p: with_parts(p, more_rights)),
    "another key under the id of a good one": (401, by_stranger),
    # Its header.
    "its own key in jwk": (401, lambda p: by_stranger(p, jwk=OWN_JWK)),
    "its own key in jwk, without a kid": (401, lambda p: by_stranger(p, jwk=OWN_JWK, kid="stranger")),
    "the address of its own key in jku": (401, lambda p: by_stranger(p, jku=f"{p.url}/stranger")),
    "the address of its own certificate in x5u": (401, lambda p: by_stranger(p, x5u=f"{p.url}/stranger")),
    "its own certificate in x5c": (401, lambda p: by_stranger(p, x5c=["MIIB"])),
    "no kid": (401, lambda p: p.token(header={"kid": None})),
    "an unknown kid": (401, lambda p: p.token(header={"kid": "unknown"})),
    "a kid that is a path": (401, lambda p: p.token(header={"kid": "../../../../dev/null"})),
    "a kid that is SQL": (401, lambda p: p.token(header={"kid": "ec' OR '1'='1"})),
    "a kid that is a number": (401, lambda p: p.token(header={"kid": 1})),
    "an empty kid": (401, lambda p: p.token(header={"kid": ""})),
    "crit, with an extension that nobody knows": (401, lambda p: p.token(header={"crit": ["x"], "x": 1})),
    "crit, empty": (401, lambda p: p.token(header={"crit": []})),
    "crit, with b64": (401, lambda p: p.token(header={"crit": ["b64"], "b64": True})),
    "b64 false": (401, lambda p: p.token(header={"crit": ["b64"], "b64": False})),
    "typ of a logout token": (401, lambda p: p.token(header={"typ": "logout+jwt"})),
    "typ of a security event": (401, lambda p: p.token(header={"typ": "secevent+jwt"})),
    "typ a list": (401, lambda p: p.token(header={"typ": ["at+jwt"]})),
    # Its claims.
    "expired": (401, lambda p: p.token(exp=now() - 60)),
    "no exp": (401, lambda p: p.token(exp=None)),
    "exp a text": (401, lambda p: p.token(exp=str(now() + 600))),
    "exp a list": (401, lambda p: p.token(exp=[now() + 600])),
    "exp null": (401, lambda p: raw(p, f"{GOOD}null}}")),
    "exp NaN": (401, lambda p: raw(p, f"{GOOD}NaN}}")),
    "exp infinite": (401, lambda p: raw(p, f"{GOOD}Infinity}}")),
    "not valid yet": (401, lambda p: p.token(nbf=now() + 600)),
    "nbf true": (401, lambda p: p.token(nbf=True)),
    "issued in the future": (401, lambda p: p.token(iat=now() + 600)),
    "of another issuer": (401, lambda p: p.token(iss="https://login.example.com")),
    "of the issuer and a slash": (401, lambda p: p.token(iss=f"{p.url}/")),
    "no iss": (401, lambda p: p.token(iss=None)),
    "iss a list": (401, lambda p: p.token(iss=[p.url])),
    "for another service": (401, lambda p: p.token(aud="users")),
    "for a service whose name begins like ours": (401, lambda p: p.token(aud="orders-archive")),
    "for other services, in a list": (401, lambda p: p.token(aud=["users", "ORDERS"])),
    "no aud": (401, lambda p: p.token(aud=None)),
    "aud an empty list": (401, lambda p: p.token(aud=[])),
    "aud an object": (401, lambda p: p.token(aud={"orders": 1})),
    "aud twice, the last one another": (401, lambda p: raw(p, f'{GOOD}{now() + 600}, "aud": "users"}}')),
    "no sub": (401, lambda p: p.token(sub=None)),
    "an empty sub": (401, lambda p: p.token(sub="")),
    "sub a number": (401, lambda p: p.token(sub=1)),
    "sub with a line break": (401, lambda p: p.token(sub="ada\nadmin")),
    "sub of 256 letters": (401, lambda p: p.token(sub="x" * 256)),
    # Its scopes.
    "no scope": (403, lambda p: p.token(scope=None)),
    "another scope": (403, lambda p: p.token(scope="users:read orders:write")),
    "a longer scope": (403, lambda p: p.token(scope="users:writer")),
    "the scope in capitals": (403, lambda p: p.token(scope="USERS:WRITE")),
    "scopes with commas": (403, lambda p: p.token(scope="users:read,users:write")),
    "scope a number": (403, lambda p: p.token(scope=1)),
    "scope an object": (403, lambda p: p.token(scope={"users:write": True})),
    "scp with nested lists": (403, lambda p: p.token(scope=None, scp=[["users:write"]])),
}
