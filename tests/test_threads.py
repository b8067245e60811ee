"""Threads sleep where the cores are crowded, and as the user says in any case."""

import os
from pathlib import Path

import pytest

from cca_cli import threads
from cca_cli.threads import SPIN, calm_threads


@pytest.mark.parametrize(
    ("state", "own", "expected"),
    [
        ("4.00 1.00 1.00 2/300 99\n", {}, None),
        ("0.00 1.00 1.00 3/300 99\n", {}, "1000"),
        ("5.10 1.00 1.00 1/300 99\n", {}, "1000"),
        ("0.00 1.00 1.00 9/300 99\n", {SPIN: "7"}, "7"),
        ("0.00 1.00 1.00 9/300 99\n", {"OMP_WAIT_POLICY": "active"}, None),
        ("what is this?", {}, None),
        (None, {}, None),
    ],
)
def test_threads_are_calmed_when_cores_are_crowded(
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    state: str | None,
    own: dict[str, str],
    expected: str | None,
) -> None:
    for name in (SPIN, "OMP_WAIT_POLICY"):
        monkeypatch.setenv(name, "")  # so that it is put back as it was
        monkeypatch.delenv(name)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    if state is not None:
        (tmp_path / "loadavg").write_text(state)
    monkeypatch.setattr(threads, "_STATE", str(tmp_path / "loadavg"))
    monkeypatch.setattr(os, "cpu_count", lambda: 4)
    calm_threads()
    assert os.environ.get(SPIN) == expected
