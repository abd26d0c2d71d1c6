"""Makes up rows for the tables of any schema, for tests that migrate tables with rows in them."""

import re

import asyncpg

__all__ = ["insert_rows"]

_STATEMENTS: dict[str, str] = {}
"""For a table whose rows cannot be made up from its columns: an INSERT statement, by the table's name."""

_TABLES = """
    SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace
        AND relname <> 'alembic_version' ORDER BY 1
"""
_COLUMNS = """
    SELECT attname AS name, format_type(atttypid, NULL) AS type, attnotnull AND NOT atthasdef AS is_required,
        (SELECT enumlabel FROM pg_enum WHERE enumtypid = atttypid ORDER BY enumsortorder LIMIT 1) AS label,
        (SELECT format('(SELECT %I FROM %s LIMIT 1)', foreign_column.attname, confrelid::regclass)
            FROM pg_constraint JOIN pg_attribute AS foreign_column
            ON foreign_column.attrelid = confrelid AND foreign_column.attnum = confkey[1]
            WHERE contype = 'f' AND conrelid = here.attrelid AND conkey[1] = here.attnum LIMIT 1) AS reference,
        (SELECT string_agg(pg_get_constraintdef(oid), ' ') FROM pg_constraint
            WHERE contype = 'c' AND conrelid = attrelid AND attnum = ANY (conkey)) AS checks
    FROM pg_attribute AS here WHERE attrelid = $1::text::regclass AND attnum > 0 AND NOT attisdropped
        AND attidentity = '' AND attgenerated = '' ORDER BY attnum
"""
_VALUES = {
    "bigint": "(random() * 10000)::int",
    "boolean": "true",
    "bytea": "decode(md5(random()::text), 'hex')",
    "date": "current_date",
    "double precision": "random()",
    "integer": "(random() * 10000)::int",
    "json": "'{}'",
    "jsonb": "'{}'",
    "numeric": "(random() * 10000)::int",
    "real": "random()",
    "smallint": "(random() * 10000)::int",
    "timestamp with time zone": "now()",
    "timestamp without time zone": "now()",
    "uuid": "gen_random_uuid()",
}
_FIRST_CHOICE = re.compile(r"= (?:ANY \()?\(?(?:ARRAY\[)?'([^']*)'")


async def insert_rows(url: str) -> None:
    """Insert two rows into each table: one with all columns, and one with the required ones."""
    connection = await asyncpg.connect(url)
    left = [row["relname"] for row in await connection.fetch(_TABLES)]
    failure: Exception | None = None
    for _ in range(len(left)):  # a table needs rows in those that it refers to
        for table in list(left):
            try:
                for columns in ("all", "required"):
                    await _insert(connection, table, columns)
            except asyncpg.PostgresError as error:
                failure = error
            else:
                left.remove(table)
    await connection.close()
    assert not left, f"write an INSERT for {left[0]} into _STATEMENTS of {__file__}: {failure}"


async def _insert(connection: asyncpg.Connection, table: str, columns: str) -> None:
    found = await connection.fetch(_COLUMNS, f'"{table}"')
    chosen = [column for column in found if columns == "all" or column["is_required"]]
    names = ", ".join(f'"{column["name"]}"' for column in chosen)
    made_up = f"({names}) VALUES ({', '.join(map(_value, chosen))})" if chosen else "DEFAULT VALUES"
    statement = _STATEMENTS.get(table, f'INSERT INTO "{table}" {made_up}')
    try:
        await connection.execute(statement)
    except asyncpg.UniqueViolationError:
        return  # there is such a row


def _value(column: asyncpg.Record) -> str:
    if column["reference"]:
        return str(column["reference"])
    if choice := _FIRST_CHOICE.search(column["checks"] or ""):
        return f"'{choice[1]}'"
    if column["label"]:
        return f"'{column['label']}'"
    return _VALUES.get(column["type"], "left(md5(random()::text), 20)")
