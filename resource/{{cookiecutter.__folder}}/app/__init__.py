"""The feature {{ cookiecutter.plural }}."""
