"""The published JSON schema of a storyboard, for editors and other programs.

``python -m anchorshot.story.schema`` writes ``storyboard.schema.json`` anew after the models have changed.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from ..core.files import write_atomic
from .storyboard import Storyboard

__all__ = ["SCHEMA_FILE", "schema_text", "storyboard_schema"]

SCHEMA_FILE = Path(__file__).with_name("storyboard.schema.json")


def storyboard_schema() -> dict[str, Any]:
    """JSON schema (draft 2020-12) of a storyboard file, made from the models.

    It covers what a schema can say. Names, places, times and images are checked on loading.
    """
    body = Storyboard.model_json_schema()
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", **body, "title": "Anchorshot storyboard"}


def schema_text() -> str:
    """The schema as the published file holds it."""
    return json.dumps(storyboard_schema(), indent=2, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    print(write_atomic(SCHEMA_FILE, schema_text()))
