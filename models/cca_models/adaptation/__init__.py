"""Adaptation: LoRA that teaches a LLaMA checkpoint to read through core tokens.

`Recipe` says what is trained on and in which shares, `prepare` turns its sources into tokens once,
`train` does the steps. The command `cca adapt` is a thin layer over these. `average_adapters` makes
one adapter of several.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cca_models.adaptation.averaging import average_adapters
    from cca_models.adaptation.corpus import Corpus, prepare
    from cca_models.adaptation.recipe import Recipe
    from cca_models.adaptation.trainer import Training, train

_MODULE_OF = {
    "Corpus": "corpus",
    "Recipe": "recipe",
    "Training": "trainer",
    "average_adapters": "averaging",
    "prepare": "corpus",
    "train": "trainer",
}

__all__ = ["Corpus", "Recipe", "Training", "average_adapters", "prepare", "train"]


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first asked for."""
    if name in _MODULE_OF:
        return getattr(import_module(f"cca_models.adaptation.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
