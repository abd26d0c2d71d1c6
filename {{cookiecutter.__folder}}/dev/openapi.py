"""Writes the OpenAPI document, from which clients are generated: ``python -m dev.openapi``. It needs no database."""

import json
import sys
from pathlib import Path
from typing import Final

from app.docs import DuplicateOperationIdError, refuse_duplicate_operation_ids
from app.main import app

_FILE: Final = Path(__file__).resolve().parent.parent / "openapi.json"


def main() -> None:
    """Write openapi.json."""
    try:
        refuse_duplicate_operation_ids(app)
    except DuplicateOperationIdError as error:
        sys.exit(str(error))
    _FILE.write_text(json.dumps(app.openapi(), indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
