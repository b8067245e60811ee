"""Settings: the config file, variables, their precedence, and what `cca config` says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer.main

from cca_cli import app as program
from cca_cli.app import run
from cca_cli.settings import config_file, options_of, read_settings, variable_of

FAKE = "CCA_MODEL CCA_DEVICE CCA_PASSAGES CCA_QUIET CCA_JSON CCA_CACHE_DIR CCA_CONFIG CCA_LOG"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("CCA_HOME", str(home))
    for name in FAKE.split():
        # Set first, so that what a run sets is taken back, too.
        monkeypatch.setenv(name, "")
    return home


@pytest.fixture
def seen(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """What reaches `cca ask`, which then stops."""
    calls: list[dict[str, Any]] = []

    def stop(ctx: typer.Context) -> None:
        calls.append(dict(ctx.params))
        raise typer.Exit(0)

    command = typer.main.get_command(program.app).commands["ask"]  # type: ignore[attr-defined]
    monkeypatch.setattr(type(command), "invoke", lambda self, ctx: stop(ctx))
    return calls


def write(home: Path, text: str) -> Path:
    file = home / "config.toml"
    file.write_text(text, encoding="utf-8")
    return file


def settings(capsys: pytest.CaptureFixture[str], *args: str) -> dict[tuple[str, str], Any]:
    """Return what `cca config show` says, by command and option."""
    assert run(["config", "show", *args, "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)["settings"]
    return {(row["command"], row["option"]): (row["value"], row["origin"]) for row in rows}


def test_flag_beats_variable_beats_file_beats_default(
    home: Path, seen: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    call = ["ask", "a.pdf", "b?"]
    assert run(call) == 0 and seen[-1]["passages"] == 3
    write(home, "passages = 4\n")
    assert run(call) == 0 and seen[-1]["passages"] == 4
    write(home, "passages = 4\n[ask]\npassages = 5\n")
    assert run(call) == 0 and seen[-1]["passages"] == 5
    monkeypatch.setenv("CCA_PASSAGES", "6")
    assert run(call) == 0 and seen[-1]["passages"] == 6
    assert run([*call, "--passages", "7"]) == 0 and seen[-1]["passages"] == 7
    monkeypatch.setenv("CCA_PASSAGES", "")
    assert run(call) == 0 and seen[-1]["passages"] == 5


def test_values_of_all_kinds(home: Path, seen: list[dict[str, Any]]) -> None:
    write(
        home,
        'model = "~/llama"\nverbose = 2\ntemperature = 0.5\n'
        '[ask]\nquotes = false\nread = "lexical"\nmax_new_tokens = 9\n',
    )
    assert run(["ask", "a.pdf", "b?"]) == 0
    got = seen[-1]
    assert got["model"] == str(Path("~/llama").expanduser())
    assert (got["verbose"], got["temperature"], got["quotes"]) == (2, 0.5, False)
    assert (got["read"], got["max_new_tokens"]) == ("lexical", 9)


def test_origins(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(home, 'model = "m"\nlog = false\n[docs.ls]\nquiet = true\n[ask]\npassages = 2\n')
    monkeypatch.setenv("CCA_DEVICE", "cpu")
    found = settings(capsys)
    assert found["all", "model"] == ("m", f"{file} top")
    assert found["all", "device"] == ("cpu", "variable CCA_DEVICE")
    assert found["ask", "passages"] == (2, f"{file} [ask]")
    assert found["docs ls", "quiet"] == (True, f"{file} [docs.ls]")
    assert found["all", "log"] == ("0", f"{file} top")
    assert found["all", "dtype"] == ("auto", "default")
    assert ("ask", "top-p") not in found
    assert settings(capsys, "ask")["ask", "top-p"] == (1.0, "default")
    assert run(["config", "show", "--origin"]) == 0
    assert f"all\tmodel\tm\t{file} top" in capsys.readouterr().out.splitlines()
    assert run(["config", "show", "nonsense"]) == 2


def test_what_is_no_option_becomes_a_variable(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write(home, f'cache-dir = "{home}/elsewhere"\n')
    assert run(["models", "path"]) == 0
    assert capsys.readouterr().out.strip() == f"{home}/elsewhere/models"
    monkeypatch.setenv("CCA_CACHE_DIR", f"{home}/third")
    assert run(["models", "path"]) == 0
    assert capsys.readouterr().out.strip() == f"{home}/third/models"


@pytest.mark.parametrize(
    ("text", "says", "hint"),
    [
        ("modle = 'x'", "modle is no option of cca", "did you mean model?"),
        ("[aks]\nread = 'core'", "[aks] is no command of cca", "did you mean ask?"),
        ("[ask]\nforce = true", "force can only be given on the command line", "remove the line"),
        ("[docs]\nrm = 1", "rm is no option of cca docs", ""),
        ("model = ", "not valid TOML", "a line is"),
        ("a = " + "[" * 100_000, "not valid TOML", "a line is"),
        ("\udcff", "not valid TOML", "a line is"),
    ],
)
def test_a_bad_file_is_named(
    text: str, says: str, hint: str, home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = home / "config.toml"
    file.write_bytes(text.encode("utf-8", "surrogateescape"))
    assert run(["docs", "ls"]) == 2
    out, err = capsys.readouterr()
    first, second = err.splitlines()
    assert out == "" and first.startswith(f"cca: error: {file}: {says}")
    assert second.startswith(f"hint: {hint}")
    for args in (["--help"], ["docs", "ls", "-h"], ["--version"], ["config", "path"]):
        assert run(args) == 0
    assert str(file) in capsys.readouterr().out


def test_a_bad_value_names_its_source(
    home: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = write(home, "passages = 'many'")
    assert run(["ask", "a", "b"]) == 2
    assert capsys.readouterr().err.startswith(f"cca: error: {file}: Invalid value for '--passages'")
    monkeypatch.setenv("CCA_PASSAGES", "99")
    assert run(["ask", "a", "b"]) == 2
    assert capsys.readouterr().err.startswith("cca: error: CCA_PASSAGES: Invalid value")
    assert run(["ask", "a", "b", "--passages", "many"]) == 2
    assert capsys.readouterr().err.startswith("cca: error: Invalid value")


def test_a_form_that_was_typed_beats_one_in_the_file(
    home: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    write(home, "json = true")
    assert run(["docs", "ls"]) == 0
    assert json.loads(capsys.readouterr().out)["documents"] == []
    assert run(["docs", "ls", "--jsonl"]) == 0
    assert capsys.readouterr().out == ""
    assert run(["docs", "ls", "--json", "--jsonl"]) == 2


def test_where_the_file_is(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert config_file() == home / "config.toml"
    monkeypatch.setenv("CCA_CONFIG", str(tmp_path / "own.toml"))
    assert config_file() == tmp_path / "own.toml"
    assert run(["docs", "ls"]) == 2
    assert "CCA_CONFIG names it" in capsys.readouterr().err
    monkeypatch.setenv("CCA_CONFIG", "/dev/null")
    assert run(["docs", "ls"]) == 0
    monkeypatch.setenv("CCA_CONFIG", "")
    monkeypatch.setenv("CCA_HOME", "")
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    assert config_file().name == "config.toml" and config_file().parent.name == "cca"


def test_a_table_holds_for_the_other_spelling_of_a_command(home: Path) -> None:
    write(home, "[summarise]\nlength = 'long'\n")
    defaults = read_settings(typer.main.get_command(program.app)).defaults
    assert defaults["summarize"] == defaults["summarise"] == {"length": "long"}


def test_no_option_is_called_like_a_variable_that_means_something_else() -> None:
    names = {variable_of(name) for _, name, _ in options_of(typer.main.get_command(program.app))}
    assert not names & {"CCA_HOME", "CCA_CONFIG", "CCA_CACHE_DIR", "CCA_LIBRARY_SIZE"}
