"""Write docs/schemas/: the JSON schema of each command's document, from documents that it prints.

``python tools/schemas.py``. A schema says which keys there are and of what type each is; null is what was not
measured. No other key is allowed, so that the tests fail where a document changes and its schema does not. Look at
the diff before you commit it.
"""

from __future__ import annotations

import json
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
SCHEMAS = ROOT / "docs/schemas"
sys.path += [str(ROOT / "tests"), str(ROOT / "tools")]

MAPS = (
    *("types", "counts", "low_zero", "fits", "totals", "origins", "distinct", "metadata", "groups", "mantissa_bits"),
    *("not_read", "left_out", "tokens"),
)
"""Objects whose keys are names: of types, tensors, formats or metadata; where they are objects."""

TYPES = {bool: "boolean", int: "integer", float: "number", str: "string", type(None): "null"}


def schema_of(values: list[Any], key: str = "") -> dict[str, Any]:
    """Return the schema that all values of one place keep to."""
    kinds = {TYPES[type(value)] for value in values if type(value) in TYPES}
    if "number" in kinds:
        kinds.discard("integer")
    found: dict[str, Any] = {}
    objects = [value for value in values if isinstance(value, dict)]
    if objects:
        kinds.add("object")
        found |= _of_objects(objects, key)
    lists = [value for value in values if isinstance(value, list)]
    if lists:
        kinds.add("array")
        items = [item for value in lists for item in value]
        if items:
            found["items"] = schema_of(items, key if key in ("not_read",) else "")
    if kinds == {"null"}:
        return {}
    if kinds and (key or not (objects or lists)):
        kinds.add("null")
    if kinds:
        found["type"] = kinds.pop() if len(kinds) == 1 else sorted(kinds)
    return found


def _of_objects(objects: list[dict[str, Any]], key: str) -> dict[str, Any]:
    if key in MAPS:
        return {"additionalProperties": schema_of([one for value in objects for one in value.values()])}
    names = list(dict.fromkeys(name for value in objects for name in value))
    return {
        "properties": {name: schema_of([value[name] for value in objects if name in value], name) for name in names},
        "required": [name for name in names if all(name in value for value in objects)],
        "additionalProperties": False,
    }


def main() -> None:
    """Run the commands and write a schema for each kind of document."""
    import documents

    by_schema: dict[str, list[Any]] = {}
    with tempfile.TemporaryDirectory() as name:
        for document in documents.printed(Path(name)):
            by_schema.setdefault(document["schema"], []).append(document)
    SCHEMAS.mkdir(exist_ok=True)
    for name, some in by_schema.items():
        verb = name.removeprefix("truebits.").removesuffix("/1")
        whole, failed = ([one for one in some if ("error" in one) == is_error] for is_error in (False, True))
        shapes = [schema_of(documents) for documents in (whole, failed) if documents]
        for shape in shapes:
            shape["properties"]["schema"] = {"const": name}
        content = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
        schema = {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": name, **content}
        (SCHEMAS / f"{verb}.json").write_text(json.dumps(schema, indent=1) + "\n")
        print(f"{verb}: {len(some)} documents")


if __name__ == "__main__":
    main()
