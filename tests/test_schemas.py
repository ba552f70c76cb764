"""Every document keeps to its schema in docs/schemas, and every schema has a document."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import documents

jsonschema = pytest.importorskip("jsonschema")

SCHEMAS = {path.stem: json.loads(path.read_text()) for path in Path(__file__).parent.parent.glob("docs/schemas/*.json")}


def test_documents_keep_to_their_schemas(tmp_path):
    seen = set()
    for document in documents.printed(tmp_path):
        verb = document["schema"].removeprefix("truebits.").removesuffix("/1")
        jsonschema.Draft202012Validator(SCHEMAS[verb]).validate(document)
        seen.add(verb)
    assert seen == SCHEMAS.keys()


def test_a_schema_refuses_what_it_does_not_know(tmp_path):
    document = next(documents.printed(tmp_path))
    schema = jsonschema.Draft202012Validator(SCHEMAS["show"])
    assert not schema.is_valid({**document, "new": 1})
    assert not schema.is_valid({key: value for key, value in document.items() if key != "tensors"})
    assert not schema.is_valid({**document, "tensors": "none"})
