"""Removes the files of options that were not chosen, and prints the next commands. It needs no network."""

import shutil
from pathlib import Path

CI = "{{ cookiecutter.ci }}"
DEPLOYMENT = "{{ cookiecutter.deployment }}"
AUTH = "{{ cookiecutter.auth }}"

# Files and folders that belong to an option, and whether it was chosen.
OPTIONAL = {
    ".github": CI == "github",
    ".gitlab-ci.yml": CI == "gitlab",
    "renovate.json": CI == "gitlab",
    "Dockerfile": DEPLOYMENT != "none",
    ".dockerignore": DEPLOYMENT != "none",
    "compose.yaml": DEPLOYMENT != "none",
    "deploy": DEPLOYMENT != "none",
    **{f"deploy/{name}.yaml": DEPLOYMENT == "kubernetes" for name in ("cleanup", "config", "migrate", "service")},
    "dev/issuer.py": AUTH == "oidc",
}

# Folders with the files of one answer, and whether it was given.
ANSWERS = {"auth_none": AUTH == "none", "auth_oidc": AUTH == "oidc"}

for name, wanted in OPTIONAL.items():
    path = Path(name)
    if wanted or not path.exists():
        continue
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()

for name, wanted in ANSWERS.items():
    if wanted:
        shutil.copytree(name, ".", dirs_exist_ok=True)
    shutil.rmtree(name)

print("""
Created {{ cookiecutter.project_slug }}/. The next commands need Python >= 3.11 and make:

  cd {{ cookiecutter.project_slug }}
  make run     starts PostgreSQL, migrates, and serves on http://127.0.0.1:8000/docs
  make test    runs the tests on a PostgreSQL of their own
""")
