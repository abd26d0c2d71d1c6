"""Checks the answers and the folder before any file is written: exit code 1, and one line for each problem."""

import builtins
import json
import keyword
import re
import sys
from pathlib import Path

# The answers arrive as data: JSON inside a JSON string, which is a Python string whatever they contain.
ANSWERS = json.loads({{cookiecutter | tojson | tojson}})  # noqa: F821  # filled in by cookiecutter
PROJECT = Path.cwd().parent  # cookiecutter runs this in the folder that it has just created
sys.path.insert(0, str(PROJECT / ANSWERS["_repo_dir"]))
sys.dont_write_bytecode = True

from resource_answers import read  # noqa: E402

RESERVED = {
    # Names that the generated files import: a class of the same name would hide them.
    *("APIRouter", "Annotated", "Any", "AsyncSession", "Base", "BaseModel", "BigInteger", "Boolean", "ConfigDict"),
    *("Conflict", "Cursor", "Date", "DateTime", "DbReader", "DbSession", "Decimal", "Double", "Field", "FiniteFloat"),
    *("FixedDecimal", "ForeignKey", "Index", "Int32", "Int64", "Integer", "IntegrityError"),
    *("JSONB", "Json", "Limit", "ListQuery", "Listing", "Literal", "LongText", "Mapped", "NotFound", "Numeric"),
    *("PreconditionFailed", "Query", "Reader", "RefersToNothing", "Request", "Response", "RowVersion", "ShortText"),
    *("Text", "Timestamp", "TypedDict", "UUID", "Uuid", "Xmin"),
    # Tables that the project and its tests have already.
    *("IdempotencyKey", "Thing"),
}


def problems(answers):
    """Yield the problems of the answers."""
    if not (PROJECT / "app" / "fields.py").exists():
        yield "this is not the folder of a project of this template: change to that folder, and run this again"
        return
    singular, plural = answers["singular"], answers["plural"]
    for name, answer in (("singular", singular), ("plural", plural)):
        if not re.fullmatch(r"[a-z][a-z0-9]*(_[a-z0-9]+)*", answer) or len(answer) > 40:
            yield (
                f"{name} {answer!r}: use lower-case letters a-z and digits, in words joined by single underscores, "
                "beginning with a letter, at most 40 characters; for example: line_item"
            )
        elif keyword.iskeyword(answer):
            yield f"{name} {answer!r}: this is a keyword of Python; try my_{answer}"
    if singular == plural:
        yield f"plural {plural!r}: must differ from the singular"
    name = "".join(word.capitalize() for word in singular.split("_"))
    if name in RESERVED or hasattr(builtins, name):
        yield f"singular {singular!r}: the class {name} would hide another name; try my_{singular}"
    for folder in ("app", "tests"):
        for path in (PROJECT / folder / plural, PROJECT / folder / f"{plural}.py"):
            if path.exists():
                yield f"plural {plural!r}: {path.relative_to(PROJECT)} exists, and nothing is overwritten"
    yield from read(answers, PROJECT)[1]


def main():
    """Refuse invalid answers."""
    found = list(problems(ANSWERS))
    for problem in found:
        print(f"ERROR: {problem}", file=sys.stderr)
    sys.exit(1 if found else 0)


main()
