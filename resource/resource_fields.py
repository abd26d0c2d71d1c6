"""Reads the answers of the scaffold: what is wrong with them, and what the templates write for each field.

The hook imports it before any file is written, and Jinja gets it as the filter ``resource``.
"""

import keyword
import re
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment
from jinja2.ext import Extension

__all__ = ["Field", "FieldsExtension", "Filter", "Resource", "read"]

_WORDS = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
_VALUE = r"[A-Za-z0-9][A-Za-z0-9_.-]*"
_MAX_NAME = 63
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
    *("model_validate_strings", "cut"),
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


@dataclass(frozen=True)
class _Type:
    """What a type means in each file, and values for the tests: two that are accepted, in order, and refused ones."""

    python: str
    column: str
    body: str
    low: str
    high: str
    refused: tuple[str, ...]
    filter: str = "range"
    is_sortable: bool = True


_TYPES = {
    "str": _Type("str", "Text", "ShortText", '"First"', '"Second"', ('"  "', '"x" * 201', '"x\\0"', "1"), "prefix"),
    "text": _Type(
        "str", "Text", "LongText", '""', '"One\\nTwo "', ('"x" * 10_001', '"x\\0"', "1"), "", is_sortable=False
    ),
    "int": _Type("int", "Integer", "Int32", "-(2**31)", "2**31 - 1", ("-(2**31) - 1", "2**31", '"x"')),
    "bigint": _Type("int", "BigInteger", "Int64", "-(2**63)", "2**63 - 1", ("-(2**63) - 1", "2**63", '"x"')),
    "float": _Type("float", "Double", "FiniteFloat", "-1e300", "0.1", ('"NaN"', '"1e999"', '"x"')),
    "decimal": _Type(
        "Decimal",
        "Numeric(18, 4)",
        "FixedDecimal",
        '"-99999999999999.9999"',
        '"0.0001"',
        ('"0.00001"', '"1e14"', '"NaN"'),
    ),
    "bool": _Type("bool", "Boolean", "bool", "False", "True", ('"maybe"', "2"), "equal"),
    "date": _Type("date", "Date", "date", '"0001-01-02"', '"9999-12-30"', ('"2026-02-29"', '"10000-01-01"')),
    "datetime": _Type(
        "datetime",
        "DateTime(timezone=True)",
        "Timestamp",
        '"0001-01-02T00:00:00Z"',
        '"9999-12-30T23:59:59.999999Z"',
        ('"2026-01-31T12:00:00"', '"0001-01-01T00:00:00+14:00"'),
    ),
    "uuid": _Type(
        "UUID",
        "Uuid",
        "UUID",
        '"00000000-0000-0000-0000-000000000000"',
        '"ffffffff-ffff-ffff-ffff-ffffffffffff"',
        ('"x"', "1"),
        "equal",
    ),
    "json": _Type(
        "Any", "JSONB(none_as_null=True)", "Json", '{"a": [1, None]}', '"x"', ('{"a": "x\\0"}',), "", is_sortable=False
    ),
}


@dataclass(frozen=True)
class Filter:
    """A query parameter that narrows a list."""

    name: str
    body: str
    """Its type."""
    condition: str
    """Condition in the repository."""
    value: str
    """Value in the tests, and which of the rows with the low and the high value it finds."""
    finds: str


