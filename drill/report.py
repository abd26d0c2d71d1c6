"""What the drill found, as a Markdown table and a picture."""

import datetime
import os
import platform
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from itertools import pairwise
from typing import Final

import matplotlib as mpl

from benchmarks.project import TEMPLATE
from benchmarks.report import markdown, replace_marked
from drill.account import Account, writes_of
from drill.faults import Run
from drill.load import RATES, Answer, Kind, Load, is_success
from drill.service import COPIES

mpl.use("svg")
from matplotlib import pyplot as plt

PAGE: Final = TEMPLATE / "docs" / "reliability.md"
SCALING: Final = TEMPLATE / "docs" / "scaling.md"
PICTURE: Final = TEMPLATE / "docs" / "drill.svg"


def longest_gap(answers: Iterable[Answer], run: Run) -> float:
    """Return the longest time without a success while a fault was caused and repaired, in seconds."""
    times = [answer.at for answer in answers if is_success(answer)]
    edges = [run.start, *(at for at in times if run.start < at <= run.end), run.end]
    return max(later - earlier for earlier, later in pairwise(edges))


@dataclass(frozen=True)
class Line:
    """What happened to clients during one fault."""

    run: Run
    cluster: float
    """Longest time in which no write of the direct writer succeeded, in seconds."""
    by_copy: dict[str, float]
    """The same for the clients' writes, by the copy that answered."""
    writes: float
    """The same for all clients' writes."""
    reads: float
    """The same for all clients' reads."""
    statuses: dict[str, Counter[str]]
    """Responses by kind of request, with the number of each."""
    slowest: dict[str, float]
    """Slowest answer by kind of request, in seconds."""


def examine(run: Run, answers: list[Answer]) -> Line:
    """Return what the answers say about one fault."""
    during = [answer for answer in answers if run.start <= answer.at <= run.end]

    def of(kind: Kind, copy: str | None = None) -> list[Answer]:
        return [answer for answer in during if answer.kind == kind and copy in (None, answer.copy)]

    def status(answer: Answer) -> str:
        name = str(answer.status) if answer.status else "no answer"
        return name if answer.copy else f"{name} by HAProxy"

    kinds: tuple[Kind, Kind] = ("write", "read")
    return Line(
        run=run,
        cluster=longest_gap(of("direct"), run),
        by_copy={copy: longest_gap(of("write", copy), run) for copy in COPIES},
        writes=longest_gap(of("write"), run),
        reads=longest_gap(of("read"), run),
        statuses={kind: Counter(status(answer) for answer in of(kind)) for kind in kinds},
        slowest={kind: max((answer.seconds for answer in of(kind)), default=0) for kind in kinds},
    )


def table(lines: list[Line], account: Account, load: Load) -> str:
    """Return the table of all faults."""
    head = ["fault", "how it is caused", "responses to writes", "responses to reads"]
    head += ["write outage (s): direct writer", *(f"copy {copy}" for copy in COPIES), "all clients", "read outage (s)"]
    rows = [[*head, "acknowledged, lost", "repeated, wrong"]]
    for line in lines:
        run, name = line.run, f"**{line.run.fault.name}**"
        if run.obstacle:
            rows.append([name, run.fault.how, f"not run: {run.obstacle}", *[""] * (len(rows[0]) - 3)])
            continue
        balance = account.balance(writes_of(run, load))
        outages = [line.cluster, *line.by_copy.values(), line.writes, line.reads]
        rows.append(
            [
                name,
                run.fault.how,
                *(_statuses(line.statuses[kind], line.slowest[kind]) for kind in ("write", "read")),
                *(f"{seconds:.1f}" for seconds in outages),
                f"{balance.acknowledged:,}, {balance.gone}",
                f"{balance.doubtful:,}, {balance.wrong}",
            ]
        )
    return markdown(rows)


def _statuses(counts: Counter[str], slowest: float) -> str:
    return ", ".join(f"{status} ({counts[status]:,})" for status in sorted(counts)) + f"; slowest {slowest:.1f} s"


def summary(lines: list[Line]) -> str:
    """Return how long clients were without service, in a paragraph."""
    made = [line for line in lines if not line.run.obstacle]
    if not made:
        return "No fault was caused."
    later = max(0, *(line.writes - line.cluster for line in made))
    statuses = {status for line in made for counts in line.statuses.values() for status in counts}
    answers = ", ".join(sorted(statuses))
    longest = max(line.cluster for line in made)
    reads = max(line.reads for line in made)
    return (
        f"Over {len(made)} faults, clients could not write for at most {later:.1f} s longer than the direct writer, "
        f"whose longest outage was {longest:.1f} s. For reads that may be stale, the longest outage was {reads:.1f} s. "
        f"Statuses: {answers}."
    )


def totals(account: Account, load: Load) -> str:
    """Return the totals of the whole run, in a paragraph."""
    balance = account.balance(load.writes)
    return (
        f"Of {balance.acknowledged:,} acknowledged writes, {balance.gone} are lost. {balance.doubtful:,} writes "
        f"met an error and were repeated with their key; {balance.wrong} of them are not stored exactly once under the "
        f"id that the client got. Of the {len(load.direct):,} writes that were acknowledged to the direct writer, "
        f"{account.direct_gone} are lost."
    )


def machine(versions: str) -> str:
    """Return date, versions and machine, in a sentence."""
    day = datetime.datetime.now(datetime.UTC).date()
    return (
        f"Run on {day} with {versions}, on {os.cpu_count()} cores ({platform.machine()}, shared with others), "
        f"{RATES['write']} writes and {RATES['read']} reads begun each second."
    )


def draw(lines: list[Line], answers: list[Answer], note: str) -> None:
    """Draw requests and errors each second, with a mark for each fault."""
    mpl.rcParams["svg.hashsalt"] = "the same ids in each run"
    start = answers[0].at
    seconds = int(answers[-1].at - start)
    figure, (writes, reads) = plt.subplots(2, 1, figsize=(12, 5.5), sharex=True, layout="constrained")
    for axes, kind in ((writes, "write"), (reads, "read")):
        for label, colour, wanted in (("2xx", "#0b69a3", True), ("errors", "#c0392b", False)):
            each = Counter(
                int(answer.at - start) for answer in answers if answer.kind == kind and is_success(answer) == wanted
            )
            axes.step(
                range(seconds),
                [each[second] for second in range(seconds)],
                color=colour,
                lw=1,
                where="post",
                label=label,
            )
        axes.set_ylabel(f"{kind}s a second")
        axes.spines[["top", "right"]].set_visible(False)
        axes.set_ylim(bottom=0)
        axes.set_xlim(0, seconds)
    for number, line in enumerate((line for line in lines if not line.run.obstacle), 1):
        for axes in (writes, reads):
            axes.axvline(line.run.start - start, color="#7b8794", lw=0.8, ls="--")
        writes.annotate(
            f"{number} {line.run.fault.name}",
            (line.run.start - start, 1),
            xycoords=("data", "axes fraction"),
            rotation=30,
            fontsize=8,
        )
    reads.set_xlabel("seconds")
    reads.legend(fontsize=8, frameon=False, loc="lower right")
    figure.savefig(PICTURE, metadata={"Date": None, "Description": note})


def write(page: str, short: str) -> None:
    """Replace the marked parts of the pages: the whole report, and the paragraph of `summary`."""
    replace_marked(PAGE, "drill", page)
    replace_marked(
        SCALING,
        "drill",
        f"In the [drill](reliability.md#a-cluster-under-faults-the-drill): {short[0].lower()}{short[1:]}",
    )
