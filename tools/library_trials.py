"""What the trials of the library share: a small checkpoint, books, forked runs, and the judge.

A trial runs the real `cca ingest` with the real engine on a random checkpoint of two layers. The
parent imports the engine once and forks: so the child's time is the ingest alone, and a kill
falls into it and not into the start of the interpreter.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / part) for part in (".", "models", "kernels", "tests")]

from cca_cli.library import Library  # noqa: E402
from cca_cli.library_check import check  # noqa: E402

__all__ = ["Judge", "Trial", "forked", "prepare", "write_book"]

# A run that goes on from a checkpoint multiplies from other addresses, where a product rounds
# otherwise; everything else must agree to the byte.
_ROUNDING = 1e-5

# Two layers of 32: a token takes microseconds, and a memory of 16,000 tokens is about a megabyte.
_SETTINGS = ("--group-size", "16", "--window", "1024", "--device", "cpu", "--dtype", "fp32")


def write_book(path: Path, words: int, seed: int) -> Path:
    """Write a book of random words, with a blank line now and then."""
    draw = random.Random(seed)
    names = ("keeper", "lamp", "estate", "nephew", "bridge", "letter", "garden", "sister")
    text = (draw.choice(names) + ("\n\n" if i % 60 == 59 else " ") for i in range(words))
    path.write_text("".join(text))
    return path


@dataclass(slots=True)
class Trial:
    """Where a trial takes place.

    Attributes:
        folder: Everything is below it.
        checkpoint: The model.
        home: CCA_HOME of the runs.
    """

    folder: Path
    checkpoint: Path
    home: Path

    @property
    def library(self) -> Library:
        """The library of the runs."""
        return Library(self.home / "cache" / "library")

    def command(self, book: Path) -> list[str]:
        """Return the arguments of `cca` that ingest a book."""
        return ["ingest", str(book), "-m", str(self.checkpoint), *_SETTINGS, "--json"]


def prepare(folder: Path) -> Trial:
    """Make the checkpoint, load all code, and let every chunk be saved."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import torch
    from tiny_checkpoint import make_tiny_checkpoint

    from cca_cli import ingestion_checkpoints
    from cca_cli.console import Console
    from cca_cli.ingestion import open_document
    from cca_cli.model_loading import open_model

    # A fork takes over one thread only.
    torch.set_num_threads(1)
    checkpoint = make_tiny_checkpoint(folder / "tiny", context=4096)
    ingestion_checkpoints.CHECKPOINT_SECONDS = 0.0
    trial = Trial(folder, checkpoint, folder / "home")
    # What one run imports, the children need not.
    console = Console()
    console.quiet = True
    model = open_model(console, str(checkpoint))
    page = write_book(folder / "warm.txt", 50, seed=0)
    open_document(str(page), model, console=console, library=Library(folder / "warm"))
    return trial


def forked(
    trial: Trial,
    book: Path,
    *,
    kill_after: float | None = None,
    before: Callable[[], None] | None = None,
) -> tuple[int, dict[str, Any], float]:
    """Ingest a book in a forked process.

    Args:
        trial: Where.
        book: What.
        kill_after: Seconds after which it is killed with SIGKILL, unless it has ended.
        before: Called in the child first.

    Returns:
        Exit code, negative for a signal; what `--json` printed, {} if nothing; and seconds.
    """
    output = trial.folder / "output.json"
    errors = trial.folder / "errors.txt"
    start = time.monotonic()
    child = os.fork()
    if child == 0:
        code = 1
        with suppress(BaseException):
            code = _child(trial.home, trial.command(book), (output, errors), before)
        os._exit(code)
    if kill_after is not None:
        time.sleep(max(0.0, kill_after))
        os.kill(child, signal.SIGKILL)
    _, status = os.waitpid(child, 0)
    seconds = time.monotonic() - start
    try:
        told = json.loads(output.read_bytes())
    except ValueError:
        told = {}
    return os.waitstatus_to_exitcode(status), told, seconds


def _child(
    home: Path, command: list[str], files: tuple[Path, Path], before: Callable[[], None] | None
) -> int:
    for number, path in zip((1, 2), files, strict=True):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    sys.stdout, sys.stderr = (os.fdopen(number, "w", closefd=False) for number in (1, 2))
    os.environ["CCA_HOME"] = str(home)
    os.environ.pop("CCA_CACHE_DIR", None)
    # A tenth of a small disk is less than a book, and what goes to make room is not lost.
    os.environ["CCA_LIBRARY_SIZE"] = "none"
    from cca_cli.app import run

    if before is not None:
        before()
    return int(run(command))


def _difference(expected: bytes, found: bytes, file: str) -> float:
    """Return how far two files are apart: the largest difference of their numbers, or infinity."""
    import numpy as np
    from safetensors.numpy import load

    if expected == found:
        return 0.0
    if not file.endswith(".safetensors"):
        return float("inf")
    a, b = load(expected), load(found)
    if a.keys() != b.keys() or any(a[name].shape != b[name].shape for name in a):
        return float("inf")
    return max(float(np.abs(a[name] - b[name]).max(initial=0.0)) for name in a)


@dataclass(slots=True)
class Judge:
    """Looks for lost and wrong entries.

    Attributes:
        expected: The contents that the entry of a book must have, by file name of the book.
        faults: What was found, one sentence each.
        largest_difference: Between a number of a memory and the one expected.
    """

    expected: dict[str, dict[str, bytes]] = field(default_factory=dict)
    largest_difference: float = 0.0
    faults: list[str] = field(default_factory=list)

    def learn(self, trial: Trial) -> None:
        """Take what a library holds, read without a disturbance, for right."""
        for entry in trial.library.entries():
            name = entry.manifest["document"]["name"]
            self.expected[name] = {
                file: (entry.path / file).read_bytes() for file in entry.manifest["files"]
            }

    def look(self, trial: Trial, *, must: set[str], when: str) -> None:
        """Check a library: all that must be there is, and all that is there is right.

        Args:
            trial: Where.
            must: Names of the books whose entries must be there.
            when: For the faults.
        """
        library = trial.library
        for finding in check(library):
            if finding.damage is not None:
                self.faults.append(f"{when}: {finding.name or finding.key}: {finding.damage}")
        found = {}
        for entry in library.entries():
            name = entry.manifest["document"]["name"]
            found[name] = entry
            for file, content in self.expected[name].items():
                off = _difference(content, (entry.path / file).read_bytes(), file)
                self.largest_difference = max(self.largest_difference, off)
                if off > _ROUNDING:
                    self.faults.append(
                        f"{when}: {name}: {file} is not as without a disturbance ({off:.1e})"
                    )
        self.faults += [f"{when}: {name} is lost" for name in sorted(must - set(found))]
        library.listing()
