"""Reads the answers of the scaffold, and says what is wrong with them.

The hook imports it before any file is written, and Jinja gets it as the filter ``resource``.
"""

import re
from pathlib import Path

from jinja2 import Environment
from jinja2.ext import Extension
from resource_fields import TYPES, Field, Resource
from resource_names import MAX_NAME, problem_of_name

__all__ = ["AnswersExtension", "read"]

_WORDS = r"[a-z][a-z0-9]*(_[a-z0-9]+)*"
_VALUE = r"[A-Za-z0-9][A-Za-z0-9_.-]*"


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
            elif option == "sorts" and not field.type.is_sortable:
                problems.append(f"sorts {name!r}: a list cannot be sorted by a field of this type")
            elif option == "filters" and not field.type.filter:
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
    elif kind not in TYPES:
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
    return field, problem or problem_of_name(name, asked, field.names)


def _problem_of_set(values: tuple[str, ...]) -> str | None:
    wrong = [value for value in values if not re.fullmatch(_VALUE, value) or len(value) > MAX_NAME]
    if wrong:
        return (
            f"a value consists of letters a-z, digits, _, - and ., at most {MAX_NAME}; this one does not: {wrong[0]!r}"
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
    types = f"the types are {', '.join(TYPES)}, values such as open|paid, and a feature of app/"
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


class AnswersExtension(Extension):
    """Adds the filter ``resource``, which reads all answers."""

    def __init__(self, environment: Environment) -> None:
        """Add it."""
        super().__init__(environment)
        environment.filters["resource"] = lambda answers: read(answers, Path(answers["_output_dir"]))[0]
