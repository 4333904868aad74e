#!/usr/bin/env bash
# pydantic 2.14.4: a bound behind a validator function becomes "ge" in the JSON schema, a word that schemas don't know.
#
# What: Annotated[int, BeforeValidator(f), Field(ge=1, le=9)], its JSON schema, and a FastAPI 0.165.0 parameter of it.
# Guess: minimum 1 and maximum 9, as without the validator. The order of annotations says what runs first, no more.
# Seen: "ge": 1 and "le": 9. The value itself is checked. Whoever reads the schema sees an integer without bounds: a
#   JSON schema's reader passes over words that it does not know. Bounds of lengths come out right, and so do all with
#   the field in front of the validator, or as a model's value: = Field(ge=1).
# For this project: the service's OpenAPI document would lose bounds so. Bounds stand in front of validators
#   (schemas.py of the service), and a test looks for such words in the document.
set -euo pipefail
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT
python3 -m venv "$folder/venv"
"$folder/venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    pydantic==2.14.4 fastapi==0.165.0 jsonschema-rs==0.60.3

"$folder/venv/bin/python" -I - <<'PYTHON'
from typing import Annotated

import fastapi
import jsonschema_rs
import pydantic
from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError

BOUNDS = Field(ge=1, le=9)


def same(value):
    return value


TYPES = {
    "no validator": Annotated[int, BOUNDS],
    "bounds, then BeforeValidator": Annotated[int, BOUNDS, BeforeValidator(same)],
    "BeforeValidator, then bounds": Annotated[int, BeforeValidator(same), BOUNDS],
    "AfterValidator, then bounds": Annotated[int, AfterValidator(same), BOUNDS],
}
RIGHT, WRONG = {"type": "integer", "minimum": 1, "maximum": 9}, {"type": "integer", "ge": 1, "le": 9}


def refuses(kind, value):
    try:
        TypeAdapter(kind).validate_python(value)
    except ValidationError:
        return True
    return False


class Model(pydantic.BaseModel):
    count: Annotated[int, BeforeValidator(same)] = Field(ge=1, le=9)


app = fastapi.FastAPI()


@app.get("/")
def route(count: Annotated[int, BeforeValidator(same), fastapi.Query(ge=1, le=9)] = 1) -> None:
    pass


schemas = {name: TypeAdapter(kind).json_schema() for name, kind in TYPES.items()}
of_fastapi = app.openapi()["paths"]["/"]["get"]["parameters"][0]["schema"]
of_model = Model.model_json_schema()["properties"]["count"]
text = TypeAdapter(Annotated[str, BeforeValidator(same), Field(max_length=3)]).json_schema()
print(f"pydantic {pydantic.__version__}, fastapi {fastapi.__version__}")
print(f"expected: {RIGHT} for all")
for name, schema in schemas.items():
    fits = f"0 fits the schema: {jsonschema_rs.is_valid(schema, 0)}, the type: {not refuses(TYPES[name], 0)}"
    print(f"seen:     {name}: {schema}; {fits}")
print(f"          FastAPI's parameter: {of_fastapi}")
print(f"          a model's field with the bounds as its value: {of_model}")
print(f"          a text of at most 3, behind a validator: {text}")
print("source:   pydantic/_internal/_known_annotated_metadata.py, apply_known_metadata: for a function's schema the constraint's")
print("          own name is the key of pydantic_js_updates, save for lengths, which are translated")
assert all(refuses(kind, 0) and refuses(kind, 10) and not refuses(kind, 5) for kind in TYPES.values())
assert list(schemas.values()) == [RIGHT, RIGHT, WRONG, WRONG], "changed: pydantic"
assert {"ge", "le"} <= of_fastapi.keys() and not {"minimum", "maximum"} & of_fastapi.keys(), "changed: FastAPI"
assert of_model == RIGHT | {"title": "Count"}, "changed: a model's field"
assert text == {"type": "string", "maxLength": 3}, "changed: lengths"
print("as described")
PYTHON
