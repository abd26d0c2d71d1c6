"""The API against requests that nobody thought of, by Schemathesis, from its own OpenAPI document."""

import sys
from pathlib import Path

from commands import free_port, run, serving
from services import program

NOT_OURS = {
    # It takes e-mails for valid that email-validator refuses: addresses under .test, which can belong to nobody.
    "positive_data_acceptance",
    # Starlette names in `Allow` the methods of one of the routes of an address, not of all.
    "allow_header_conformance",
}


def test_no_request_makes_a_500_or_an_answer_that_is_not_documented(project: Path, migrated: str) -> None:
    port = free_port()
    command = [program(project, "uvicorn"), "app.main:app", "--port", str(port)]
    with serving(command, cwd=project, port=port, DATABASE_URL=migrated, LOG_LEVEL="ERROR") as process:
        run(
            str(Path(sys.executable).with_name("schemathesis")),
            "run",
            f"http://127.0.0.1:{port}/openapi.json",
            *("--checks", "all", "--exclude-checks", ",".join(sorted(NOT_OURS))),
            *("--max-examples", "100", "--seed", "20261121", "--continue-on-failure"),
            cwd=project.parent,
            timeout=600,
        )
    assert "unhandled error" not in process.output
