"""Messages about data that pydantic refuses."""

from __future__ import annotations

from typing import Annotated, Any, Literal

import pytest
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from model.validation import describe_located


class Circle(BaseModel):
    kind: Literal["circle"]
    size: float = Field(gt=0, le=5, allow_inf_nan=False)


class Square(BaseModel):
    kind: Literal["square"]


class Drawing(BaseModel):
    model_config = ConfigDict(extra="forbid")

    name: str = Field("a", min_length=1)
    count: int = 1
    is_open: bool = False
    shapes: tuple[Annotated[Circle | Square, Field(discriminator="kind")], ...] = Field(
        min_length=1
    )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"shapes": ()}, "shapes: must have at least 1"),
        ({"shapes": "a"}, "shapes: must be an array"),
        ({"shapes": [3]}, "shapes.0: must be an object"),
        ({"shapes": [{}]}, "shapes.0: 'kind' is missing"),
        ({"shapes": [{"kind": "line"}]}, "shapes.0: 'kind' must be one of 'circle', 'square'"),
        ({"shapes": [{"kind": "circle"}]}, "shapes.0.circle.size: is missing"),
        ({"shapes": [{"kind": "circle", "size": 9}]}, "shapes.0.circle.size: must be at most 5.0"),
        ({"shapes": [{"kind": "circle", "size": "x"}]}, "shapes.0.circle.size: must be a number"),
        ({"name": ""}, "name: must have a length of at least 1"),
        ({"name": 3}, "name: must be a text"),
        ({"count": 1.5}, "count: must be a whole number"),
        ({"count": "many"}, "count: must be a whole number"),
        ({"is_open": "perhaps"}, "is_open: must be true or false"),
        ({"colour": "red"}, "colour: there is no such member"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_in_the_words_of_the_documentation(
    change: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate({"shapes": [{"kind": "square"}]} | change)
    assert describe_located(caught.value.errors()[0]) == message


def test_text_that_is_not_json_is_called_that() -> None:
    with pytest.raises(ValidationError) as caught:
        Drawing.model_validate_json("{")
    assert describe_located(caught.value.errors()[0]).startswith("is not JSON: EOF while parsing")
