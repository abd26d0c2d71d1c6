"""The service as a process, which exports what the tests look at."""

import json
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from tests.commands import environment

__all__ = ["Service", "serving"]


class Service:
    """The service as a process."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        assert process.stderr is not None
        self._process = process
        self._output: list[str] = []
        while not (match := re.search(r"http://127\.0\.0\.1:\d+", "".join(self._output[-1:]))):
            self._output.append(process.stderr.readline())
            assert self._output[-1], self._output
        self.address = match[0]

    @property
    def lines(self) -> list[dict[str, Any]]:
        """Its log, less what uvicorn wrote before the service began. Complete after `stop`."""
        return [json.loads(line) for line in self._output if line.startswith("{")]

    def wait_for(self, text: str) -> None:
        """Read the log until it has a text."""
        assert self._process.stderr is not None
        while not any(text in line for line in self._output):
            self._output.append(self._process.stderr.readline())
            assert self._output[-1], self._output

    def stop(self, within: float = 60) -> None:
        """End it as a platform does, by SIGTERM; it is killed after so many seconds, as a platform does that too."""
        self._process.terminate()
        _, rest = self._process.communicate(timeout=within)
        self._output += rest.splitlines()

    @property
    def exit_code(self) -> int | None:
        """Its exit code, once it has ended."""
        return self._process.returncode


@contextmanager
def serving(database_url: str, **env: str) -> Iterator[Service]:
    """Run the service until the end of the block, or until it is stopped."""
    with subprocess.Popen(
        ["uvicorn", "tests.telemetry.served:app", "--port", "0"],
        cwd="/",
        env=environment(database_url, **env),
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Service(process)
        finally:
            if process.poll() is None:
                process.kill()
