"""A tiny random LLaMA, loaded into the engine, with small groups and a small window."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_checkpoint import make_tiny_checkpoint

from cca_models.checkpoints import resolve_checkpoint
from cca_models.config import CCAConfig
from cca_models.engine import LanguageModel, load_model

CCA = CCAConfig(group_size=4, window=32)


@contextmanager
def tiny_surroundings(home: Path) -> Iterator[None]:
    """Keep what is remembered of checkpoints apart, and work on one thread.

    Matrices this small gain nothing from more, and wait for each other on a busy machine.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("CCA_HOME", str(home))
            yield
    finally:
        torch.set_num_threads(threads)


def change_config(path: Path, **changes: Any) -> Path:
    """Write other values into a checkpoint's config.json."""
    file = path / "config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))
    return path


def load_tiny(path: Path, *, cca: CCAConfig = CCA, dtype: str = "fp32") -> LanguageModel:
    """Load a checkpoint directory on the CPU."""
    return load_model(resolve_checkpoint(str(path)), cca=cca, device="cpu", dtype=dtype)


def make_tiny_model(path: Path, *, cca: CCAConfig = CCA, **options: Any) -> LanguageModel:
    """Make a checkpoint directory and load it."""
    return load_tiny(make_tiny_checkpoint(path, **options), cca=cca)


def random_ids(count: int, *, seed: int = 0, vocab_size: int = 280) -> list[int]:
    """Draw ordinary tokens; the special ones, 0 to 2, are left out."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(3, vocab_size, (count,), generator=generator).tolist()