@dataclass(frozen=True)
class Field:
    """A field of the resource."""

    name: str
    """Name of its column, and in JSON."""
    kind: str
    nullable: bool
    values: tuple[str, ...] = ()
    """Of a fixed set."""
    asked: str = ""
    """Name in the answer, which for a reference lacks the ``_id``."""
    target: str = ""
    """Feature that a reference refers to."""
    on_delete: str = ""
    is_filter: bool = False
    is_sort: bool = False
    class_: str = ""
    """Class of the resource's model."""
    table: str = ""

    @property
    def _type(self) -> _Type:
        if self.kind == "set":
            values = sorted(self.values)
            alias = "".join(word.capitalize() for word in self.name.split("_")) + "Value"
            refused = ('""', '"other than these"', "1")
            return _Type("str", "Text", alias, f'"{values[0]}"', f'"{values[-1]}"', refused, "equal", is_sortable=False)
        if self.kind == "reference":
            arguments = f'"{self.target}.id", ondelete="{self.on_delete}"'
            return _Type("UUID", f"ForeignKey({arguments})", "UUID", "", "", ('"x"',), "equal", is_sortable=False)
        return _TYPES[self.kind]

    @property
    def alias(self) -> str:
        """Type alias of a fixed set."""
        return self._type.body

    @property
    def mapped(self) -> str:
        """Line of the model, after the name."""
        null = " | None" if self.nullable else ""
        return f"Mapped[{self._type.python}{null}] = mapped_column({self._type.column}{self._explicit_null})"

    @property
    def _explicit_null(self) -> str:
        return f", nullable={self.nullable}" if self.kind == "json" else ""  # Any allows null

    def _or_null(self, kind: str) -> str:
        return f"{kind} | None" if self.nullable else kind

    @property
    def new(self) -> str:
        """Type in the body of a POST, with its default."""
        return self._or_null(self._type.body) + (" = None" if self.nullable else "")

    @property
    def change(self) -> str:
        """Type in the body of a PATCH."""
        return self._or_null(self._type.body)

    @property
    def out(self) -> str:
        """Type in a response."""
        kind = self._type.body if self.kind == "set" else self._type.python
        return kind if kind == "Any" else self._or_null(kind)

    @property
    def low(self) -> str:
        """Value that the tests use; those of references are made by them."""
        return self._type.low

    @property
    def high(self) -> str:
        """Another one, which comes later in the order."""
        return self._type.high

    @property
    def accepted(self) -> str:
        """All values that the tests send."""
        values = [f'"{value}"' for value in self.values] or [self.low, self.high]
        return ", ".join([*values, *(["None"] if self.nullable else [])])

    @property
    def refused(self) -> str:
        """Values that are a 422."""
        return ", ".join([*self._type.refused, *([] if self.nullable else ["None"])])

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Query parameters, if it is a filter."""
        column, body = f"{self.class_}.{self.name}", self._type.body
        if not self.is_filter:
            return ()
        if self._type.filter == "equal":
            bound = f'{column} == bindparam("{self.name}")'
            return (Filter(self.name, body, bound, self.low, "low"),)
        if self._type.filter == "prefix":
            name = f"{self.name}_prefix"
            return (Filter(name, body, f'starts_with({column}, "{name}")', '"fIR"', "low"),)
        start, end = f"{self.name}_from", f"{self.name}_before"
        return (
            Filter(start, body, f'{column} >= bindparam("{start}")', self.high, "high"),
            Filter(end, body, f'{column} < bindparam("{end}")', self.high, "low"),
        )

    @property
    def indexes(self) -> tuple[str, ...]:
        """Arguments of ``__table_args__``."""
        found = []
        if self.kind == "set":
            found.append(f'one_of("{self.name}", {", ".join(repr(value) for value in self.values)})')
        if self.is_sort or self.kind == "reference" or (self.is_filter and self._type.filter != "prefix"):
            found.append(f'Index("ix_{self.table}_{self.name}", "{self.name}", "id")')
        if self.is_filter and self._type.filter == "prefix":
            expression = (
                f'func.lower({self.name}).label("prefix"), "id", postgresql_ops={{"prefix": "text_pattern_ops"}}'
            )
            found.append(f'Index("ix_{self.table}_{self.name}_prefix", {expression})')
        return tuple(found)

    @property
    def names(self) -> tuple[str, ...]:
        """Names in the database."""
        return (
            self.name,
            f"ix_{self.table}_{self.name}_prefix",
            f"ck_{self.table}_{self.name}_12345678",
            f"fk_{self.table}_{self.name}_{self.target}",
        )


@dataclass(frozen=True)
class Resource:
    """What the templates write."""

    fields: tuple[Field, ...]

    @property
    def references(self) -> tuple[Field, ...]:
        """Fields that refer to other rows."""
        return tuple(field for field in self.fields if field.kind == "reference")

    @property
    def parents(self) -> tuple[Field, ...]:
        """References whose rows the tests have to create: not those to the table itself."""
        return tuple(field for field in self.references if field.target != field.table)

    @property
    def sets(self) -> tuple[Field, ...]:
        """Fields with a fixed set of values."""
        return tuple(field for field in self.fields if field.kind == "set")

    @property
    def values(self) -> tuple[Field, ...]:
        """Fields that are no references."""
        return tuple(field for field in self.fields if field.kind != "reference")

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Query parameters that narrow the list."""
        return tuple(it for field in self.fields for it in field.filters)

    @property
    def sorts(self) -> tuple[Field, ...]:
        """Fields to sort by."""
        return tuple(field for field in self.fields if field.is_sort)

    @property
    def has_query(self) -> bool:
        """Whether the list has filters or orders."""
        return bool(self.filters or self.sorts)

    @property
    def required(self) -> tuple[Field, ...]:
        """Fields that a POST must have."""
        return tuple(field for field in self.fields if not field.nullable)

    @property
    def indexes(self) -> tuple[str, ...]:
        """Arguments of ``__table_args__``."""
        return tuple(line for field in self.fields for line in field.indexes)


