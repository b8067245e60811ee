"""The tool that measures when "not found" should stand."""

import importlib.util
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint
from tiny_model import load_tiny, tiny_surroundings

from cca_models.errors import ModelError

TOOL = Path(__file__).parents[1] / "tools" / "calibrate_not_found.py"


@pytest.fixture(scope="module")
def tool() -> Any:
    spec = importlib.util.spec_from_file_location("calibrate_not_found", TOOL)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    # Its dataclass looks its own module up.
    import sys

    sys.modules["calibrate_not_found"] = module
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Any:
    place = tmp_path_factory.mktemp("calibrate")
    with tiny_surroundings(place / "home"):
        yield load_tiny(make_tiny_checkpoint(place / "tiny"))


def records(contexts: int) -> list[dict[str, Any]]:
    return [
        {
            "context": f"The town number {i} has {i + 3} barrels. It rains there all day long.",
            "question": f"How many barrels has town number {i}?{'' if again else ' Say it.'}",
            "answers": [str(i + 3)],
        }
        for i in range(contexts)
        for again in (0, 1)
    ]


def test_every_context_is_asked_before_one_is_asked_twice(tool: Any, model: Any) -> None:
    found = tool.measure(model, records(4), limit=4, seed=0)
    assert len(found) == 4 and all(0 <= a.own <= 1 and 0 <= a.other <= 1 for a in found)
    assert tool.measure(model, records(4), limit=4, seed=0) == found
    assert len(tool.measure(model, records(4), limit=100, seed=0)) == 8


def test_a_single_context_is_too_few(tool: Any, model: Any) -> None:
    with pytest.raises(ModelError, match="two contexts"):
        tool.measure(model, records(1), limit=4, seed=0)


def test_shares_fall_as_the_threshold_rises(tool: Any) -> None:
    found = [tool.Asked(own=i / 10, other=(i + 3) / 13) for i in range(10)]
    lines = tool.table(found)
    assert [line["own"] for line in lines] == sorted((x["own"] for x in lines), reverse=True)
    half = next(line for line in lines if line["threshold"] == 0.5)
    assert half["own"] == 0.5 and half["n"] == 10
    assert half["own_interval"][0] <= 0.5 <= half["own_interval"][1]
