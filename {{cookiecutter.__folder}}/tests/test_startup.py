"""What all programs share at their start and their end."""

import pytest

from app.startup import errors_as_one_line


def test_an_error_in_the_code_keeps_its_traceback() -> None:
    with pytest.raises(LookupError), errors_as_one_line():
        raise LookupError


def test_ctrl_c_is_exit_code_130() -> None:
    with pytest.raises(SystemExit) as raised, errors_as_one_line():
        raise KeyboardInterrupt
    assert raised.value.code == 130
