"""What the templates of the scaffold write for each field."""

from dataclasses import dataclass

__all__ = ["TYPES", "Field", "Filter", "Resource"]


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


TYPES = {
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
    def type(self) -> _Type:
        """What its type means in each file."""
        if self.kind == "set":
            values = sorted(self.values)
            alias = "".join(word.capitalize() for word in self.name.split("_")) + "Value"
            refused = ('""', '"other than these"', "1")
            return _Type("str", "Text", alias, f'"{values[0]}"', f'"{values[-1]}"', refused, "equal", is_sortable=False)
        if self.kind == "reference":
            arguments = f'"{self.target}.id", ondelete="{self.on_delete}"'
            return _Type("UUID", f"ForeignKey({arguments})", "UUID", "", "", ('"x"',), "equal", is_sortable=False)
        return TYPES[self.kind]

    @property
    def alias(self) -> str:
        """Type alias of a fixed set."""
        return self.type.body

    @property
    def mapped(self) -> str:
        """Line of the model, after the name."""
        null = " | None" if self.nullable else ""
        return f"Mapped[{self.type.python}{null}] = mapped_column({self.type.column}{self._explicit_null})"

    @property
    def _explicit_null(self) -> str:
        return f", nullable={self.nullable}" if self.kind == "json" else ""  # Any allows null

    def _or_null(self, kind: str) -> str:
        return f"{kind} | None" if self.nullable else kind

    @property
    def new(self) -> str:
        """Type in the body of a POST, with its default."""
        return self._or_null(self.type.body) + (" = None" if self.nullable else "")

    @property
    def change(self) -> str:
        """Type in the body of a PATCH."""
        return self._or_null(self.type.body)

    @property
    def out(self) -> str:
        """Type in a response."""
        kind = self.type.body if self.kind == "set" else self.type.python
        return kind if kind == "Any" else self._or_null(kind)

    @property
    def low(self) -> str:
        """Value that the tests use; those of references are made by them."""
        return self.type.low

    @property
    def high(self) -> str:
        """Another one, which comes later in the order."""
        return self.type.high

    @property
    def accepted(self) -> str:
        """All values that the tests send."""
        values = [f'"{value}"' for value in self.values] or [self.low, self.high]
        return ", ".join([*values, *(["None"] if self.nullable else [])])

    @property
    def refused(self) -> str:
        """Values that are a 422."""
        return ", ".join([*self.type.refused, *([] if self.nullable else ["None"])])

    @property
    def filters(self) -> tuple[Filter, ...]:
        """Query parameters, if it is a filter."""
        column, body = f"{self.class_}.{self.name}", self.type.body
        if not self.is_filter:
            return ()
        if self.type.filter == "equal":
            bound = f'{column} == bindparam("{self.name}")'
            return (Filter(self.name, body, bound, self.low, "low"),)
        if self.type.filter == "prefix":
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
        if self.is_sort or self.kind == "reference" or (self.is_filter and self.type.filter != "prefix"):
            found.append(f'Index("ix_{self.table}_{self.name}", "{self.name}", "id")')
        if self.is_filter and self.type.filter == "prefix":
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
