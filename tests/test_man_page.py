"""The manual page says what the program says, and man can set it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
import typer.main

from cca_cli.app import app
from cca_cli.man_page import manual_page
from cca_cli.settings import options_of

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="module")
def page() -> str:
    with pytest.MonkeyPatch.context() as patch:
        # What a developer has set must not get into the page.
        for name in ("CCA_MODEL", "CCA_ADAPTER", "CCA_DEVICE", "COLUMNS", "TERMINAL_WIDTH"):
            patch.delenv(name, raising=False)
        return manual_page()


def test_the_installed_page_is_what_the_app_says(page: str) -> None:
    assert (ROOT / "man/cca.1").read_text(encoding="utf-8") == page, "run: make cli-docs"


def test_every_command_and_option_is_there(page: str) -> None:
    plain = page.replace(r"\-", "-")
    for path, name, parameter in options_of(typer.main.get_command(app)):
        assert parameter.hidden or f"--{name}" in plain
        if path and path[0] != "summarize":
            assert f"\n.SS cca {' '.join(path)}" in plain
    for heading in ("NAME", "SYNOPSIS", "EXIT STATUS", "ENVIRONMENT", "FILES"):
        assert f"\n.SH {heading}\n" in page
    assert "\n.B 130 / 143\ninterrupted" in plain


def test_lines_that_look_like_requests_are_none(page: str) -> None:
    requests = {line.split()[0] for line in page.splitlines() if line.startswith((".", "'"))}
    assert requests <= {".TH", ".SH", ".SS", ".TP", ".PP", ".B", ".BR", ".nf", ".fi"}


@pytest.mark.skipif(not shutil.which("groff"), reason="groff is not installed")
def test_groff_has_no_complaint(page: str) -> None:
    done = subprocess.run(
        ["groff", "-man", "-ww", "-Tutf8"], input=page, capture_output=True, text=True, check=True
    )
    assert done.stderr == "" and "cca ask" in re.sub(".\x08", "", done.stdout)
