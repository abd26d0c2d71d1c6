"""Names that a field cannot have."""

import keyword

__all__ = ["MAX_NAME", "problem_of_name"]

MAX_NAME = 63
"""Bytes of a name in PostgreSQL, which cuts longer ones."""

_TAKEN = {
    # Columns that the scaffold writes, or that a feature may get later.
    *("id", "created_at", "updated_at", "deleted_at", "version"),
    # Query parameters of a list, and parameters of its statements.
    *("cursor", "filters", "items", "last_id", "last_value", "limit", "page_size", "sort", "this_id"),
    # Names that the files import or use: a field of the same name would hide them in its class.
    *(
        "any",
        "bool",
        "columns",
        "dataclass",
        "date",
        "datetime",
        "dict",
        "float",
        "func",
        "int",
        "list",
        "mapped_column",
    ),
    *("one_of", "object", "set", "str", "tuple", "uuid7"),
    # The linter takes it for a digit.
    "l",
    # Parameters of functions that take fields by name.
    *("client", "if_match", "into", "reader", "self", "session", "statement"),
}
_SQLALCHEMY = {"metadata", "registry", "type_annotation_map"}
_PYDANTIC = {
    *("construct", "copy", "dict", "from_orm", "json", "parse_file", "parse_obj", "parse_raw", "schema", "schema_json"),
    *("update_forward_refs", "validate", "model_computed_fields", "model_config", "model_construct", "model_copy"),
    *("model_dump", "model_dump_json", "model_extra", "model_fields", "model_fields_set", "model_json_schema"),
    *("model_parametrized_name", "model_post_init", "model_rebuild", "model_validate", "model_validate_json"),
    *("model_validate_strings", "cursor_of"),
}
_SYSTEM_COLUMNS = {"cmax", "cmin", "ctid", "tableoid", "xmax", "xmin"}
# Reserved in PostgreSQL 14 to 19: SQL written by hand would have to quote them.
_RESERVED = {
    *("all", "analyse", "analyze", "and", "any", "array", "as", "asc", "asymmetric"),
    *("authorization", "binary", "both", "case", "cast", "check", "collate", "collation", "column"),
    *(
        "concurrently",
        "constraint",
        "create",
        "cross",
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
    ),
    *("current_timestamp", "current_user", "default", "deferrable", "desc", "distinct", "do", "else", "end"),
    *("except", "false", "fetch", "for", "foreign", "freeze", "from", "full", "grant"),
    *("group", "having", "ilike", "in", "initially", "inner", "intersect", "into", "is"),
    *("isnull", "join", "lateral", "leading", "left", "like", "limit", "localtime", "localtimestamp"),
    *("natural", "not", "notnull", "null", "offset", "on", "only", "or", "order"),
    *("outer", "overlaps", "placing", "primary", "references", "returning", "right", "select", "session_user"),
    *("similar", "some", "symmetric", "system_user", "table", "tablesample", "then", "to", "trailing"),
    *("true", "union", "unique", "user", "using", "variadic", "verbose", "when", "where"),
    *("window", "with"),
}


def problem_of_name(name: str, asked: str, derived: tuple[str, ...]) -> str | None:
    """Return why a field cannot have a name, or None.

    Parameters
    ----------
    name
        Name of the column.
    asked
        Name in the answer, which a reference has without ``_id``.
    derived
        Names in PostgreSQL that are made of it.

    """
    if keyword.iskeyword(asked) or keyword.iskeyword(name):
        return f"{name} is a keyword of Python; try my_{name}"
    taken = {
        "the scaffold uses it": _TAKEN,
        "SQLAlchemy's base class has it": _SQLALCHEMY,
        "pydantic's base class has it": _PYDANTIC,
        "PostgreSQL has a system column of this name": _SYSTEM_COLUMNS,
        "it is a reserved word of SQL": _RESERVED,
    }
    for reason, names in taken.items():
        if name in names:
            return f"the name {name} cannot be used, since {reason}; try my_{name}"
    longest = max(derived, key=len)
    if len(longest) > MAX_NAME:
        return f"PostgreSQL allows {MAX_NAME} bytes, and {longest} has {len(longest)}; choose a shorter name"
    return None
