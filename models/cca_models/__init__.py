"""CCA in LLaMA: checkpoints, the attention hook and its cache, generation and reading.

Public names load on first use; importing the package imports neither torch nor transformers.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cca_models.attention import register
    from cca_models.cache import CCACache
    from cca_models.checkpoints import Checkpoint, list_checkpoints, resolve_checkpoint
    from cca_models.config import CCAConfig
    from cca_models.documents import Document, OutlineEntry, Page
    from cca_models.engine import LanguageModel, load_model
    from cca_models.memory import Memory

_MODULE_OF = {
    "CCACache": "cache",
    "CCAConfig": "config",
    "Checkpoint": "checkpoints",
    "Document": "documents",
    "LanguageModel": "engine",
    "Memory": "memory",
    "OutlineEntry": "documents",
    "Page": "documents",
    "list_checkpoints": "checkpoints",
    "load_model": "engine",
    "register": "attention",
    "resolve_checkpoint": "checkpoints",
}

__all__ = [
    "CCACache",
    "CCAConfig",
    "Checkpoint",
    "Document",
    "LanguageModel",
    "Memory",
    "OutlineEntry",
    "Page",
    "list_checkpoints",
    "load_model",
    "register",
    "resolve_checkpoint",
]


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first asked for."""
    if name in _MODULE_OF:
        return getattr(import_module(f"cca_models.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
