"""Fill the disk under `cca ingest` at many points, and look whether anything is lost or wrong.

    python tools/library_full_disk_run.py              # 20 sizes of a tmpfs; needs root or unshare
    python tools/library_full_disk_run.py --inject     # without a tmpfs: every sync fails in turn

Each point gives the library a disk a little larger than the one before, from too small for the
text to just too small for the finished entry. A finished entry lies there already. `cca` must end
with exit code 7, or 0 where it fits; the entry must stay as it is, nothing half-written may be
seen, and with room again the same command must get through. Half of the points leave out the
look at the free space before the reading, so that the disk fills in the midst of it.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from library_trials import Judge, Trial, forked, prepare, write_book

from cca_cli.errors import ExitCode
from cca_cli.library_files import disk_bytes

_WORDS = 6000
# Locks and directories take a page each.
_SLACK = 64 * 1024
_ROOM = 64 * 1024**2


def full_disk_run(
    folder: Path, *, points: int, inject: bool, words: int = _WORDS
) -> dict[str, Any]:
    """Run the trial.

    Args:
        folder: An empty directory.
        points: How many times the disk fills.
        inject: Let the n-th sync to disk fail instead of filling a tmpfs.
        words: Length of the book.

    Returns:
        The figures; "faults" must be empty.
    """
    trial, judge = prepare(folder), Judge()
    first = write_book(folder / "first.txt", words // 4, seed=1)
    book = write_book(folder / "book.txt", words, seed=2)
    reference = Trial(folder, trial.checkpoint, folder / "reference")
    for path in (first, book):
        code, _, _ = forked(reference, path)
        assert code == 0, (folder / "errors.txt").read_text()
    judge.learn(reference)
    sizes = {
        entry.manifest["document"]["name"]: disk_bytes(entry.path)
        for entry in reference.library.entries()
    }
    codes: Counter[int] = Counter()
    words_said: Counter[str] = Counter()
    for point in range(points):
        blind = point % 2 == 1
        if inject:
            _start_over(trial, first)
            outcome = forked(trial, book, before=_failing(point + 1))
        else:
            # Above what is there: up to the whole book and a fifth.
            room = int(1.2 * sizes[book.name] * (point + 1) / points)
            _mount(trial.home, _ROOM)
            _start_over(trial, first)
            _mount(trial.home, sizes[first.name] + room + _SLACK, "remount,")
            outcome = forked(trial, book, before=_blind if blind else None)
        code = outcome[0]
        codes[code] += 1
        if code == ExitCode.RESOURCES:
            words_said[_sentence(folder)] += 1
        elif code != ExitCode.OK:
            judge.faults.append(f"point {point}: exit {code}: {_sentence(folder)}")
        judge.look(
            trial,
            must={first.name, book.name} if code == ExitCode.OK else {first.name},
            when=f"point {point}",
        )
        if not inject:
            _mount(trial.home, _ROOM, "remount,")
        again, _, _ = forked(trial, book)
        judge.look(trial, must={first.name, book.name}, when=f"point {point}, with room")
        drafts = [path.name for path in trial.library.root.glob(".draft-*")]
        if again or drafts:
            judge.faults.append(f"point {point}, with room: exit {again}, left behind: {drafts}")
        if not inject:
            subprocess.run(["umount", trial.home], check=True)
    return {
        "points": points,
        "how": "the n-th sync fails" if inject else "tmpfs of growing size",
        "exit_codes": dict(codes),
        "said": dict(words_said),
        "largest_difference_of_a_number": judge.largest_difference,
        "faults": judge.faults,
    }


def _start_over(trial: Trial, first: Path) -> None:
    shutil.rmtree(trial.home / "cache", ignore_errors=True)
    code, _, _ = forked(trial, first)
    assert code == 0, (trial.folder / "errors.txt").read_text()


def _sentence(folder: Path) -> str:
    """Return the first words of what the last run said, without its figures."""
    lines = (folder / "errors.txt").read_text().splitlines() or [""]
    try:
        message = str(json.loads(lines[-1])["error"]["message"])
    except (ValueError, KeyError, TypeError):
        return lines[-1]
    return message.split(":")[0] if "disk full" in message else message.split(" takes ")[0]


def _mount(path: Path, size: int, option: str = "") -> None:
    path.mkdir(exist_ok=True)
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"{option}size={size},mode=0700", "tmpfs", path], check=True
    )


def _blind() -> None:
    """Leave out the look at the free space."""
    from cca_cli import ingestion_job

    ingestion_job.expect_disk = lambda *arguments, **options: None


def _failing(number: int) -> Callable[[], None]:
    """Let the n-th sync fail for want of room, and all after it."""

    def patch() -> None:
        sync, calls = os.fsync, 0

        def fail(descriptor: int) -> None:
            nonlocal calls
            calls += 1
            if calls >= number:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            sync(descriptor)

        os.fsync = fail

    return patch


def _may_mount(folder: Path) -> bool:
    try:
        _mount(folder, 65536)
    except (OSError, subprocess.CalledProcessError):
        return False
    subprocess.run(["umount", folder], check=True)
    return True


def main() -> int:
    """Run it from the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--points", type=int, default=20)
    parser.add_argument("--inject", action="store_true")
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="cca-full-"))
    try:
        if not arguments.inject and not _may_mount(folder / "probe"):
            if os.environ.get("CCA_UNSHARED") or shutil.which("unshare") is None:
                print("no tmpfs can be mounted here; --inject needs none", file=sys.stderr)
                return 2
            # A user namespace of its own lets anybody mount where the system allows it.
            command = ["unshare", "-rm", sys.executable, *sys.argv]
            return subprocess.run(command, env={**os.environ, "CCA_UNSHARED": "1"}).returncode
        figures = full_disk_run(folder, points=arguments.points, inject=arguments.inject)
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
