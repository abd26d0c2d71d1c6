"""Entity tags: what they say of a response, and when they differ."""

from dataclasses import dataclass

from fastapi import Response

from app.etag import RowVersion, tagged


@dataclass
class Old:
    """A response."""

    name: str
    xmin: RowVersion


@dataclass
class New:
    """The same, after a deployment that has added a field."""

    name: str
    city: str
    xmin: RowVersion


def etag(found: Old | New) -> str:
    response = Response()
    tagged(found, response)
    return response.headers["ETag"]


def test_a_new_field_changes_the_etag_of_rows_that_have_not_changed() -> None:
    """Otherwise a client would keep a body without the field, by If-None-Match."""
    assert etag(Old("Ada", 7)) == etag(Old("Ada", 7))
    assert len({etag(Old("Ada", 7)), etag(New("Ada", "London", 7)), etag(Old("Ada", 8))}) == 3
