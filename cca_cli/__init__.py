"""The command line of CCA-Attention: people and files.

Its commands as Python functions load on first use: see cca_cli/api.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from cca_cli.api import (
        ask,
        command,
        count,
        forget_models,
        ingest,
        list_documents,
        list_models,
        summarise,
    )
    from cca_cli.documents import read_document
    from cca_cli.errors import CLIError

__version__ = "0.1.0"

_MODULE_OF = {
    "CLIError": "errors",
    "ask": "api",
    "command": "api",
    "count": "api",
    "forget_models": "api",
    "ingest": "api",
    "list_documents": "api",
    "list_models": "api",
    "read_document": "documents",
    "summarise": "api",
}

__all__ = [
    "CLIError",
    "ask",
    "command",
    "count",
    "forget_models",
    "ingest",
    "list_documents",
    "list_models",
    "read_document",
    "summarise",
]


def __getattr__(name: str) -> Any:
    """Import the module of a public name when the name is first asked for."""
    if name in _MODULE_OF:
        return getattr(import_module(f"cca_cli.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
