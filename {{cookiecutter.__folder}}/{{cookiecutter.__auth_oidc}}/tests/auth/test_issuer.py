"""The development issuer: it signs for anybody, so it must be out of the reach of others."""

import pytest

from dev.issuer import Issuer


@pytest.mark.parametrize("host", ["0.0.0.0", "", "::", "192.0.2.1", "example.com"])  # noqa: S104  # it is refused
def test_it_listens_to_this_machine_alone(host: str) -> None:
    with pytest.raises(ValueError, match="only listens on 127.0.0.1"):
        Issuer(host=host)
