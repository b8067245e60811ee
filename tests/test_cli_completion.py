"""Completion by the shell: quick, safe to paste, silent when something is wrong."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from cca_cli import completion
from cca_cli.completion import complete_adapters, complete_documents, complete_models

ROOT = Path(__file__).parents[1]


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def shelve(monkeypatch: pytest.MonkeyPatch, *paths: str) -> None:
    """Make the library list these."""
    rows = [(os.path.basename(path), path, f"{i:012x}") for i, path in enumerate(paths)]
    monkeypatch.setattr(completion, "_documents", lambda: iter(rows))


def test_documents_by_name_path_or_key(monkeypatch: pytest.MonkeyPatch) -> None:
    shelve(monkeypatch, "/shelf/book.pdf", "/shelf/bericht-ä.md", "/old/My Book.pdf", "/x/zoo.txt")
    offered = dict(complete_documents("b"))
    assert offered == {"book.pdf": "/shelf/book.pdf", "bericht-ä.md": "/shelf/bericht-ä.md"}
    assert [name for name, _ in complete_documents("/shelf/bo")] == ["/shelf/book.pdf"]
    # A blank would end the word: the key stands for the name.
    assert dict(complete_documents(""))["000000000002"] == "My Book.pdf"


@pytest.mark.parametrize(
    "name",
    ["$(touch x).pdf", "`touch x`.pdf", "a'b.pdf", 'a"b.pdf', "a;b", "a\nb", "*", "a\\b", "\x1b]x"],
)
def test_nothing_that_a_shell_would_run(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shelve(monkeypatch, f"/shelf/{name}")
    for offered, told in [*complete_documents(""), *complete_documents("/")]:
        assert not set("$`'\";\n*\\\x1b") & set(offered + told)
    assert [offered for offered, _ in complete_documents("")] == ["000000000000"]


def test_models_and_adapters(home: Path) -> None:
    assert complete_models("") == ["smollm2-135m-instruct"]
    for name in ("owner--tiny", "bad name"):
        (home / "cache/models" / name).mkdir(parents=True)
    assert complete_models("o") == ["owner/tiny"]
    assert complete_models("b") == []
    assert [word for word, _ in complete_adapters("n")] == ["none"]


def test_a_broken_library_offers_nothing(home: Path) -> None:
    (home / "cache").mkdir(parents=True)
    (home / "cache/library").write_text("not a directory")
    assert complete_documents("") == []


def offered(words: str, shell: str = "bash", **env: str) -> subprocess.CompletedProcess[str]:
    """Ask the program as a shell does."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    script = (
        "import sys; sys.argv = ['cca']\n"
        "from cca_cli.app import main\n"
        "try: main()\n"
        "finally:\n"
        " heavy = {'torch', 'transformers', 'numpy', 'rich', 'pypdf', 'tokenizers'}\n"
        " assert not heavy & {m.split('.')[0] for m in sys.modules}\n"
    )
    return subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        env={
            **os.environ,
            "PYTHONPATH": path,
            "_CCA_COMPLETE": f"complete_{shell}",
            "COMP_WORDS": words,
            "COMP_CWORD": str(len(words.split(" ")) - 1),
            "_TYPER_COMPLETE_ARGS": words,
            **env,
        },
    )


@pytest.mark.parametrize("words", ["cca ask x --model ", "cca models show "])
def test_a_shell_is_told(words: str) -> None:
    done = offered(words)
    assert (done.returncode, done.stdout.split(), done.stderr) == (
        0,
        ["smollm2-135m-instruct"],
        "",
    )


def test_a_broken_config_file_does_not_show(home: Path) -> None:
    home.mkdir()
    (home / "config.toml").write_text("not toml")
    done = offered("cca con")
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["config"], "")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_scripts_to_install(shell: str) -> None:
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    done = subprocess.run(
        [sys.executable, "-m", "cca_cli", "--show-completion", shell],
        capture_output=True,
        text=True,
        # Else the shell that the tests were started from is meant, if there is one.
        env={**os.environ, "PYTHONPATH": path, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"},
        check=False,
    )
    assert done.returncode == 0 and "_CCA_COMPLETE" in done.stdout, json.dumps(done.stderr)
