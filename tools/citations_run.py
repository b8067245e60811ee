"""Ask many questions of many documents, and look every verified quote up without cca's own check.

    python tools/citations_run.py ../documents/pdf/*.pdf ../documents/epub/*.epub --questions 200
    python tools/citations_run.py book.html --read focus --json

Questions are made of words of the documents' own sentences. Each quote that an answer marks as
verified must stand at its place on the page that another process prints (`cca text`), and its
letters and digits must follow one another in what a reader that is not cca's finds in the file:
pypdfium2 on the same page of a PDF, elsewhere the file's own markup without its tags.
"""

from __future__ import annotations

import argparse
import html
import json
import random
import re
import subprocess
import sys
import zipfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

_SENTENCE = re.compile(r"[A-Z][^.!?\n]{60,240}[.!?]")
_WORD = re.compile(r"[^\W\d_]{5,}")
_TAG = re.compile(r"<(?:script|style)\b.*?</(?:script|style)>|<[^>]*>", re.DOTALL | re.IGNORECASE)


def run_cca(*args: str, lines: str | None = None) -> list[dict[str, Any]]:
    """Run cca with --jsonl in a process of its own and give its records."""
    command = [sys.executable, "-m", "cca_cli", *args, "--jsonl", "--quiet"]
    done = subprocess.run(
        command, input=lines, capture_output=True, text=True, encoding="utf-8", check=False
    )
    if done.returncode not in (0, 9):
        raise RuntimeError(f"{' '.join(args[:2])}: exit {done.returncode}: {done.stderr.strip()}")
    return [json.loads(line) for line in done.stdout.split("\n") if line]


def make_questions(pages: Sequence[dict[str, Any]], count: int, *, seed: int = 0) -> list[str]:
    """Make questions of the rarest words of sentences all over a document."""
    text = [(page["text"], sentence) for page in pages for sentence in _sentences(page["text"])]
    frequency = Counter(word.lower() for page in pages for word in _WORD.findall(page["text"]))
    rng = random.Random(seed)
    asked = []
    for _, sentence in rng.sample(text, min(count, len(text))):
        words = sorted(set(_WORD.findall(sentence)), key=lambda w: (frequency[w.lower()], w))[:3]
        if len(words) == 3:
            asked.append(f"What is said of {words[0]}, {words[1]} and {words[2]}?")
    return asked


def _sentences(text: str) -> Iterator[str]:
    yield from _SENTENCE.findall(" ".join(text.split()))


def letters(text: str) -> str:
    """Leave of a text what no reader changes: its letters and digits, in one case."""
    import unicodedata

    return "".join(c for c in unicodedata.normalize("NFKC", text).casefold() if c.isalnum())


def other_text(path: Path, page: int) -> str | None:
    """Read a page of a PDF, or the whole of another file, without cca; None if nothing else can."""
    head = path.read_bytes()[:1024]
    if b"%PDF-" in head:
        import pypdfium2

        with pypdfium2.PdfDocument(path) as pdf:
            return str(pdf[page - 1].get_textpage().get_text_range())
    if head.startswith(b"PK"):
        with zipfile.ZipFile(path) as archive:
            names = [n for n in archive.namelist() if re.search(r"\.(?:x?html?|xml|opf)$", n)]
            whole = "\n".join(archive.read(name).decode("utf-8", "replace") for name in names)
    else:
        whole = path.read_bytes().decode("utf-8", "replace")
    if path.suffix.lower() in (".md", ".txt"):
        return whole
    return html.unescape(_TAG.sub("", whole))


def check(
    path: Path, records: Sequence[dict[str, Any]], pages: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """Look the quotes of a document's answers up.

    Args:
        path: The document.
        records: Of `cca ask`.
        pages: Of `cca text`.

    Returns:
        Counts; "faults" names every quote that does not stand where it is said to stand, "doubts"
        those that the other reader does not have in one piece: for a person to look at.
    """
    text = {page["number"]: page["text"] for page in pages}
    seen: dict[int, str] = {}
    counts: Counter[str] = Counter()
    faults, doubts = [], []
    for record in records:
        counts["questions"] += 1
        counts["failed"] += record["error"] is not None
        counts["found"] += record["found"] is True
        for one in record["citations"]:
            counts["citations"] += 1
            if not one["verified"]:
                continue
            counts["verified"] += 1
            quote, page = one["quote"], one["page"]
            if text.get(page, "")[one["start"] : one["end"]] != quote or not quote:
                faults.append(f"{path.name}, {page}: not on the page: {quote[:60]!r}")
            if page not in seen:
                seen[page] = letters(other_text(path, page) or "")
            if letters(quote) in seen[page]:
                counts["found by another reader"] += 1
            else:
                counts["not found by another reader"] += 1
                doubts.append(f"{path.name}, {page}: {' '.join(quote.split())!r}")
    return {"doc": path.name, **counts, "faults": faults, "doubts": doubts}


def main() -> int:
    """Run from the command line; exit 1 if a quote is not where it is said to be."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("documents", nargs="+", type=Path)
    parser.add_argument("--questions", type=int, default=200, help="in all")
    parser.add_argument("--read", default="lexical", choices=("lexical", "focus", "core"))
    parser.add_argument("--model", help="as of cca ask; its default if not given")
    parser.add_argument("--max-new-tokens", default="24")
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args()
    chosen = ["--model", options.model] if options.model else []
    each = -(-options.questions // len(options.documents))
    rows = []
    for path in options.documents:
        pages = run_cca("text", str(path))
        asked = make_questions(pages, each)
        records = run_cca(
            "ask", str(path), "--questions", "-", "--read", options.read, "--no-log", *chosen,
            "--max-new-tokens", options.max_new_tokens, lines="\n".join(asked),
        ) if asked else []  # fmt: skip
        rows.append(check(path, records, pages))
        if not options.json:
            shown = [f"{k} {v}" for k, v in rows[-1].items() if not isinstance(v, list)]
            print("\t".join(shown), flush=True)
    total: Counter[str] = Counter()
    for row in rows:
        total.update({k: v for k, v in row.items() if isinstance(v, int)})
    faults = [fault for row in rows for fault in row["faults"]]
    if options.json:
        print(json.dumps({"documents": rows, "total": total, "faults": faults}, indent=1))
    else:
        print("total\t" + "\t".join(f"{k} {v}" for k, v in total.items()))
        print("\n".join(["faults:", *faults, "doubts:", *(d for r in rows for d in r["doubts"])]))
    return 1 if faults else 0


if __name__ == "__main__":
    raise SystemExit(main())