def read(answers: dict[str, str], project: Path) -> tuple[Resource, list[str]]:
    """Read the answers ``fields``, ``filters`` and ``sorts``. Return the resource, and a line for each problem.

    Parameters
    ----------
    answers
        All answers; the names are checked already.
    project
        Folder of the project, for features that are referred to.

    """
    fields, problems = [], []
    chosen = {option: _listed(answers[option]) for option in ("filters", "sorts")}
    for text in answers["fields"].split(","):
        field, problem = _field(text.strip(), answers, project, chosen)
        if field is not None and field.name in {other.name for other in fields}:
            problem = f"there is another column {field.name}"
        if problem:
            problems.append(f"fields {text.strip()!r}: {problem}")
        elif field is not None:
            fields.append(field)
    if problems:
        return Resource(()), problems
    by_name = {name: field for field in fields for name in (field.name, field.asked)}
    for option, names in chosen.items():
        for name in names:
            field = by_name.get(name)
            if field is None:
                problems.append(
                    f"{option} {name!r}: there is no such field; write names of fields, separated by commas"
                )
            elif option == "sorts" and not field._type.is_sortable:
                problems.append(f"sorts {name!r}: a list cannot be sorted by a field of this type")
            elif option == "filters" and not field._type.filter:
                problems.append(f"filters {name!r}: there is no filter for a field of this type")
            if names.count(name) > 1:
                problems.append(f"{option} {name!r}: is there twice")
                break
    resource = Resource(tuple(fields))
    own = "".join(word.capitalize() for word in answers["singular"].split("_"))
    problems += [
        f"fields {it.name!r}: its type {own} would hide the model; rename one"
        for it in resource.sets
        if it.alias == own
    ]
    parameters = [it.name for it in resource.filters]
    problems += [
        f"filters: two of them make the query parameter {name}; rename a field"
        for name in sorted({name for name in parameters if parameters.count(name) > 1})
    ]
    if not problems and not fields:
        problems.append("fields '': write at least one, such as name:str")
    return resource, problems


def _listed(answer: str) -> list[str]:
    return [name.strip() for name in answer.split(",")] if answer.strip() else []


