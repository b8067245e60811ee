"""Documents made to exhaust a reader, or to lead it out of its file."""

from collections.abc import Callable

from fuzz_seeds import CANARY_PATH, PARTS, PROSE, XML, archive, pdf, stream

__all__ = ["MONSTERS"]


def _laughs(levels: int = 9) -> str:
    names = [f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, levels)]
    return f'<!DOCTYPE html [<!ENTITY e0 "ha">{"".join(names)}]>'


def _with_doctype(body: str, doctype: str, entity: str) -> str:
    head, _, rest = body.partition("?>")
    return f"{head}?>{doctype}{rest}".replace(PROSE, f"{entity} {PROSE}", 1)


def _main_member(kind: str) -> str:
    return {
        "epub": "OEBPS/one.xhtml",
        "docx": "word/document.xml",
        "odt": "content.xml",
        "pptx": "ppt/slides/slide1.xml",
    }[kind]


def _archive_monster(kind: str, trick: str) -> bytes:
    members: dict[str, str | bytes] = dict(PARTS[kind])
    main = _main_member(kind)
    body = PARTS[kind][main]
    external = f'<!DOCTYPE html [<!ENTITY e SYSTEM "file://{CANARY_PATH}">]>'
    if trick == "laughs":
        members[main] = _with_doctype(body, _laughs(), "&e8;")
    elif trick == "quadratic":
        flat = f'<!DOCTYPE html [<!ENTITY e "{"x" * 100_000}">]>'
        members[main] = _with_doctype(body, flat, "&e;" * 20_000)
    elif trick == "external":
        members[main] = _with_doctype(body, external, "&e;")
    elif trick == "bomb":
        members[main] = body.replace(PROSE, " " * 300_000_000, 1)
    elif trick == "words":
        members[main] = body.replace(PROSE, PROSE * 2_000_000, 1)
    elif trick == "other bomb":
        members["extra.bin"] = b"\0" * 300_000_000
    elif trick == "deep":
        members[main] = body.replace(PROSE, "<b>" * 200_000, 1)
    elif trick == "wide":
        members[main] = body.replace(PROSE, "<b/>" * 1_000_000, 1)
    elif trick == "many":
        members.update({f"m{i}": b"" for i in range(70_000)})
    elif trick == "nested":
        for _ in range(20):
            members[main] = archive(members)
    return archive(members)


def _spine_monster() -> bytes:
    members = dict(PARTS["epub"])
    again = '<itemref idref="a"/>' * 200_000
    members["OEBPS/book.opf"] = members["OEBPS/book.opf"].replace('<itemref idref="a"/>', again)
    return archive(members)


def _toc_monster() -> bytes:
    members = dict(PARTS["epub"])
    deep = '<li><a href="one.xhtml">x</a><ol>' * 50_000
    members["OEBPS/nav.xhtml"] = members["OEBPS/nav.xhtml"].replace("<ol>", f"<ol>{deep}", 1)
    return archive(members)


_FONT = "/Font<</F<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>>>"
_PAGE = "<</Type/Page/Parent 2 0 R/MediaBox[0 0 612 792]/Contents 4 0 R/Resources<<_FONT>>>>"
_PAGE = _PAGE.replace("_FONT", _FONT)
_ROOT = "<</Type/Catalog/Pages 2 0 R>>"
_TREE = "<</Type/Pages/Kids[3 0 R]/Count 1>>"
_SHOW = b"BT /F 12 Tf 9 9 Td (" + PROSE.encode() + b") Tj ET"


