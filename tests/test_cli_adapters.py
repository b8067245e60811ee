"""--adapter on the command line: what is applied, warned of and refused, with the real engine."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from tiny_adapter import cca_settings, write_adapter
from tiny_checkpoint import make_tiny_checkpoint

from cca_cli.app import run

Cca = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A random LLaMA with a context of 4,096 tokens."""
    return make_tiny_checkpoint(tmp_path_factory.mktemp("models") / "tiny", context=4096)


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Start with nothing kept and nothing set."""
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    for name in ("CCA_CACHE_DIR", "CCA_ADAPTER", "CCA_MODEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def adapter(tmp_path: Path, checkpoint: Path) -> Path:
    rope = {"rule": "fixed-base", "theta": 5e4, "max_tokens": 60_000, "trained_tokens": 500}
    settings = cca_settings(checkpoint, group_size=8, window=64, rope=rope)
    return write_adapter(tmp_path / "mine", checkpoint, settings=settings)


@pytest.fixture
def book(tmp_path: Path) -> Path:
    """A text of more tokens than the adapter was trained on."""
    book = tmp_path / "book.txt"
    book.write_text("\n".join(f"{i} The nephew inherits the estate." for i in range(100)))
    return book


@pytest.fixture
def cca(checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> Cca:
    """Run a command line with the tiny model."""

    def call(*args: str | Path) -> tuple[int, str, str]:
        code = run([*map(str, args), "-m", str(checkpoint)])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_an_adapter_is_applied_and_named(cca: Cca, adapter: Path, book: Path) -> None:
    code, out, err = cca("ingest", book, "--adapter", adapter, "--json")
    (record,) = json.loads(out)["documents"]
    assert code == 0 and record["model"]["adapter"] == "mine"
    assert len(record["warnings"]) == 1 and "more than the 500" in record["warnings"][0]
    assert err.count("warning:") == 1
    # The library keeps both apart, and says why one does not serve.
    _, out, _ = cca("ingest", book, "--group-size", "8", "--window", "64", "--json")
    reason = json.loads(out)["documents"][0]["cache"]["reason"]
    assert reason == "read with adapter mine, not with no adapter"
    _, out, _ = cca("ingest", book, "--json")
    (plain,) = json.loads(out)["documents"]
    assert plain["model"]["adapter"] is None and plain["warnings"] == []
    _, out, _ = cca("ingest", book, "--adapter", adapter, "--json")
    (again,) = json.loads(out)["documents"]
    assert again["cache"]["hit"] and again["cache"]["entry"] == record["cache"]["entry"]
    assert len(again["warnings"]) == 1


def test_a_short_text_is_not_warned_of(cca: Cca, adapter: Path, tmp_path: Path) -> None:
    (tmp_path / "note.txt").write_text("The lamp was lit.")
    code, out, err = cca("ask", tmp_path / "note.txt", "Was it?", "--adapter", adapter, "--json",
                         "--max-new-tokens", "3")  # fmt: skip
    answer = json.loads(out)
    assert code == 0 and (answer["model"]["adapted"], answer["model"]["adapter"]) == (True, "mine")
    assert "trained" not in err and not any("trained" in text for text in answer["warnings"])


def test_asking_warns_once(cca: Cca, adapter: Path, book: Path) -> None:
    code, out, err = cca("ask", book, "Who inherits?", "-Q", "Who else?", "--adapter", adapter,
                         "--jsonl", "--max-new-tokens", "3")  # fmt: skip
    assert code == 0 and err.count("more than the 500") == 1
    for line in out.splitlines():
        assert sum("more than the 500" in text for text in json.loads(line)["warnings"]) == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ((), None),
        (("--group-size", "8"), None),
        (("--group-size", "4"), "group size 4 and window 64 are not what adapter mine"),
        (("--window", "128"), "group size 8 and window 128 are not what adapter mine"),
    ],
)
def test_other_settings_than_trained_with_are_warned_of(
    cca: Cca, adapter: Path, tmp_path: Path, options: tuple[str, ...], says: str | None
) -> None:
    (tmp_path / "note.txt").write_text("The lamp was lit.")
    code, out, _ = cca("count", tmp_path / "note.txt", "--adapter", adapter, "--json", *options)
    facts = json.loads(out)
    assert code == 0 and facts["limit"] == 60_000 and facts["adapter"] == "mine"
    assert (facts["warnings"] == []) if says is None else (says in facts["warnings"][0])


def test_a_window_smaller_than_the_adapters_groups(cca: Cca, adapter: Path, book: Path) -> None:
    code, _, err = cca("count", book, "--adapter", adapter, "--window", "4")
    assert code == 2 and "--window 4 is smaller than --group-size 8" in err


def test_a_plain_adapter_is_warned_of(
    cca: Cca, checkpoint: Path, tmp_path: Path, book: Path
) -> None:
    plain = write_adapter(tmp_path / "plain", checkpoint)
    code, out, _ = cca("count", book, "--adapter", plain, "--json")
    facts = json.loads(out)
    assert code == 0 and facts["limit"] == 64 * 4096
    assert len(facts["warnings"]) == 1 and "has no cca.json" in facts["warnings"][0]


def test_the_variable_is_the_options_default(
    cca: Cca, adapter: Path, book: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CCA_ADAPTER", str(adapter))
    assert json.loads(cca("count", book, "--json")[1])["adapter"] == "mine"
    assert json.loads(cca("count", book, "--json", "--adapter", "none")[1])["adapter"] is None


def test_adapters_that_cannot_be_used_are_two_lines(
    cca: Cca, adapter: Path, book: Path, tmp_path: Path
) -> None:
    code, out, err = cca("ask", book, "Who?", "--adapter", tmp_path / "absent")
    assert (code, out) == (6, "")
    first, second = err.splitlines()
    assert first.startswith("cca: error: ") and "no such adapter folder" in first
    assert second.startswith("hint: ")
    content = json.loads((adapter / "cca.json").read_text())
    content["base"]["weights_sha256"] = "0" * 64
    (adapter / "cca.json").write_text(json.dumps(content))
    code, _, err = cca("ask", book, "Who?", "--adapter", adapter)
    assert code == 6 and len(err.splitlines()) == 2 and "other weights of tiny" in err


def test_show(adapter: Path, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["models", "show", str(checkpoint), "--adapter", str(adapter), "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert (facts["name"], facts["group_size"], facts["window"]) == ("tiny", 8, 64)
    assert facts["adapter"]["name"] == "mine" and facts["adapter"]["trained_tokens"] == 500
    assert facts["adapter"]["rope"] == "fixed-base" and len(facts["adapter"]["digest"]) == 64
    assert run(["models", "show", str(checkpoint), "--adapter", str(adapter)]) == 0
    out = capsys.readouterr().out
    assert "adapter\tmine\n" in out and "adapter trained tokens\t500\n" in out
    assert run(["models", "show", str(checkpoint)]) == 0
    assert "adapter\tnone\n" in capsys.readouterr().out
