"""The functions of the guide on passwords, on a role whose password is valid for three seconds."""

import re
import shutil
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from commands import TEMPLATE, run
from load import Load
from services import program, service
from sql import execute, rows

GUIDE = (TEMPLATE / "docs" / "guides" / "passwords-that-change.md").read_text()
FUNCTIONS = dict(zip(("rds", "cloud_sql", "azure"), re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL), strict=True))
IMPORTS = {
    "rds": "from urllib.parse import urlsplit\nimport boto3\n",
    "cloud_sql": "import google.auth\nimport google.auth.transport.requests\n",
    "azure": "import azure.identity\n",
}
STAND_INS = {
    "issuing.py": """
import asyncio, os, secrets
import asyncpg

def issue(role="orders"):
    token = secrets.token_hex(8)
    async def change():
        connection = await asyncpg.connect(os.environ["ADMINISTRATOR_URL"])
        now = await connection.fetchval("SELECT clock_timestamp() + interval '3 s'")
        await connection.execute(f"ALTER ROLE {os.environ['ROLE']} PASSWORD '{token}' VALID UNTIL '{now}'")
        await connection.execute("INSERT INTO issued VALUES ($1)", token)
        await connection.close()
    asyncio.run(change())
    return token
""",
    "boto3.py": """
import os
from issuing import issue

class client:
    def __init__(self, name):
        assert name == "rds"

    def generate_db_auth_token(self, DBHostname, Port, DBUsername):
        assert DBUsername == os.environ["ROLE"]
        assert (DBHostname, Port) == ("127.0.0.1", int(os.environ["SERVER_PORT"]))
        return issue()
""",
    "google/auth/__init__.py": """
from issuing import issue

class Credentials:
    valid = False

    def refresh(self, request):
        self.token = issue()

def default(scopes):
    return Credentials(), "project"
""",
    "google/auth/transport/__init__.py": "",
    "google/auth/transport/requests.py": "class Request: pass",
    "azure/identity.py": """
from types import SimpleNamespace
from issuing import issue

class DefaultAzureCredential:
    def get_token(self, scope):
        return SimpleNamespace(token=issue())
""",
}


@pytest.mark.parametrize("cloud", list(FUNCTIONS))
def test_the_functions_of_the_guide_renew_their_tokens(
    project: Path, migrated: str, tmp_path: Path, cloud: str
) -> None:
    """Under load each connection is replaced by age, with a new token; the migrations use the same function."""
    copy = tmp_path / "project"
    shutil.copytree(project, copy, ignore=shutil.ignore_patterns(".venv", ".postgres", ".env", "__pycache__"))
    (copy / ".venv").symlink_to(project / ".venv")
    startup = copy / "app" / "startup.py"
    own = re.compile(r"^def database_password\(.*?(?=^@)", re.DOTALL | re.MULTILINE)
    changed, times = own.subn(lambda _: f"{IMPORTS[cloud]}\n{FUNCTIONS[cloud]}\n\n", startup.read_text())
    assert times == 1
    startup.write_text(changed)
    for name, content in STAND_INS.items():
        (tmp_path / "libraries" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "libraries" / name).write_text(content)

    server = urlsplit(migrated)
    role = f"{server.path.removeprefix('/')}_orders"
    execute(migrated, "CREATE TABLE issued (token text)", f"CREATE ROLE {role} LOGIN IN ROLE {server.username}")
    url = server._replace(netloc=f"{role}@{server.hostname}:{server.port}").geturl()
    env = {
        "ADMINISTRATOR_URL": migrated,
        "DATABASE_POOL_RECYCLE": "1",
        "DATABASE_POOL_SIZE": "1",  # a role has one password, where a cloud accepts several tokens at once
        "PYTHONPATH": str(tmp_path / "libraries"),
        "ROLE": role,
        "SERVER_PORT": str(server.port),
    }
    run(program(copy, "alembic"), "upgrade", "head", cwd=copy, DATABASE_URL=url, **env)
    with service(copy, url, **env) as (address, _), Load(address, clients=2) as load:
        load.wait_for(lambda: rows(migrated, "SELECT count(*) FROM issued")[0][0] >= 6)
    assert set(load.statuses) == {201}
