"""Kill `cca ingest` with SIGKILL at random moments, and look whether anything is lost or wrong.

    python tools/library_crash_run.py                # 100 kills, about two minutes
    python tools/library_crash_run.py --kills 1000 --seed 7 --json

A book is ingested again and again, each time killed at a moment drawn evenly from the time that
a whole run takes, until a run gets through; then the next book. A first book stays in the library
all the while. After every kill: no half entry is seen, `verify` is clean, the first book is
there. Every finished entry must be what a run without a disturbance makes: pages and tokens byte
for byte, the memory but for rounding. At the end one undisturbed run must leave nothing behind
but entries and locks.
"""

from __future__ import annotations

import argparse
import json
import random
import shutil
import signal
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

from library_trials import Judge, Trial, forked, prepare, write_book

_WORDS = 6000


def crash_run(folder: Path, *, kills: int, seed: int, words: int = _WORDS) -> dict[str, Any]:
    """Run the trial.

    Args:
        folder: An empty directory.
        kills: How many runs must die.
        seed: Of the moments.
        words: Length of a book.

    Returns:
        The figures; "faults" must be empty.
    """
    trial, judge = prepare(folder), Judge()
    first = write_book(folder / "first.txt", words // 4, seed=1)
    book = write_book(folder / "book.txt", words, seed=2)
    reference = Trial(trial.folder, trial.checkpoint, folder / "reference")
    for path in (first, book):
        code, _, seconds = forked(reference, path)
        assert code == 0, (folder / "errors.txt").read_text()
    judge.learn(reference)
    forked(trial, first)

    draw = random.Random(seed)
    states: Counter[str] = Counter()
    books = continued = 0
    while states.total() < kills:
        code, told, _ = forked(trial, book, kill_after=draw.uniform(0, 1.1 * seconds))
        done = code == 0
        judge.look(
            trial, must={first.name, book.name} if done else {first.name}, when=f"run {states}"
        )
        if not done and code != -signal.SIGKILL:
            judge.faults.append(f"exit {code}: {(folder / 'errors.txt').read_text()[-300:]}")
            break
        if not done:
            states[_state(trial)] += 1
            continue
        books += 1
        reason = told["documents"][0]["cache"]["reason"]
        continued += reason == "an earlier run was interrupted"
        for entry in list(trial.library.entries()):
            if entry.manifest["document"]["name"] == book.name:
                trial.library.remove(entry.path)
    code, _, _ = forked(trial, book)
    judge.look(trial, must={first.name, book.name}, when="at the end")
    left = [p.name for p in trial.library.root.iterdir() if p.name.startswith((".draft", ".trash"))]
    if code or left:
        judge.faults.append(f"at the end: exit {code}, left behind: {left}")
    return {
        "kills": states.total(),
        "killed_while": dict(states),
        "seconds_of_a_whole_run": round(seconds, 3),
        "books_finished": books,
        "finished_from_a_checkpoint": continued,
        "largest_difference_of_a_number": judge.largest_difference,
        "faults": judge.faults,
    }


def _state(trial: Trial) -> str:
    """Say how far the run that was killed had come."""
    rows = [row for row in trial.library.listing() if row["state"].startswith("unfinished")]
    if rows:
        return "reading" if rows[0]["done"] else "text stored"
    drafts = list(trial.library.root.glob(".draft-*"))
    if drafts:
        whole = (drafts[0] / "manifest.json").exists()
        return "complete but for the rename" if whole else "storing text"
    return "stored" if len(list(trial.library.entries())) > 1 else "nothing stored yet"


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cca-crash-"))
    try:
        figures = crash_run(folder, kills=arguments.kills, seed=arguments.seed)
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    if arguments.json:
        print(json.dumps(figures, indent=2))
    else:
        for name, value in figures.items():
            print(f"{name}\t{value}")
    return 1 if figures["faults"] else 0


if __name__ == "__main__":
    sys.exit(main())
