"""Tokens that were accepted before. What hostile ones get is tested in the template, at length."""

import time
from contextlib import suppress

import pytest

from app.auth.options import AuthOptions
from app.auth.tokens import InvalidToken, TokenVerifier
from tests.callers import issuer


@pytest.fixture
def verifier() -> TokenVerifier:
    """A verifier that allows for no difference of clocks."""
    return TokenVerifier(AuthOptions(issuer=issuer().url, audience="tests", leeway=0))


async def test_a_token_that_was_accepted_is_refused_once_it_has_expired(verifier: TokenVerifier) -> None:
    expires = int(time.time()) + 2
    token = issuer().token(exp=expires)
    assert (await verifier.verify(token)).claims["exp"] == expires
    with suppress(InvalidToken):
        while time.time() < expires + 30:
            await verifier.verify(token)
    assert expires <= time.time() < expires + 30


@pytest.mark.parametrize(
    ("header", "claims", "reason"),
    [
        ({"crit": ["x"], "x": 1}, {}, "InvalidTokenError"),
        ({"typ": "logout+jwt"}, {}, "Type"),
        ({"kid": "unknown"}, {}, "UnknownKey"),
        ({}, {"padding": "x" * 16_384}, "TooLong"),
        ({}, {"exp": 0}, "ExpiredSignatureError"),
        ({}, {"exp": "4102444800"}, "Time"),
        ({}, {"sub": "ada\nadmin"}, "Subject"),
    ],
)
async def test_the_log_is_told_the_reason_and_nothing_of_the_token(
    verifier: TokenVerifier, header: dict[str, object], claims: dict[str, object], reason: str
) -> None:
    with pytest.raises(InvalidToken) as raised:
        await verifier.verify(issuer().token(header, **claims))
    assert str(raised.value) == reason
