"""Whatever the answers are: a refusal that names the question and leaves nothing, or a whole project that holds them.

Texts come in twice, without a mock: typed at the prompts of the ``cookiecutter`` command, which click runs in this
process with a standard input of its own, and handed over by a program, written as the template that makes them.
Only a program can hand over line breaks. What the project's Python says does not depend on any answer, so that lint
and format need to look at no more than what does.
"""

import subprocess
import sys
import tempfile
import unicodedata
from pathlib import Path

import pytest
from bakes import bake, bake_at_the_prompts, data, python_of
from commands import environment
from cookiecutter.exceptions import FailedHookException
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

CAREFUL = settings(
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
MOST_FILES = {"ci": "gitlab", "deployment": "kubernetes"}
HIDING = ("```", "~~~", "<!", "<?", "<pre", "<script", "<style", "<textarea")
LENGTHS = {"project_name": 100, "description": 300, "author_name": 100}


def sees(text: str) -> bool:
    """Return whether a text has only what can be seen, spaces, and the joiners of emoji and some scripts."""
    seen = "".join(letter for letter in text if letter not in "\u200c\u200d")
    return seen.strip() != "" and all(letter == " " or unicodedata.category(letter)[0] in "LMNPS" for letter in seen)


def is_fine(name: str, text: str) -> bool:
    """Return whether a text must be taken.

    One that opens a template would break an update of the project, and a line of Markdown may hide all that follow.
    """
    hides = name == "description" and text.lstrip(" ").lower().startswith(HIDING)
    return sees(text) and len(text) <= LENGTHS[name] and not any("{" + mark in text for mark in "{%#") and not hides


FRAGMENTS = [
    *("'", '"', "'''", '"""', "\\", "\\n", "\\u0041", "\\\\", "`", "``", "[/]", "[red]", " ", "  "),
    *("\n", "\r\n", "\t", "\0", "\x7f", "\x1b[31m", "\x85", "\u2028", "\ud800", "\ufeff", "\u202e", "\u200f"),
    *("🚀", "👩\u200d💻", "ünï", "שלום", "x" * 200, "$HOME", "$(id)", "; rm -r", "<b>&amp;", "-->", *HIDING),
    *("x = [1]", "# comment", "[tool.ruff]", "{ a = 1 }", ": ", "- a", "&a *a", "!!python", "---", "%YAML", "null"),
    *("${{ x }}", "{{ 1 }}", "{% raw %}", "{# a", "}}", "%}", "{", "cookiecutter.x", "%s", "{0}", "#{y}"),
]
PRINTABLE = st.lists(
    st.sampled_from(FRAGMENTS) | st.text(st.characters(categories=["L", "M", "N", "P", "S"]), max_size=20), max_size=6
).map("".join)
ANYTHING = st.lists(st.sampled_from(FRAGMENTS) | st.text(max_size=4)).map("".join)
SLUGS = st.from_regex(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", fullmatch=True) | st.sampled_from(
    [
        *("a/b", "..", ".", ".git", "/etc/passwd", "~", "a\\b", "C:\\a", "-", "-a", "a-", "a--b", "a.b", "a_b"),
        *("", " ", "\0", "a\n", "a b", "ünï", "1st", "Order", "x" * 50, "x" * 51, "x" * 200, "e5", "x0", "dev-tools"),
        *("app", "test", "con", "com7", "null", "on", "y", "pg-x", "postgres", "fastapi", "starlette", "{{ 1 }}"),
    ]
)
EMAILS = st.emails(domains=st.just("example.com")) | st.sampled_from(
    [
        *("a@b", "@example.com", "a@", "a b@example.com", '"a"@example.com', "a@example.com\n", "ü@example.com", ""),
        *("o'neil+tag@example.com", "{x}@example.com", "{{x}}@example.com", "a\\@example.com", "`id`@example.com"),
        *("x" * 200 + "@example.com", "x" * 300 + "@example.com", "$a@example.com", "a@example.com, b@example.com"),
    ]
)


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The default answers, of which test_options shows that lint and format hold."""
    return bake(tmp_path_factory.mktemp("reference"))


def assert_whole(project: Path, reference: Path, answers: dict[str, str]) -> None:
    """Assert that a project parses, would pass its own lint, and gives the answers back as they were."""
    assert python_of(project) == python_of(reference)
    lint = [str(Path(sys.executable).with_name("ruff")), "check", "--no-cache", "--quiet", "pyproject.toml"]
    subprocess.run(lint, cwd=project, env=environment(), check=True)
    parsed = data(project)
    declared = parsed["pyproject.toml"][0]["project"]
    held = {
        "project_slug": (declared["name"], project.name),
        "description": (declared["description"],),
        "author_name": (declared["authors"][0]["name"],),
        "author_email": (declared["authors"][0]["email"],),
    }
    database = parsed["compose.yaml"][0]["services"]["postgres"]["environment"]["POSTGRES_USER"]
    assert database == declared["name"].replace("-", "_"), "to YAML, some words are no text"
    for name, answer in answers.items():
        assert all(found == answer for found in held.get(name, ())), name
    readme, licence = (project / "README.md").read_text(), (project / "LICENSE").read_text()
    assert readme.startswith(f"# {answers.get('project_name', 'FastAPI Service')}\n")
    assert f"\n{answers.get('description', 'A FastAPI service on PostgreSQL.')}\n" in readme
    assert f" {answers.get('author_name', 'Your Name')}\n" in licence


def refused_or_whole(
    capfd: pytest.CaptureFixture[str], reference: Path, answers: dict[str, str], *, typed: bool = False
) -> bool:
    """Bake, and assert that it was refused as it must be, or done as it must be. Return whether it was done."""
    capfd.readouterr()
    with tempfile.TemporaryDirectory() as folder:
        if typed:
            baked = bake_at_the_prompts(Path(folder), **answers)
        else:
            try:
                bake(folder, **MOST_FILES, **answers)
                baked = True
            except FailedHookException:
                baked = False
        found = list(Path(folder).iterdir())
        if baked:
            (project,) = found
            assert_whole(project, reference, answers)
        else:
            assert found == []
            said = [line for line in capfd.readouterr().err.splitlines() if line.startswith("ERROR: ")]
            assert said
            assert all(line.removeprefix("ERROR: ").startswith(("project_slug", *answers)) for line in said), said
    return baked


@CAREFUL
@given(name=st.sampled_from(sorted(LENGTHS)), text=PRINTABLE.filter(sees) | ANYTHING)
@example(name="description", text="two\nlines")
@example(name="description", text="x" * 300)
@example(name="description", text="\\")
@example(name="author_name", text='\\"')
@example(name="author_name", text="\u2028")
@example(name="author_name", text="\ud800")
@example(name="project_name", text="\u200d")
def test_a_text_is_held_as_it_is_or_refused_by_name(
    capfd: pytest.CaptureFixture[str], reference: Path, name: str, text: str
) -> None:
    answers = {"project_slug": "order-service", name: text}
    assert refused_or_whole(capfd, reference, answers) == is_fine(name, text)


@settings(CAREFUL, max_examples=10)
@given(name=st.sampled_from(sorted(LENGTHS)), text=PRINTABLE.map(str.strip).filter(sees))
@example(name="description", text="${{ x }}")
@example(name="author_name", text='`it\'s` "quoted" \\n')
@example(name="project_name", text="[/] 🚀 שלום")
def test_what_is_typed_at_the_prompts_fares_the_same(
    capfd: pytest.CaptureFixture[str], reference: Path, name: str, text: str
) -> None:
    answers = {"project_slug": "order-service", name: text}
    assert refused_or_whole(capfd, reference, answers, typed=True) == is_fine(name, text)


@CAREFUL
@given(slug=SLUGS)
@example(slug="a/b")
@example(slug="..")
@example(slug="null")
@example(slug="e5")
def test_any_slug_is_refused_or_names_folder_and_package(
    capfd: pytest.CaptureFixture[str], reference: Path, slug: str
) -> None:
    refused_or_whole(capfd, reference, {"project_slug": slug})


@CAREFUL
@given(email=EMAILS)
@example(email="a@example.com\n")
@example(email="{{x}}@example.com")
def test_any_email_is_refused_or_held_as_it_is(capfd: pytest.CaptureFixture[str], reference: Path, email: str) -> None:
    refused_or_whole(capfd, reference, {"author_email": email})


@pytest.mark.parametrize(
    ("answer", "accepted"),
    [
        ({"project_slug": "x" * 50}, True),
        ({"project_slug": "x" * 51}, False),
        ({"project_slug": "e5"}, True),
        ({"project_slug": "dev-tools"}, True),
        *(({"project_slug": slug}, False) for slug in ("a/b", "Order_Service", "1st", "test", "con", "lpt1", "app")),
        *(({"project_slug": slug}, False) for slug in ("null", "on", "y", "pg-x", "none", "public", "template1", "")),
        ({"author_email": "o'neil+tag@example.com"}, True),
        *(
            ({"author_email": email}, False)
            for email in ("nobody", 'a"b@example.com', "a@example.com\n", "{{x}}@a.com")
        ),
        ({"author_name": " "}, False),
        ({"author_name": "👩\u200d💻"}, True),
        ({"author_name": "\u202eevil"}, False),
        ({"description": "two\nlines"}, False),
        ({"description": "{% raw %}"}, False),
        ({"description": "x" * 301}, False),
        *(({"description": beginning}, False) for beginning in (" ```", "~~~ x", "<!-- x", "<SCRIPT>", "<pre")),
        ({"project_name": "x" * 101, "project_slug": "x"}, False),
        ({"project_name": "שלום"}, True),  # slugify spells it out
        ({"project_name": "🚀"}, False),  # no slug can be made of it, and none is given
        ({"project_name": "Pytest"}, False),
    ],
    ids=repr,
)
def test_what_is_refused_and_what_is_not(
    capfd: pytest.CaptureFixture[str], reference: Path, answer: dict[str, str], accepted: bool
) -> None:
    assert refused_or_whole(capfd, reference, answer) == accepted


def test_all_that_is_wrong_is_said_at_once(capfd: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    with pytest.raises(FailedHookException):
        bake(tmp_path, project_slug="a/b", author_email="nobody", description="\n", author_name="\u202e")
    said = capfd.readouterr().err
    for name in ("project_slug", "author_email", "description", "author_name"):
        assert f"ERROR: {name}" in said
