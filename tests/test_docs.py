"""The pages under docs/ say what the program says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]


def test_cli_page_is_what_the_app_says(monkeypatch: pytest.MonkeyPatch) -> None:
    from cca_cli.cli_docs import cli_reference

    # What a developer has set must not get into the page.
    for name in ("CCA_MODEL", "CCA_ADAPTER", "CCA_DEVICE", "COLUMNS", "TERMINAL_WIDTH"):
        monkeypatch.delenv(name, raising=False)
    page = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert page == cli_reference(), "run: python -m cca_cli.cli_docs > docs/cli.md"


def test_every_command_has_examples_and_one_line() -> None:
    from cca_cli.cli_docs import cli_reference

    sections = re.split(r"^## (cca.*)$", cli_reference(), flags=re.M)[1:]
    for name, body in zip(sections[::2], sections[1::2], strict=True):
        if "COMMAND [ARGS]" in body:
            continue
        assert "Examples:" in body, name
        assert body.split("Examples:")[1].count(f"  {name}") + body.count("| ") >= 1, name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    if not page.exists():
        pytest.skip(f"{page.name} is not written yet")
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)#\s]+)", text):
        if "://" not in target and not target.startswith("mailto:"):
            assert (page.parent / target).exists(), target


def test_defaults_are_those_of_the_models_package() -> None:
    from cca_cli import model_loading
    from cca_models.config import CCAConfig
    from cca_models.default_model import DEFAULT_MODEL

    assert model_loading.DEFAULT_MODEL == DEFAULT_MODEL
    assert CCAConfig().group_size == model_loading.DEFAULT_GROUP_SIZE
    assert CCAConfig().window == model_loading.DEFAULT_WINDOW


@pytest.mark.parametrize("group", [None, "config", "docs", "log", "models", "warm"])
def test_no_line_of_a_list_of_commands_is_cut_short(
    group: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from cca_cli.app import run

    monkeypatch.setenv("COLUMNS", "80")
    assert run([group, "--help"] if group else ["--help"]) == 0
    commands = capsys.readouterr().out.split("\nCommands:\n")[1].split("\n\n")[0]
    assert [line for line in commands.splitlines() if line.endswith("...")] == []
