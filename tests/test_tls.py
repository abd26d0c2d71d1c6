"""What the TLS parameters of a URL promise, on a server that takes no connection without TLS."""

import inspect
import subprocess
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from commands import run, started
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from machine import machines_postgresql
from services import program

SERVER = """
import shutil, sys
from pathlib import Path
from dev.cluster import temporary_cluster
from dev.programs import give_to_server, run_as_server

with temporary_cluster() as cluster:
    for name in ("server.crt", "server.key"):
        shutil.copy(Path(sys.argv[1]) / name, cluster._data / name)
        (cluster._data / name).chmod(0o600)
        give_to_server(cluster._data / name)
    (cluster._data / "pg_hba.conf").write_text("hostssl all all all scram-sha-256\\n")
    with (cluster._data / "postgresql.conf").open("a") as configuration:
        configuration.write("ssl = on\\n")
    run_as_server("pg_ctl", "restart", "--wait", "-D", cluster._data, "-l", cluster._log,
                  "-o", f"-p {cluster._port.read_text()}")
    print(cluster.url().replace("127.0.0.1", "localhost"), flush=True)
    sys.stdin.read()
"""


@pytest.fixture(scope="module")
def certificates(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with an authority of the tests' own, and a server's certificate for the name localhost."""
    folder = tmp_path_factory.mktemp("certificates")
    authority = _write(folder, "authority")
    _write(folder, "server", host="localhost", issuer=authority)
    return folder


def _write(
    folder: Path,
    name: str,
    *,
    host: str | None = None,
    issuer: tuple[x509.Name, ec.EllipticCurvePrivateKey] | None = None,
) -> tuple[x509.Name, ec.EllipticCurvePrivateKey]:
    key, subject = ec.generate_private_key(ec.SECP256R1()), x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    issuer_name, issuer_key = issuer or (subject, key)
    now = datetime.now(UTC)
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer_name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=host is None, path_length=None), critical=True)
        # Python 3.13 and later insist on these, and on the authority's key usage.
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
        .add_extension(x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer_key.public_key()), critical=False)
    )
    if host is not None:
        builder = builder.add_extension(x509.SubjectAlternativeName([x509.DNSName(host)]), critical=False)
    else:
        none = dict.fromkeys(inspect.signature(x509.KeyUsage).parameters, False)
        builder = builder.add_extension(x509.KeyUsage(**{**none, "key_cert_sign": True}), critical=True)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    (folder / f"{name}.crt").write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    (folder / f"{name}.key").write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return subject, key


@pytest.fixture(scope="module")
def server(project: Path, certificates: Path) -> Iterator[tuple[str, str]]:
    """URL of the server, and the file of its authority. The wheel's PostgreSQL has no TLS, so it is the machine's."""
    command = [program(project, "python"), "-c", SERVER, str(certificates)]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with started(command, cwd=project, POSTGRES_BIN=str(machines_postgresql()), **pipes) as process:
        assert process.stdout is not None
        yield process.stdout.readline().strip(), str(certificates / "authority.crt")
        process.communicate("")


@pytest.mark.parametrize(
    ("url", "trusts", "refusal"),
    [
        ("localhost?sslmode=disable", True, "no pg_hba.conf entry"),
        ("localhost?", False, None),
        ("127.0.0.1?sslmode=require", False, None),
        ("localhost?sslrootcert=system", True, None),
        ("localhost?sslmode=verify-full&sslrootcert=system", True, None),
        ("localhost?sslmode=verify-full&sslrootcert=AUTHORITY", False, None),
        ("localhost?sslrootcert=system", False, "certificate verify failed"),
        ("127.0.0.1?sslrootcert=system", True, "certificate verify failed"),
        ("127.0.0.1?sslmode=verify-full&sslrootcert=AUTHORITY", False, "certificate verify failed"),
    ],
)
def test_the_server_is_verified_as_the_url_says(
    project: Path, server: tuple[str, str], url: str, trusts: bool, refusal: str | None
) -> None:
    """SSL_CERT_FILE replaces the certificates of the system, for OpenSSL and for libpq."""
    target, authority = server
    host, parameters = url.replace("AUTHORITY", authority).split("?")
    settings = {"DATABASE_URL": f"{target.replace('localhost', host)}?{parameters}", "DATABASE_PROBE_TRIES": "1"}
    if trusts:
        settings["SSL_CERT_FILE"] = authority
    ended = run(program(project, "alembic"), "upgrade", "head", cwd=project, check=False, **settings)
    if refusal is None:
        assert ended.returncode == 0, ended.stderr
    else:
        (line,) = ended.stderr.splitlines()
        assert line.startswith("DATABASE_URL: ")
        assert refusal in line
        assert ended.returncode == 1
