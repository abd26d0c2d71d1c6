"""Removes a room of the service that you do not need: ``make remove room=telemetry``.

``dev/rooms/`` has a file for each room. It names what is deleted, and the lines that are taken out of other files or
changed, as a diff without line numbers.
"""

import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import click

_ROOMS: Final = Path(__file__).parent / "rooms"


@click.command()
@click.argument("room")
def main(room: str) -> None:
    """Remove a room: its files, and its lines in other files. Nothing is changed unless all of it can be."""
    source = _ROOMS / f"{room}.diff"
    if not source.is_file():
        rooms = ", ".join(sorted(path.stem for path in _ROOMS.glob("*.diff"))) or "none is left"
        sys.exit(f"room={room}: there is no such room. Rooms: {rooms}")
    head, *parts = re.split(r"^--- (.+)\n", source.read_text(encoding="utf-8"), flags=re.MULTILINE)
    deleted = [Path(path) for path in re.findall(r"^rm (.+)$", head, flags=re.MULTILINE)]
    changed = _changed(dict(zip(map(Path, parts[::2]), parts[1::2], strict=True)), source)
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    for path in deleted:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
        if path.parent.is_dir() and not any(path.parent.iterdir()):
            path.parent.rmdir()
    source.unlink()
    click.echo(f"Removed {room}. Next:\n")
    for use in _uses([".".join(path.with_suffix("").parts) for path in deleted if path.parts[0] == "app"]):
        click.echo(f"  take out {use}")
    for command in [*re.findall(r"^next (.+)$", head, flags=re.MULTILINE), "make check", "make test"]:
        click.echo(f"  {command}")


def _changed(hunks: dict[Path, str], source: Path) -> dict[Path, str]:
    """Return the new text of each file, or exit with what cannot be changed."""
    changed = {}
    problems = []
    for path, of_file in hunks.items():
        if not path.exists():  # an answer at the generation has left it out, or you have removed it
            continue
        text = path.read_text(encoding="utf-8")
        for old, new in _read(of_file):
            if text.count(old) != 1:
                problems.append(f"{path}: these lines are not there once: change them, as {source} says\n{old}")
            text = text.replace(old, new)
        changed[path] = text
    if problems:
        sys.exit("\n".join([*problems, "Nothing was removed."]))
    return changed


def _uses(modules: list[str]) -> Iterator[str]:
    """Yield the lines of your own that still import one of the modules, with what they import."""
    for path in sorted(path for folder in ("app", "tests") for path in Path(folder).rglob("*.py")):
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            if re.search(rf"\b({'|'.join(map(re.escape, modules))})\b", line):
                yield f"{path}:{number}: {line.strip()}, and what uses it"


def _read(hunks: str) -> Iterator[tuple[str, str]]:
    """Yield the old and the new lines of each hunk; ``@@`` stands between two of them."""
    for hunk in re.split(r"^@@\n", hunks, flags=re.MULTILINE):
        lines = [line for line in hunk.splitlines(keepends=True) if line.strip()]
        yield (
            "".join(line[1:] for line in lines if line[0] in "- "),
            "".join(line[1:] for line in lines if line[0] in "+ "),
        )


if __name__ == "__main__":
    main()
