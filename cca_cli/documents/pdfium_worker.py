"""Child process that reads a PDF's text with pdfium; started by pdfium.py, as a file.

pdfium is native code: a hostile file can crash it or keep it busy for ever, and it must not be
shared by threads. Here the worst that happens is the end of this process.

Standard input: one JSON line {path, password, pages, size}, then, where path is null, `size`
bytes of PDF. Standard output: one JSON line {count}, then one {page, text} or {page, error} for
each page asked for; or one {error} if the file does not open. Imports nothing of ours.
"""

import json
import signal
import sys
from typing import Any


def main() -> None:
    """Answer the one request on standard input."""
    # Ctrl-C reaches the whole process group; the parent decides what it means.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    request = json.loads(sys.stdin.buffer.readline())
    import pypdfium2  # type: ignore[import-untyped]

    data = request["path"]
    if data is None:
        data = sys.stdin.buffer.read(request["size"])
    try:
        document = pypdfium2.PdfDocument(data, password=request["password"])
        say({"count": len(document)})
    except pypdfium2.PdfiumError as error:
        say({"error": str(error).rstrip(".")})
        return
    for number in request["pages"]:
        try:
            page = document[number - 1]
            words = page.get_textpage()
            # The whole page, not get_text_bounded(): that one drops text outside the crop box,
            # which pypdf reads.
            say({"page": number, "text": words.get_text_range()})
            words.close()
            page.close()
        except pypdfium2.PdfiumError as error:
            say({"page": number, "error": str(error)})


def say(message: dict[str, Any]) -> None:
    """Write one line; ASCII JSON, so that no lone surrogate or line end can break it."""
    sys.stdout.write(json.dumps(message) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
