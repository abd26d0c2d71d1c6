"""Removes what was not chosen, and says what to do next. It needs no network."""

import shutil
from pathlib import Path

CI = "{{ cookiecutter.ci }}"
DEPLOYMENT = "{{ cookiecutter.deployment }}"

# Each option is whole files: what is there because of it, and who wants it.
OPTIONAL = {
    ".github": CI == "github",
    ".gitlab-ci.yml": CI == "gitlab",
    "renovate.json": CI == "gitlab",
    "Dockerfile": DEPLOYMENT != "none",
    ".dockerignore": DEPLOYMENT != "none",
    "compose.yaml": DEPLOYMENT != "none",
    "deploy": DEPLOYMENT == "kubernetes",
}

for name, wanted in OPTIONAL.items():
    path = Path(name)
    if wanted or not path.exists():
        continue
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

print("""
Made {{ cookiecutter.project_slug }}/. Two commands, on a machine with Python >= 3.11 and make:

  cd {{ cookiecutter.project_slug }}
  make run     starts PostgreSQL, migrates, and serves on http://127.0.0.1:8000/docs
  make test    runs the tests on a PostgreSQL of their own
""")
