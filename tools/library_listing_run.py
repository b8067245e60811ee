"""Time `cca docs ls` on a large library, as a user starts it.

    python tools/library_listing_run.py              # 1,000 entries, 60 outline entries each

Entries are written as `cca` writes them, without a model. Every way of listing is timed whole
processes long: piped, as JSON, and on a terminal. `cca docs path` stands beside them: what is
above it is the listing's own.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import pty
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from library_trials import ROOT

from cca_cli.library import Library
from cca_cli.library_entry import Fingerprint, Settings, StoredText


class _Memory:
    """A memory of no tokens."""

    seen = nbytes = 0

    def save(self, path: Path) -> None:
        """Write an empty safetensors file."""
        from safetensors.numpy import save_file

        save_file({}, path)

    def save_margin(self, path: Path, before: Any) -> None:
        """There is none."""


def fill(root: Path, entries: int, outline: int) -> None:
    """Write a library."""
    import numpy as np

    from cca_models.documents import Document, OutlineEntry, Page

    library = Library(root)
    settings = Settings(model="smollm2-135m-instruct", group_size=16, window=1024, dtype="float32")
    # A disk's own time for a thousand syncs is not what is looked at.
    sync, os.fsync = os.fsync, lambda descriptor: None
    for number in range(entries):
        name = f"A rather long name of a report, volume {number}.pdf"
        document = Document(
            name=name,
            path=f"/home/reader/shelf/of/books/{name}",
            sha256=hashlib.sha256(name.encode()).hexdigest(),
            format="pdf",
            reader="pypdf 7.1.0 +cca1",
            unit="page",
            pages=(Page(number=1, label="i", text="one page"),),
            outline=tuple(
                OutlineEntry(title=f"Chapter {i}: of what happened then", page=1, level=i % 3)
                for i in range(outline)
            ),
        )
        fingerprint = Fingerprint(
            document_sha256=document.sha256,
            reading="rules +cca1, backend auto, pypdf 7.1.0, fonttools 4, pypdfium2 5",
            pages="all",
            model="m" * 64,
            tokenizer="t" * 64,
            prefix_sha256="p" * 64,
        )
        text = StoredText(
            document=document,
            ids=np.zeros(1, dtype=np.uint32),
            prefix_tokens=0,
            page_tokens=(1,),
        )
        draft = library.open_draft(fingerprint, settings)
        draft.start(text)
        draft.finish(text, _Memory(), library.path_of(fingerprint))
    os.fsync = sync


def timed(arguments: list[str], home: Path, *, terminal: bool = False) -> tuple[float, float]:
    """Run `cca`; returns seconds by the clock and of the processor."""
    environment = {
        **os.environ,
        "CCA_HOME": str(home),
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels")),
    }
    command = [sys.executable, "-m", "cca_cli", *arguments]
    before, start = os.times(), time.monotonic()
    if terminal:
        leader, follower = pty.openpty()
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=follower, stderr=follower
        )
        os.close(follower)
        try:
            while os.read(leader, 65536):
                pass
        except OSError:
            # How a terminal ends when its last writer is gone.
            os.close(leader)
        process.wait()
    else:
        subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=True)
    after = os.times()
    processor = after.children_user + after.children_system
    processor -= before.children_user + before.children_system
    return time.monotonic() - start, processor


def listing_run(folder: Path, *, entries: int, outline: int, repeats: int) -> dict[str, Any]:
    """Time the listings; medians."""
    fill(folder / "cache" / "library", entries, outline)
    ways: dict[str, tuple[list[str], bool]] = {
        "docs path": (["docs", "path"], False),
        "docs ls": (["docs", "ls"], False),
        "docs ls --json": (["docs", "ls", "--json"], False),
        "docs ls, on a terminal": (["docs", "ls"], True),
    }
    figures: dict[str, Any] = {"entries": entries, "outline": outline}
    for name, (arguments, terminal) in ways.items():
        runs = [timed(arguments, folder, terminal=terminal) for _ in range(repeats)]
        figures[name] = {
            "seconds": round(statistics.median(wall for wall, _ in runs), 3),
            "fastest_seconds": round(min(wall for wall, _ in runs), 3),
            "processor_seconds": round(statistics.median(cpu for _, cpu in runs), 3),
        }
    return figures


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--outline", type=int, default=60)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cca-listing-"))
    try:
        figures = listing_run(
            folder,
            entries=arguments.entries,
            outline=arguments.outline,
            repeats=arguments.repeats,
        )
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name}\t{value}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
