"""Small versions of the trials in tools/: kills, full disks, eight at once, a thousand entries."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from cca_cli.library import Library
from cca_cli.library_check import check

ROOT = Path(__file__).parents[1]
TOOLS = ROOT / "tools"
ENVIRONMENT = {
    **os.environ,
    "OMP_NUM_THREADS": "1",
    "PYTHONPATH": os.pathsep.join(
        str(ROOT / part) for part in ("tools", ".", "models", "kernels", "tests")
    ),
}


def test_kills_and_full_disks_lose_nothing(tmp_path: Path) -> None:
    # In a process of its own: the trials fork, which must not happen beside other threads.
    script = (
        "import json, sys; from pathlib import Path\n"
        "from library_crash_run import crash_run\n"
        "from library_full_disk_run import full_disk_run\n"
        "folders = [Path(name) for name in sys.argv[1:]]\n"
        "for folder in folders: folder.mkdir()\n"
        "print(json.dumps([crash_run(folders[0], kills=3, seed=1, words=800),\n"
        "    full_disk_run(folders[1], points=3, inject=True, words=800)]))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "crash"), str(tmp_path / "full")],
        env=ENVIRONMENT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    crash, full = json.loads(done.stdout)
    assert crash["faults"] == [] and crash["kills"] == 3
    assert full["faults"] == [] and full["exit_codes"] == {"7": 3}


def test_of_eight_processes_one_does_the_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    book = tmp_path / "book.txt"
    book.write_text(" ".join(f"word{i}" for i in range(300)))
    racers = [
        subprocess.Popen(
            [sys.executable, str(ROOT / "tests/fake_engine.py"), book, "0.02", str(10**9)],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={**ENVIRONMENT, "CCA_HOME": str(tmp_path / "home"), "CCA_CACHE_DIR": ""},
            text=True,
        )
        for _ in range(8)
    ]
    results = []
    for racer in racers:
        out, err = racer.communicate(timeout=60)
        assert racer.returncode == 0, err
        results.append(json.loads(out))
    assert sorted(result["hit"] for result in results) == [False] + [True] * 7
    assert sum(result["prefilled"] > 0 for result in results) == 1
    library = Library(tmp_path / "home/cache/library")
    assert [finding.damage for finding in check(library)] == [None]
    assert len(library.directories()) == 1
    assert list(library.locks.path.glob("*.use")) == [], "who ends well clears up"


def test_a_thousand_entries_are_listed_quickly(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(TOOLS))
    from library_listing_run import fill

    fill(tmp_path, 1000, 60)
    library = Library(tmp_path)
    times = []
    for _ in range(3):
        start = time.process_time()
        rows = library.listing()
        times.append(time.process_time() - start)
    assert len(rows) == 1000
    # On an idle core it takes a tenth of a second; starting the program takes the rest of the
    # half second that `cca docs ls` may take.
    assert min(times) < 0.3