def _field(
    text: str, answers: dict[str, str], project: Path, chosen: dict[str, list[str]]
) -> tuple[Field | None, str | None]:
    """Return the field that a part of the answer defines, or what is wrong with it."""
    match = re.fullmatch(rf"({_WORDS})\s*:\s*([^\s?]+?)\s*(\??)", text, re.ASCII)
    if not match:
        return None, (
            "write name:type, with a name of lower-case letters a-z, digits and single underscores, and a ? after the "
            "type if it may be null; for example: amount_cents:int, due:date?, status:open|paid, customer:users"
        )
    asked, kind, nullable = match[1], match[3], bool(match[4])
    values, target, on_delete = (), "", ""
    problem = None
    if "|" in kind:
        values, kind = tuple(kind.split("|")), "set"
        problem = _problem_of_set(values)
    elif kind not in _TYPES:
        target, kind = kind, "reference"
        on_delete, problem = _reference(target, answers, project, nullable=nullable)
    name = f"{asked}_id" if kind == "reference" else asked
    plural = answers["plural"]
    singular = "".join(word.capitalize() for word in answers["singular"].split("_"))
    field = Field(
        name=name,
        kind=kind,
        nullable=nullable,
        values=values,
        asked=asked,
        target=target,
        on_delete=on_delete,
        is_filter=bool({name, asked} & {*chosen["filters"]}),
        is_sort=bool({name, asked} & {*chosen["sorts"]}),
        class_=singular,
        table=plural,
    )
    return field, problem or _problem_of_name(field)


def _problem_of_set(values: tuple[str, ...]) -> str | None:
    wrong = [value for value in values if not re.fullmatch(_VALUE, value) or len(value) > _MAX_NAME]
    if wrong:
        return (
            f"a value consists of letters a-z, digits, _, - and ., at most {_MAX_NAME}; this one does not: {wrong[0]!r}"
        )
    twice = [value for value in values if values.count(value) > 1]
    return f"the value {twice[0]} is there twice" if twice else None


def _reference(target: str, answers: dict[str, str], project: Path, *, nullable: bool) -> tuple[str, str | None]:
    """Return what happens if the other row is deleted, and the problem."""
    if target == answers["plural"]:
        return (
            "SET NULL",
            None if nullable else "the first row could not refer to another one: write a ? after the type",
        )
    types = f"the types are {', '.join(_TYPES)}, values such as open|paid, and a feature of app/"
    if not re.fullmatch(_WORDS, target):
        return "", f"there is no type {target!r}; {types}"
    models = project / "app" / target / "models.py"
    if not models.exists():
        return "", f"there is no type and no feature {target!r} (app/{target}/models.py); {types}"
    text = models.read_text(encoding="utf-8")
    if not (re.search(rf'__tablename__ = "{target}"', text) and re.search(r"\bid: Mapped\[UUID\]", text)):
        return "", f"app/{target}/models.py has no table {target} with an id that is a UUID"
    if not (project / "tests" / target / "rows.py").exists():
        return "", f"tests/{target}/rows.py is missing, whose create(client) creates a row for the tests"
    # A row that is only marked as deleted is purged by a script, which must not stop at rows that refer to it.
    on_delete = "CASCADE" if re.search(r"\bdeleted_at: Mapped\[", text) else "RESTRICT"
    return "SET NULL" if nullable else on_delete, None


def _problem_of_name(field: Field) -> str | None:
    name = field.name
    if keyword.iskeyword(field.asked) or keyword.iskeyword(name):
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
    longest = max(field.names, key=len)
    if len(longest) > _MAX_NAME:
        return f"PostgreSQL allows {_MAX_NAME} bytes, and {longest} has {len(longest)}; choose a shorter name"
    return None


class FieldsExtension(Extension):
    """Adds the filter ``resource``, which reads all answers."""

    def __init__(self, environment: Environment) -> None:
        """Add it."""
        super().__init__(environment)
        environment.filters["resource"] = lambda answers: read(answers, Path(answers["_output_dir"]))[0]
