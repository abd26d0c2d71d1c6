"""The page docs/settings.md names each setting with its default, and no other."""

import dataclasses
import re
from typing import Any

from pydantic_core import PydanticUndefined

from app.config import ServiceSettings
from tests.commands import PROJECT


def settings() -> dict[str, Any]:
    """Return each variable with its default: `...` if it is required, None if something else decides."""
    found: dict[str, Any] = {}
    for name, field in ServiceSettings.model_fields.items():
        if isinstance(field.annotation, type) and dataclasses.is_dataclass(field.annotation):
            for option in dataclasses.fields(field.annotation):
                required = option.default is dataclasses.MISSING
                found[f"{name}_{option.name}".upper()] = ... if required else option.default
        else:
            found[name.upper()] = ... if field.default is PydanticUndefined else field.default
    return found


def written(default: Any) -> str:
    """Return a default as it is written in a variable."""
    if isinstance(default, bool):
        return str(default).lower()
    return ",".join(default) if isinstance(default, tuple) else str(default)


def test_each_setting_is_on_the_page_with_its_default() -> None:
    """If this fails, docs/settings.md needs a row, or another default: `| NAME | default | meaning |`."""
    page = (PROJECT / "docs" / "settings.md").read_text()
    rows = re.findall(r"^\| `([A-Z_]+)` \| (.*?) \| .+ \|$", page, re.MULTILINE)
    documented, expected = dict(rows), settings()
    assert [name for name, _ in rows] == list(documented)
    assert documented.keys() == expected.keys()
    for name, default in expected.items():
        if default is None:
            assert not re.fullmatch("`[^`]*`|required", documented[name]), name
        else:
            assert documented[name] == ("required" if default is ... else f"`{written(default)}`"), name
