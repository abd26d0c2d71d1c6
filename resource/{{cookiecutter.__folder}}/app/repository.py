{%- set it = cookiecutter | resource -%}
"""Reads and writes {{ cookiecutter.plural }}.

Nothing here commits, so that several calls can share one transaction. Functions that only read take a reader,
functions that write take a session. Statements are built once, at import: building one takes longer than running it.
Their columns are the fields of the schema classes.
"""

from uuid import UUID

from sqlalchemy import bindparam, delete, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncSession

from app.database.base import uuid7
from app.database.errors import violated_reference
from app.database.listing import Listing, starts_with
from app.database.reader import Reader
from app.database.statements import columns, fetch, is_version
from app.errors import Conflict, NotFound, PreconditionFailed, RefersToNothing
from app.{{ cookiecutter.plural }}.models import {{ cookiecutter.__class }}
from app.{{ cookiecutter.plural }}.schemas import New{{ cookiecutter.__class }}, {{ cookiecutter.__class }}Changes, {{ cookiecutter.__class }}Out{% if it.has_query %}, {{ cookiecutter.__class }}Query{% endif %}

__all__ = [
    "{{ cookiecutter.__class }}InUse",
    "{{ cookiecutter.__class }}Modified",
    "{{ cookiecutter.__class }}NotFound",
    "change_{{ cookiecutter.singular }}",
    "create_{{ cookiecutter.singular }}",
    "delete_{{ cookiecutter.singular }}",
    "get_{{ cookiecutter.singular }}",
    "list_{{ cookiecutter.plural }}",
]

_THIS = {{ cookiecutter.__class }}.id == bindparam("this_id")
_UNCHANGED = is_version({{ cookiecutter.__class }}.xmin)
_COLUMNS = columns({{ cookiecutter.__class }}, {{ cookiecutter.__class }}Out, New{{ cookiecutter.__class }}, {{ cookiecutter.__class }}Changes)

_ONE = select(*_COLUMNS).where(_THIS)
_ONE_UNCHANGED = _ONE.where(_UNCHANGED)
{%- if it.has_query %}
_LIST = Listing(
    select(*_COLUMNS),
    {{ cookiecutter.__class }}Out,
    {{ cookiecutter.__class }}Query,
    {
{%- for filter in it.filters %}
        "{{ filter.name }}": {{ filter.condition }},
{%- endfor %}
    },
)
{%- else %}
_FIRST_PAGE = select(*_COLUMNS).order_by({{ cookiecutter.__class }}.id).limit(bindparam("limit"))
_NEXT_PAGE = _FIRST_PAGE.where({{ cookiecutter.__class }}.id > bindparam("last_id"))
{%- endif %}
# What INSERT and UPDATE write is named by the parameters that they are run with.
_CREATE = insert({{ cookiecutter.__class }}.__table__).returning(*_COLUMNS)
_CHANGE = update({{ cookiecutter.__class }}.__table__).where(_THIS, _UNCHANGED).returning(*_COLUMNS)
_DELETE = delete({{ cookiecutter.__class }}.__table__).where(_THIS, _UNCHANGED).returning({{ cookiecutter.__class }}.id)


class {{ cookiecutter.__class }}Modified(PreconditionFailed):
    """The {{ cookiecutter.__words }} has changed since the caller read it."""


class {{ cookiecutter.__class }}NotFound(NotFound):
    """There is no {{ cookiecutter.__words }} with this id."""

    def __init__(self, {{ cookiecutter.singular }}_id: UUID) -> None:
        super().__init__(f"There is no {{ cookiecutter.__words }} { {{- cookiecutter.singular }}_id}.")


class {{ cookiecutter.__class }}InUse(Conflict):
    """Other rows refer to the {{ cookiecutter.__words }}."""
{%- if it.references %}


def _translated(error: IntegrityError) -> Exception:
    column = violated_reference(error, {{ cookiecutter.__class }}.__table__)
    return RefersToNothing(column) if column else error
{%- endif %}


async def create_{{ cookiecutter.singular }}(session: AsyncSession, new: New{{ cookiecutter.__class }}) -> {{ cookiecutter.__class }}Out:
{%- if it.references %}
    """Add {{ cookiecutter.__one }}; raise RefersToNothing if a field refers to no row."""
    try:
        (created,) = await fetch(session, _CREATE, {{ cookiecutter.__class }}Out, id=uuid7(), **vars(new))
    except IntegrityError as error:
        raise _translated(error) from error
{%- else %}
    """Add {{ cookiecutter.__one }}."""
    (created,) = await fetch(session, _CREATE, {{ cookiecutter.__class }}Out, id=uuid7(), **vars(new))
{%- endif %}
    return created


