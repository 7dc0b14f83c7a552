"""Writes ``docs/schemas/answer.v1.json``, the JSON Schema of the server's answers: ``python -m scripts.schema_page``."""

from __future__ import annotations

from pathlib import Path

from assistants.shapes.models import schema
from assistants.shapes.own import VERSION
from frames.files import write_json

PAGE = Path(__file__).resolve().parent.parent / "docs" / "schemas" / f"answer.v{VERSION}.json"

if __name__ == "__main__":
    write_json(PAGE, schema())
    print(PAGE)
