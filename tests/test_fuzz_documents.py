"""Spoilt documents: what once went wrong stays right, and a small run of the fuzzer finds nothing.

The fuzzer reads each input in a process of its own under limits; tools/fuzz_documents.py is run as
a program here, so that torch, which this process holds, counts for none of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from cca_cli.documents import read_document
from cca_cli.documents.html_guard import too_costly
from cca_cli.errors import InputError

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT / "tools"))

import fuzz_seeds  # noqa: E402

TOOL = ROOT / "tools/fuzz_documents.py"
REGRESSIONS = ROOT / "tests/data/fuzz"
# Those that are made and read in no time; the others take a minute together.
QUICK = (
    "laughs.*", "quadratic.*", "external.*", "deep*", "nested.*", "*ring.pdf", "count lies.pdf",
    "labels.pdf", "form in itself.pdf", "huge page.pdf", "colspan.html", "entities.html",
    "escapes.txt", "marks.txt", "toc.epub", "attributes.html", "notes in a ring.pdf",
    "files in a ring.pdf", "notes on every page.pdf",
)  # fmt: skip

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the fuzzer forks")


def fuzz(*options: str, code: int = 0, **variables: str) -> str:
    """Run the fuzzer and return what it says."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    done = subprocess.run(
        [sys.executable, str(TOOL), "--jobs", "2", *options],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
        env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1", **variables},
    )
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout


def test_a_small_run_finds_nothing() -> None:
    said = fuzz("--runs", "200", "--seed", "7", "--monsters")
    assert said.startswith("200 inputs in ")
    assert " read, " in said and "seed " not in said, "a sound document was refused"


def test_documents_made_to_exhaust_or_to_lead_out() -> None:
    said = fuzz("--runs", "0", "--monsters", *QUICK)
    assert int(said.split()[0]) >= 25


def test_what_once_went_wrong() -> None:
    count = len(list(REGRESSIONS.iterdir()))
    assert fuzz("--replay", str(REGRESSIONS), "--seconds", "20").startswith(f"{count} inputs")


@pytest.mark.parametrize(
    ("limit", "value", "says"),
    [
        ("MAX_PAGES", 1, "2 pages are more than 1"),
        ("MAX_CHARACTERS", 150, "more than 150 characters up to page 2"),
        ("FILE_SECONDS", 0.0, "more than 0 s up to page 1"),
    ],
)
def test_a_pdf_has_its_share_of_time_and_text(
    limit: str, value: float, says: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from cca_cli.documents import pdf

    monkeypatch.setattr(pdf, limit, value)
    file = tmp_path / "plain.pdf"
    file.write_bytes(fuzz_seeds.seeds()["plain.pdf"])
    with pytest.raises(InputError, match=says) as caught:
        read_document(str(file))
    assert caught.value.hint.startswith("read it in parts: --pages 1-1")
    if limit != "FILE_SECONDS":
        assert len(read_document(str(file), pages="1").pages) == 1


def test_attributes_are_counted_before_the_parser_sees_them() -> None:
    many = " ".join(f"a{i}" for i in range(1100))
    for tag in (f"<p {many}>", f'<p b=">" {many}>', f"<p b='<i' {many}>", f"</p {many}>"):
        assert "attributes" in str(too_costly(f"<body>{tag}x"))
    assert too_costly(f"<p>{many}</p>" + "<img src='data:" + "x y " * 5000 + "'>") is None


def test_the_fuzzer_sees_faults(tmp_path: Path) -> None:
    """Limits that nothing can keep, and readers that misbehave, are findings."""
    (tmp_path / "x.txt").write_text("The nephew inherits the estate.")
    assert "over 0 s" in fuzz("--replay", str(tmp_path), "--seconds", "0.0001", code=1)
    broken = tmp_path / "broken"
    broken.mkdir()
    for fault, says in (
        ("raise ZeroDivisionError", "exit 1: ZeroDivisionError"),
        ("import os; os.kill(os.getpid(), 11)", "ended by signal 11"),
        ("x = bytearray(1 << 31)", "exit 7: MemoryError"),
        ("path = '/tmp/cca-fuzz-canary.txt'", "a file outside the document was read"),
    ):
        # Python imports this first: it puts the fault in the way of the real reader.
        (broken / "sitecustomize.py").write_text(
            "import cca_cli.documents as d\n"
            "real = d.read_document\n"
            "def read(path, **options):\n"
            "    if '/x.txt' in path:\n"
            f"        {fault}\n"
            "    return real(path, **options)\n"
            "d.read_document = read\n"
        )
        only = tmp_path / "only"
        only.mkdir(exist_ok=True)
        (only / "x.txt").write_text("The nephew inherits the estate.")
        paths = [str(broken), *(str(ROOT / part) for part in (".", "models", "kernels"))]
        said = fuzz("--replay", str(only), code=1, PYTHONPATH=os.pathsep.join(paths))
        assert says in said