def _pdf_monsters() -> dict[str, Callable[[], bytes]]:
    item = "<</Title(x)/Parent 5 0 R/Next 6 0 R/First 6 0 R/Dest[3 0 R/Fit]>>"
    many = [
        f"<</Title(x{i})/Parent 5 0 R/Next {i + 7} 0 R/Dest[3 0 R/Fit]>>" for i in range(50_000)
    ]
    outline = "<</Type/Catalog/Pages 2 0 R/Outlines 5 0 R>>"
    form = f"/Type/XObject/Subtype/Form/BBox[0 0 9 9]/Resources<<{_FONT}/XObject<</X 4 0 R>>>>"
    page_x = _PAGE.replace(_FONT, f"{_FONT}/XObject<</X 4 0 R>>")
    base = [_ROOT, _TREE, _PAGE, stream(_SHOW)]
    return {
        "outline ring": lambda: pdf([outline, *base[1:], "<</First 6 0 R>>", item]),
        "outline of 50,000": lambda: pdf([outline, *base[1:], "<</First 6 0 R>>", *many]),
        "pages in a ring": lambda: pdf([_ROOT, "<</Type/Pages/Kids[2 0 R]/Count 9>>"]),
        "page 100,000 times": lambda: pdf(
            [_ROOT, f"<</Type/Pages/Kids[{'3 0 R ' * 100_000}]/Count 100000>>", *base[2:]]
        ),
        "count lies": lambda: pdf([_ROOT, _TREE.replace("Count 1", "Count 999999999"), *base[2:]]),
        "huge page": lambda: pdf([*base[:2], _PAGE.replace("612 792", "1e12 1e12"), base[3]]),
        "stream bomb": lambda: pdf([*base[:3], stream(b"(" + b"x" * 400_000_000 + b") Tj")]),
        "operator bomb": lambda: pdf([*base[:3], stream(_SHOW * 300_000)]),
        "form in itself": lambda: pdf([*base[:2], page_x, stream(b"/X Do " + _SHOW, form)]),
        "deep arrays": lambda: pdf([*base[:3], "[" * 200_000 + "]" * 200_000]),
        "deep contents": lambda: pdf([*base[:3], stream(b"[" * 200_000)]),
        "labels": lambda: pdf(
            ["<</Type/Catalog/Pages 2 0 R/PageLabels<</Nums[0<</S/r/St 99999999>>]>>>>", *base[1:]]
        ),
        "notes on every page": lambda: pdf(
            [
                _ROOT,
                f"<</Type/Pages/Kids[{'3 0 R ' * 2_000}]/Count 2000>>",
                _PAGE.replace("/Contents", "/Annots 5 0 R/Contents"),
                base[3],
                f"[{'6 0 R ' * 2_000}]",
                f"<</Type/Annot/Subtype/Text/Contents({PROSE * 100})>>",
            ]
        ),
        "notes in a ring": lambda: pdf(
            [
                *base[:2],
                _PAGE.replace("/Contents", "/Annots[5 0 R]/Contents"),
                base[3],
                "<</Type/Annot/Subtype/Widget/Parent 5 0 R>>",
            ]
        ),
        "files in a ring": lambda: pdf(
            [
                "<</Type/Catalog/Pages 2 0 R/Names<</EmbeddedFiles 5 0 R>>>>",
                *base[1:],
                "<</Kids[5 0 R]>>",
            ]
        ),
        "prev ring": lambda: pdf(base, "/Prev 9"),
        "no end": lambda: pdf(base).replace(b"startxref", b"startxre"),
        "flate in flate": lambda: pdf(
            [*base[:3], stream(stream(b"\0" * 100_000_000).partition(b"stream\n")[2])]
        ),
    }


def _monsters() -> dict[str, Callable[[], bytes]]:
    tricks = (
        "laughs", "quadratic", "external", "bomb", "words", "other bomb", "deep", "wide", "many",
        "nested",
    )  # fmt: skip
    html = "<!doctype html><html><body>"
    made: dict[str, Callable[[], bytes]] = {
        f"{trick}.{kind}": (lambda kind=kind, trick=trick: _archive_monster(kind, trick))
        for kind in PARTS
        for trick in tricks
    }
    made |= {f"{name}.pdf": make for name, make in _pdf_monsters().items()}
    made |= {
        "spine.epub": _spine_monster,
        "toc.epub": _toc_monster,
        "deep.html": lambda: (html + "<div>" * 300_000 + PROSE).encode(),
        "deep lists.html": lambda: (html + "<ul><li>" * 100_000 + PROSE).encode(),
        "deep tables.html": lambda: (html + "<table><tr><td>" * 30_000 + PROSE).encode(),
        "colspan.html": lambda: (
            f"{html}<table><tr><td colspan=999999999 rowspan=999999999>{PROSE}</table>".encode()
        ),
        "entities.html": lambda: (html + "&#27;]0;x&#7;&#155;2J&lt;" * 20_000 + PROSE).encode(),
        "laughs.html": lambda: f"{XML}{_laughs()}<html><body>&e8; {PROSE}</body></html>".encode(),
        "attributes.html": lambda: (
            html + "<p " + " ".join(f"a{i}=1" for i in range(200_000))
        ).encode(),
        "quotes.md": lambda: ("> " * 50_000 + PROSE).encode(),
        "lists.md": lambda: "".join(f"{'  ' * i}- x\n" for i in range(2_000)).encode(),
        "brackets.md": lambda: ("[" * 100_000 + PROSE).encode(),
        "stars.md": lambda: ("*a _b " * 50_000 + PROSE).encode(),
        "table.md": lambda: ("|a" * 5_000 + "|\n" + "|-" * 5_000 + "|\n" + "|1|\n" * 500).encode(),
        "backticks.md": lambda: "".join("`" * i + "x" for i in range(1, 2_000)).encode(),
        "one line.txt": lambda: (PROSE * 200_000).encode(),
        "no spaces.txt": lambda: b"x" * 5_000_000,
        "form feeds.txt": lambda: (PROSE + "\f" * 1_000_000).encode(),
        "blank lines.txt": lambda: (PROSE + "\n" * 5_000_000 + PROSE).encode(),
        "headings.txt": lambda: "".join(f"Chapter {i}\n\nx\n\n" for i in range(100_000)).encode(),
        "escapes.txt": lambda: ("\x1b]0;x\x07\x1b[2J\x9b1m" * 10_000 + PROSE).encode(),
        "marks.txt": lambda: ("a" + "\u0301" * 200_000 + PROSE).encode(),
    }
    return made


MONSTERS = _monsters()
"""Documents made to exhaust a reader or to lead it out of its file, by name; made when called."""
