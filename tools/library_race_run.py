"""Let several processes ask and ingest the same book at once: one of them must do the work.

    python tools/library_race_run.py                 # 8 processes: 4 ingest, 4 ask
    python tools/library_race_run.py --processes 16 --rounds 3 --json

The processes are those of a user: `python -m cca_cli`, started at the same moment. All must end
well and tell of the same entry; exactly one must have read the book, and the library must verify.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from library_trials import ROOT, Judge, Trial, forked, prepare, write_book

_WORDS = 20_000


def race_run(folder: Path, *, processes: int, words: int = _WORDS) -> dict[str, Any]:
    """Run one race.

    Args:
        folder: An empty directory.
        processes: How many take part; every other one asks.
        words: Length of the book.

    Returns:
        The figures; "faults" must be empty.
    """
    trial, judge = prepare(folder), Judge()
    book = write_book(folder / "book.txt", words, seed=3)
    reference = Trial(folder, trial.checkpoint, folder / "reference")
    forked(reference, book)
    judge.learn(reference)
    start = time.monotonic()
    racers = [_start(trial, book, number) for number in range(processes)]
    told, waited = [], 0
    for number, racer in enumerate(racers):
        out, err = racer.communicate(timeout=600)
        if racer.returncode:
            judge.faults.append(f"process {number}: exit {racer.returncode}: {err[-300:]}")
            continue
        result = json.loads(out)
        told.append(result["documents"][0]["cache"] if number % 2 == 0 else result["cache"])
        waited += "; waiting" in err
    readers = sum(not cache["hit"] for cache in told)
    if readers != 1:
        judge.faults.append(f"{readers} processes read the book")
    if len({cache["entry"] for cache in told}) != 1:
        judge.faults.append("the processes tell of different entries")
    judge.look(trial, must={book.name}, when="after the race")
    left = [p.name for p in trial.library.root.iterdir() if p.name.startswith((".draft", ".trash"))]
    uses = list(trial.library.locks.path.glob("*.use"))
    if left or uses:
        judge.faults.append(f"left behind: {[*left, *(path.name for path in uses)]}")
    return {
        "processes": processes,
        "read_the_book": readers,
        "waited_for_it": waited,
        "seconds": round(time.monotonic() - start, 1),
        "faults": judge.faults,
    }


def _start(trial: Trial, book: Path, number: int) -> subprocess.Popen[str]:
    command = trial.command(book)
    if number % 2:
        command = ["ask", str(book), "Who lit the lamp?", "--max-new-tokens", "4", *command[2:]]
    return subprocess.Popen(
        [sys.executable, "-m", "cca_cli", *command],
        cwd=ROOT,
        env={
            **os.environ,
            "CCA_HOME": str(trial.home),
            "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels")),
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--processes", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    faults = 0
    for _ in range(arguments.rounds):
        folder = Path(tempfile.mkdtemp(prefix="cca-race-"))
        try:
            figures = race_run(folder, processes=arguments.processes)
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        faults += len(figures["faults"])
        if arguments.json:
            print(json.dumps(figures))
        else:
            print("\t".join(f"{name} {value}" for name, value in figures.items()))
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main())