async def get_{{ cookiecutter.singular }}(reader: Reader, {{ cookiecutter.singular }}_id: UUID) -> {{ cookiecutter.__class }}Out:
    """Return {{ cookiecutter.__one }}, or raise {{ cookiecutter.__class }}NotFound."""
    found = await reader.one_or_none(_ONE, {{ cookiecutter.__class }}Out, this_id={{ cookiecutter.singular }}_id)
    if found is None:
        raise {{ cookiecutter.__class }}NotFound({{ cookiecutter.singular }}_id)
    return found


{%- if it.has_query %}
async def list_{{ cookiecutter.plural }}(reader: Reader, query: {{ cookiecutter.__class }}Query) -> list[{{ cookiecutter.__class }}Out]:
    """Return the {{ cookiecutter.plural }} of a page, and one more if there is a next page."""
    return await _LIST.rows(
        reader, limit=query.limit + 1, sort=query.sort, after=query.cursor, filters=query.filters
    )
{%- else %}
async def list_{{ cookiecutter.plural }}(reader: Reader, *, limit: int, after: UUID | None = None) -> list[{{ cookiecutter.__class }}Out]:
    """Return up to ``limit`` {{ cookiecutter.plural }}, oldest first, from the one after an id."""
    if after is None:
        return await reader.all(_FIRST_PAGE, {{ cookiecutter.__class }}Out, limit=limit)
    return await reader.all(_NEXT_PAGE, {{ cookiecutter.__class }}Out, limit=limit, last_id=after)
{%- endif %}


async def _refusal(session: AsyncSession, {{ cookiecutter.singular }}_id: UUID, if_match: list[str] | None) -> Exception:
    if if_match is not None and await fetch(session, _ONE, {{ cookiecutter.__class }}Out, this_id={{ cookiecutter.singular }}_id):
        return {{ cookiecutter.__class }}Modified("The {{ cookiecutter.__words }} has changed since you read it: get it again, and decide anew.")
    return {{ cookiecutter.__class }}NotFound({{ cookiecutter.singular }}_id)


async def change_{{ cookiecutter.singular }}(session: AsyncSession, {{ cookiecutter.singular }}_id: UUID, changes: {{ cookiecutter.__class }}Changes, if_match: list[str] | None = None) -> {{ cookiecutter.__class }}Out:
    """Change some fields of {{ cookiecutter.__one }}.

    {% filter wordwrap(116) | indent %}Raise {{ cookiecutter.__class }}NotFound{{ "," if it.references else " or" }} {{ cookiecutter.__class }}Modified if it has none of the versions in ``if_match``
{%- if it.references %}, or RefersToNothing if a field refers to no row{% endif %}.{% endfilter %}
    """
{%- if it.references %}
    try:
        found = await fetch(session, _CHANGE if changes else _ONE_UNCHANGED, {{ cookiecutter.__class }}Out, this_id={{ cookiecutter.singular }}_id, if_match=if_match, **changes)
    except IntegrityError as error:
        raise _translated(error) from error
{%- else %}
    found = await fetch(session, _CHANGE if changes else _ONE_UNCHANGED, {{ cookiecutter.__class }}Out, this_id={{ cookiecutter.singular }}_id, if_match=if_match, **changes)
{%- endif %}
    if not found:
        raise await _refusal(session, {{ cookiecutter.singular }}_id, if_match)
    return found[0]


async def delete_{{ cookiecutter.singular }}(session: AsyncSession, {{ cookiecutter.singular }}_id: UUID, if_match: list[str] | None = None) -> None:
    """Delete {{ cookiecutter.__one }}.

    {% filter wordwrap(116) | indent %}Raise {{ cookiecutter.__class }}NotFound, {{ cookiecutter.__class }}Modified if it has none of the versions in ``if_match``, or {{ cookiecutter.__class }}InUse if other rows refer to it and their foreign keys do not say what then happens to them.{% endfilter %}
    """
    try:
        deleted = await fetch(session, _DELETE, this_id={{ cookiecutter.singular }}_id, if_match=if_match)
    except IntegrityError as error:
        raise {{ cookiecutter.__class }}InUse("Other rows refer to this {{ cookiecutter.__words }}.") from error
    if not deleted:
        raise await _refusal(session, {{ cookiecutter.singular }}_id, if_match)
