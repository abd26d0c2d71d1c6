"""Says what to do next. It needs no network, and changes nothing."""

print("""
Made {{ cookiecutter.project_slug }}/. Two commands, on a machine with Python >= 3.11 and make:

  cd {{ cookiecutter.project_slug }}
  make run     starts PostgreSQL, migrates, and serves on http://127.0.0.1:8000/docs
  make test    runs the tests on a PostgreSQL of their own
""")
