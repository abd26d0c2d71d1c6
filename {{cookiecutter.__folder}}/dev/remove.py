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
    changed: dict[Path, str] = {}
    problems = []
    for name, hunks in zip(parts[::2], parts[1::2], strict=True):
        path = Path(name)
        if not path.exists():  # an answer at the generation has left it out, or you have removed it
            continue
        text = path.read_text(encoding="utf-8")
        for old, new in _read(hunks):
            if text.count(old) != 1:
                problems.append(f"{name}: these lines are not there once: change them, as {source} says\n{old}")
            text = text.replace(old, new)
        changed[path] = text
    if problems:
        sys.exit("\n".join([*problems, "Nothing was removed."]))
    for path, text in changed.items():
        path.write_text(text, encoding="utf-8")
    for path in deleted:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)
    source.unlink()
    click.echo(f"Removed {room}. Next:\n")
    for command in [*re.findall(r"^next (.+)$", head, flags=re.MULTILINE), "make check", "make test"]:
        click.echo(f"  {command}")


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
