"""Write the table of docs/peers.md from the records: `python tools/write_peers_table.py`."""

from dataclasses import fields
from pathlib import Path

from cca_cli.bench_output import attention_table
from cca_models.peers import records

PAGE = Path(__file__).parents[1] / "docs/peers.md"
_HEAD = "| attention "


def table() -> str:
    """Give the table as it belongs into the page."""
    facts = [{f.name: getattr(one, f.name) for f in fields(one)} for one in records().values()]
    whole = attention_table(facts)
    rows = [line for line in whole.splitlines() if line.startswith("|")]
    # The sources stand in the text: their column would leave the others no room in print.
    return "\n".join(row.rsplit("|", 2)[0].rstrip() + " |" for row in rows)


def page_with(text: str, rows: str) -> str:
    """Put the table in the place of the page's own, the one with the same first column and "KV".

    Raises:
        ValueError: If the page has none.
    """
    lines = text.splitlines()
    found = [i for i, line in enumerate(lines) if line.startswith(_HEAD) and "KV kept" in line]
    if not found:
        raise ValueError(f"expected a table of attentions in {PAGE.name}")
    end = found[0]
    while end < len(lines) and lines[end].startswith("|"):
        end += 1
    return "\n".join([*lines[: found[0]], rows, *lines[end:]]) + "\n"


if __name__ == "__main__":
    PAGE.write_text(page_with(PAGE.read_text(encoding="utf-8"), table()), encoding="utf-8")
