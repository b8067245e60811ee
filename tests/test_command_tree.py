"""A command line builds only the commands that it needs, and nobody sees a difference."""

from __future__ import annotations

from typing import Any

import pytest

from cca_cli.app import app, run
from cca_cli.command_tree import command_tree, whole_tree

WHOLE = whole_tree(app)


def text(command: Any, *names: str) -> str:
    """Return the help of a command."""
    context = command.make_context("cca", [], resilient_parsing=True, terminal_width=96)
    for name in names:
        command = command.commands[name]
        context = command.make_context(
            name, [], parent=context, resilient_parsing=True, terminal_width=96
        )
    return str(command.get_help(context))


@pytest.mark.parametrize("args", [[], ["--help"], ["-q", "-h"], ["--color", "never"]])
def test_the_list_of_commands_is_that_of_the_whole(args: list[str]) -> None:
    tree = command_tree(app, args)
    assert text(tree) == text(WHOLE)
    assert all(len(child.params) <= 1 for child in tree.commands.values())


def names(command: Any, *before: str) -> list[tuple[str, ...]]:
    """Return the names of all commands below one."""
    found = []
    for name, child in getattr(command, "commands", {}).items():
        found += [(*before, name), *names(child, *before, name)]
    return found


@pytest.mark.parametrize("path", names(WHOLE), ids=" ".join)
def test_every_command_is_built_as_in_the_whole(path: tuple[str, ...]) -> None:
    tree = command_tree(app, ["--color", "never", "-v", *path, "--help"])
    assert text(tree, *path) == text(WHOLE, *path)
    assert len(tree.commands) == 1 or path[0] == "config"


def test_what_cannot_be_told_is_built_whole(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    everything = set(WHOLE.commands)
    assert set(command_tree(app, ["sumarise", "x"]).commands) == everything
    assert set(command_tree(app, ["config", "show"]).commands) == everything
    monkeypatch.setenv("_CCA_COMPLETE", "complete_bash")
    assert set(command_tree(app, ["ask"]).commands) == everything
    monkeypatch.delenv("_CCA_COMPLETE")
    assert run(["sumarise", "x"]) == 2
    assert "summarise" in capsys.readouterr().err
