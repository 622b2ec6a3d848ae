from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vivace.compress import Int4, Int8, parse_recipe, read_recipe_file
from vivace.compress.recipe import build_recipe, describe_recipe
from vivace.compress.step import Step
from vivace.errors import RecipeError

INT4 = st.builds(
    Int4,
    group_size=st.sampled_from([32, 64, 128]),
    method=st.sampled_from(["rtn", "mse", "importance", "awq", "gptq"]),
    correct=st.sampled_from(["none", "bias"]),
    act_order=st.booleans(),
    damping=st.floats(0.001, 1),
    branch_rank=st.integers(0, 64),
)
INT8 = st.builds(Int8, correct=st.sampled_from(["none", "bias"]), activations=st.sampled_from(["int8", "none"]))


def write_text(steps: list[Step]) -> str:
    def show(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    parts = [entry for step in describe_recipe(steps) for entry in step.items()]
    return ", ".join(f"{name}({', '.join(f'{key} = {show(value)}' for key, value in values.items())})"
                     for name, values in parts)  # fmt: skip


@given(st.lists(INT4 | INT8, min_size=1, max_size=4))
def test_a_recipe_is_the_same_as_text_and_as_a_list(steps: list[Step]) -> None:
    assert list(parse_recipe(write_text(steps))) == steps
    assert list(build_recipe(describe_recipe(steps))) == steps


@given(st.text(max_size=60) | st.text(alphabet='int48()=,[]"0.9-e method group_size true', max_size=60))
def test_any_text_is_a_recipe_or_refused(text: str) -> None:
    with suppress(RecipeError):
        assert parse_recipe(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["int4", "steps", "method"]),
        lambda inner: (
            st.lists(inner, max_size=3)
            | st.dictionaries(st.sampled_from(["int4", "steps", "method"]) | st.integers(), inner, max_size=2)
        ),
        max_leaves=8,
    )
)
def test_any_value_is_a_recipe_or_refused(value: object) -> None:
    with suppress(RecipeError):
        assert build_recipe(value)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("int5", "There is no step 'int5'; there are"),
        ("int4(size=32)", "int4 has no setting 'size'; it has group_size, method"),
        ("int4(group_size=33)", "group_size"),
        ("int4(method=best)", "method"),
        ("int4(damping=0)", "damping is 0"),
        ("int4(32, group_size=32)", "given twice"),
        ("int4(method=awq, 32)", "expected a name before this value"),
        ("int4(method=awq", "expected ')'"),
        ("int4 int8", "expected a comma"),
        ("int4(1e999)", "not so large"),
        ("int4(32abc)", "cannot be read at character 6"),
        ("int4([[[[[[1]]]]]])", "fewer lists"),
        ("int4(1, 2, 3, 4, 5, 6, 7, 8, 9)", "at most 8 settings"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(text: str, message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        parse_recipe(text)


def test_yaml_says_the_same(tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text("steps:\n  - int4: {group_size: 64, method: awq}\n", encoding="utf-8")
    assert read_recipe_file(path) == parse_recipe("int4(64, awq)")
    path.write_text("- int8\n", encoding="utf-8")
    assert read_recipe_file(path) == (Int8(),)


@pytest.mark.parametrize(
    "text", ["", "a: [", "- int4: {1: 2}", "- int4: {method: awq}\n  int8:", "!!python/object:x {}"]
)
def test_yaml_that_is_no_recipe_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(RecipeError):
        read_recipe_file(path)
