"""Runs the drill and writes the report: ``make drill``."""

import shutil
import signal
import sys
import tempfile
from pathlib import Path

import click

from drill.account import Account, settle
from drill.cluster import running_cluster
from drill.faults import FAULTS, Fault, Run, make
from drill.load import Load
from drill.packages import ensure_packages
from drill.programs import DrillError
from drill.report import PAGE, PICTURE, draw, examine, machine, summary, table, totals, write
from drill.service import running_service


@click.command()
@click.option("--only", multiple=True, help="Part of a fault's name: cause only such faults, and write no report.")
def main(only: tuple[str, ...]) -> None:
    """Cause faults on a PostgreSQL cluster while the service is under load, and check what the clients were told."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # so that all programs are stopped
    ensure_packages()
    folder = Path(tempfile.mkdtemp(prefix="drill-"))
    folder.chmod(0o711)  # if we are root, PostgreSQL runs as another user and must get through
    chosen = [fault for fault in FAULTS if not only or any(part in fault.name for part in only)]
    try:
        runs, load, account, note = _drill(folder, chosen)
    except DrillError as error:
        sys.exit(f"{error}\nThe logs are in {folder}.")
    shutil.rmtree(folder)
    answers = sorted(load.answers, key=lambda answer: answer.at)
    lines = [examine(run, answers) for run in runs]
    short = summary(lines)
    page = f"{table(lines, account, load)}\n\n{short}\n\n{totals(account, load)}\n\n{note}"
    click.echo(page)
    if not only:
        draw(lines, answers, note)
        write(f"![Requests and errors each second]({PICTURE.name})\n\n{page}", short)
        click.echo(f"\nWritten to {PAGE.relative_to(PAGE.parent.parent)}")
    balance = account.balance(load.writes)
    if balance.gone or balance.wrong or account.direct_gone:
        sys.exit("A promise is broken: an acknowledged write is lost, or a repeated one is not stored exactly once.")


def _drill(folder: Path, faults: list[Fault]) -> tuple[list[Run], Load, Account, str]:
    """Run cluster, service and load, cause the faults, and compare the responses with what is stored."""
    click.echo(f"starting the cluster and the service in {folder}")
    with running_cluster(folder) as cluster, running_service(folder, cluster) as service:
        # In a database of its own: the service's migrations would drop a table that its models do not have.
        cluster.sql(cluster.primary(), "CREATE TABLE drill (number bigint)")
        runs = []
        with Load(service.address, {node.name: cluster.node_url(node) for node in cluster.nodes}) as load:
            for run in make(cluster, service, load, faults):
                runs.append(run)
                click.echo(f"{run.fault.name}: {run.obstacle or f'{run.end - run.start:.0f} s'}")
        return runs, load, settle(cluster, load, service.address), machine(cluster.versions())


if __name__ == "__main__":
    main()
