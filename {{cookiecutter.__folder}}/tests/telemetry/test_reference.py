"""The page docs/metrics.md names each metric of the code with its unit, and no other."""

import ast
import re
from collections.abc import Iterator

from tests.commands import PROJECT

OF_FASTAPI = {("http.server.request.duration", "s"), ("http.server.active_requests", "{request}")}


def created() -> Iterator[tuple[str, str]]:
    """Yield name and unit of each instrument that the code creates."""
    for path in (PROJECT / "app").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                kind, texts = node.func.attr, [a.value for a in node.args if isinstance(a, ast.Constant)]
                named = {k.arg: k.value.value for k in node.keywords if isinstance(k.value, ast.Constant)}
                if re.fullmatch("create_.*(counter|gauge|histogram)", kind):
                    yield str(texts[0]), str(named.get("unit") or texts[1])


def test_each_metric_is_on_the_page_with_its_unit() -> None:
    """If this fails, docs/metrics.md needs a row, or another unit: `| name | unit | labels | meaning |`."""
    page = (PROJECT / "docs" / "metrics.md").read_text()
    rows = re.findall(r"^\| `([a-z._]+)` \| `(.+?)` \| .*\| .+ \|$", page, re.MULTILINE)
    assert len(rows) == len(set(rows)) > len(OF_FASTAPI)
    assert set(rows) == OF_FASTAPI | set(created())
