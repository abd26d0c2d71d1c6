"""Runs the drill and writes what it found: ``make drill``."""

import shutil
import signal
import sys
import tempfile
from pathlib import Path
from typing import Any

import click

from drill.account import settle
from drill.cluster import running_cluster
from drill.faults import FAULTS, make
from drill.load import Load
from drill.packages import ensure_packages
from drill.programs import DrillError
from drill.report import PAGE, PICTURE, draw, examine, machine, table, totals, write
from drill.service import running_service


@click.command()
@click.option("--only", multiple=True, help="Part of the name of a fault: make these alone, and write nothing.")
def main(only: tuple[str, ...]) -> None:
    """Make faults on a PostgreSQL cluster while the service is under load, and settle the clients' account."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all is stopped
    ensure_packages()
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    folder.chmod(0o711)  # where we are root, PostgreSQL is not, and must get through
    try:
        page, clean = _drill(
            folder, [fault for fault in FAULTS if not only or any(part in fault.name for part in only)]
        )
    except DrillError as error:
        sys.exit(f"{error}\nThe logs are in {folder}.")
    shutil.rmtree(folder)
    click.echo(page)
    if not only:
        write(f"![Requests and errors each second]({PICTURE.name})\n\n{page}")
        click.echo(f"\nWritten to {PAGE.relative_to(PAGE.parent.parent)}")
    if not clean:
        sys.exit("A promise is broken: see the last two columns.")


def _drill(folder: Path, faults: list[Any]) -> tuple[str, bool]:
    """Run all, and return the page and whether nothing is gone or wrong."""
    click.echo(f"starting the cluster and the service in {folder}")
    with running_cluster(folder) as cluster, running_service(folder, cluster) as service:
        cluster.sql(cluster.primary(), "CREATE TABLE drill (number bigint)")
        runs = []
        with Load(service.address, {node.name: cluster.node_url(node) for node in cluster.nodes}) as load:
            for run in make(cluster, service, load, faults):
                runs.append(run)
                click.echo(f"{run.fault.name}: {run.obstacle or f'{run.end - run.start:.0f} s'}")
        account = settle(cluster, load, service.address)
        note = machine(cluster.versions())
    answers = sorted(load.answers, key=lambda answer: answer.at)
    lines = [examine(run, answers) for run in runs]
    draw(lines, load, note)
    balance = account.balance(load.writes)
    clean = not (balance.gone or balance.wrong or account.direct_gone)
    return f"{table(lines, account, load)}\n\n{totals(account, load)}\n\n{note}", clean


if __name__ == "__main__":
    main()
