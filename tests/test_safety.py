"""Nothing from outside is run: no pickle, no code of a checkpoint, no shell, no network by reading.

The first half reads our own sources; the second hands real checkpoints with traps to the program.
"""

from __future__ import annotations

import ast
import json
import os
import pickle
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tiny_checkpoint import make_tiny_checkpoint

from cca_cli.app import run
from cca_models.checkpoints import resolve_checkpoint
from cca_models.documents import Document
from cca_models.engine import load_model
from cca_models.errors import ModelError, UnsupportedModelError
from cca_models.reading import Reader

ROOT = Path(__file__).parents[1]
SOURCES = [
    file
    for folder in ("cca_cli", "models/cca_models", "kernels/cca_kernels")
    for file in sorted((ROOT / folder).rglob("*.py"))
]
# Loading any of their formats can run what the file says.
RUN_WHAT_THEY_LOAD = {
    "cloudpickle", "dill", "joblib", "jsonpickle", "marshal", "pickle", "shelve", "yaml",
}  # fmt: skip
# Parsers of the standard library that expand entities without bounds.
EXPAND_ENTITIES = {"xml.etree", "xml.sax", "xml.dom", "xml.parsers"}


def calls(tree: ast.AST) -> Iterator[tuple[str, ast.Call]]:
    """Go through the calls of a source by dotted name."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call):
            yield ast.unparse(node.func), node


def said(call: ast.Call, name: str) -> str | None:
    """Return a keyword's value as it is written; None if it is not there."""
    found = [ast.unparse(word.value) for word in call.keywords if word.arg == name]
    return found[0] if found else None


def faults(source: str) -> list[str]:
    """Name what a source does that ours must not."""
    tree = ast.parse(source)
    found = []
    for node in ast.walk(tree):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
        found += [name for name in names if name.split(".")[0] in RUN_WHAT_THEY_LOAD]
        found += [name for name in names if ".".join(name.split(".")[:2]) in EXPAND_ENTITIES]
    for name, call in calls(tree):
        last = name.rpartition(".")[2]
        if name in ("eval", "exec", "compile", "__import__", "os.system", "os.popen"):
            found.append(f"{name}()")
        if name == "torch.load" and said(call, "weights_only") != "True":
            found.append("torch.load() without weights_only=True")
        if name in ("np.load", "numpy.load") and said(call, "allow_pickle") not in (None, "False"):
            found.append("np.load() with allow_pickle")
        if said(call, "trust_remote_code") not in (None, "False"):
            found.append("trust_remote_code")
        if said(call, "shell") not in (None, "False"):
            found.append(f"{name}(shell=...)")
        automatic = last == "from_pretrained" and name.startswith("AutoModel")
        if automatic and said(call, "use_safetensors") != "True":
            found.append("AutoModel.from_pretrained() without use_safetensors=True")
        if last in ("extractall", "extract") and "zip" in source:
            found.append(f"{name}() unpacks an archive on disk")
    return found


@pytest.mark.parametrize("file", SOURCES, ids=lambda file: file.stem)
def test_our_sources_run_nothing_they_load(file: Path) -> None:
    assert faults(file.read_text(encoding="utf-8")) == []


@pytest.mark.parametrize(
    "source",
    [
        "import pickle",
        "from yaml import load",
        "from xml.etree import ElementTree",
        "import xml.sax",
        "eval(text)",
        "torch.load(path)",
        "torch.load(path, weights_only=False)",
        "np.load(path, allow_pickle=True)",
        "load(x, trust_remote_code=flag)",
        "subprocess.run(line, shell=True)",
        "AutoModelForCausalLM.from_pretrained(path)",
        "import zipfile\nzipfile.ZipFile(p).extractall(q)",
    ],
)
def test_the_guard_sees(source: str) -> None:
    assert faults(source)


def test_the_guard_lets_pass() -> None:
    assert not faults(
        "import json\ntorch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\n"
        "re.compile(x)\nmodel.eval()\nAutoModelForCausalLM.from_pretrained(p, use_safetensors=True)"
    )


class Trap:
    """Unpickling it makes a file."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[object, ...]:
        return (os.mkdir, (str(self.mark),))


@pytest.fixture
def tiny(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("CCA_HOME", str(tmp_path / "home"))
    return make_tiny_checkpoint(tmp_path / "tiny")


def edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "consolidated.00.pth"])
def test_a_pickled_checkpoint_is_refused_unopened(
    name: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny / "model.safetensors").unlink()
    (tiny / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    document = tmp_path / "x.txt"
    document.write_text("The nephew inherits the estate.")
    assert run(["ask", str(document), "Who?", "-m", str(tiny)]) == 6
    first, second = capsys.readouterr().err.splitlines()[-2:]
    assert f"only there as {name}, which may run code" in first and second.startswith("hint: ")
    assert not (tmp_path / "ran").exists()


def test_pickles_beside_safetensors_are_never_opened(tiny: Path, tmp_path: Path) -> None:
    for name in ("pytorch_model.bin", "training_args.bin", "optimizer.pt", "rng_state.pth"):
        (tiny / name).write_bytes(pickle.dumps(Trap(tmp_path / "ran")))
    code = (
        "import sys\n"
        "from cca_models import load_model, resolve_checkpoint\n"
        "opened = []\n"
        "sys.addaudithook(lambda event, args: opened.append(str(args[0])) if event == 'open'"
        " else None)\n"
        f"model = load_model(resolve_checkpoint({str(tiny)!r}), device='cpu')\n"
        "bad = [name for name in opened if name.endswith(('.bin', '.pt', '.pth'))]\n"
        f"assert not [name for name in bad if name.startswith({str(tiny)!r})], bad\n"
        "assert any(name.endswith('config.json') for name in opened)\n"
    )
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    env = {**os.environ, "PYTHONPATH": path}
    subprocess.run([sys.executable, "-c", code], check=True, env=env, timeout=120)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize(
    ("auto_map", "named"),
    [
        ({"AutoModelForCausalLM": "modeling_evil.Evil"}, "modeling_evil.Evil"),
        ({"AutoModel": ["a.B", None]}, "a.B"),
        ("owner/repository--modeling.Evil", "owner/repository--modeling.Evil"),
    ],
)
def test_a_checkpoint_with_code_of_its_own_is_refused(
    auto_map: object, named: str, tiny: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tiny / "modeling_evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    edit(tiny / "config.json", auto_map=auto_map)
    with pytest.raises(UnsupportedModelError, match="Python code of its own") as caught:
        resolve_checkpoint(str(tiny))
    assert named in str(caught.value) and "trust_remote_code" in caught.value.hint
    assert run(["models", "show", str(tiny)]) == 6
    assert "which cca never does" in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


def test_code_of_a_tokenizer_is_not_run(tiny: Path, tmp_path: Path) -> None:
    """The tokenizer is tokenizer.json alone, so what its settings name is never asked for."""
    (tiny / "tokenization_evil.py").write_text(f"import os; os.mkdir({str(tmp_path / 'ran')!r})")
    edit(
        tiny / "tokenizer_config.json",
        auto_map={"AutoTokenizer": ["tokenization_evil.Evil", None]},
        tokenizer_class="Evil",
    )
    assert load_model(resolve_checkpoint(str(tiny)), device="cpu").tokenizer.encode("the estate")
    assert not (tmp_path / "ran").exists()


def test_a_chat_template_runs_in_a_sandbox(tiny: Path, tmp_path: Path) -> None:
    mark = tmp_path / "ran"
    trap = "{{ cycler.__init__.__globals__.os.mkdir('%s') }}"
    edit(tiny / "tokenizer_config.json", chat_template=trap % mark)
    model = load_model(resolve_checkpoint(str(tiny)), device="cpu")
    notes = Document.of_texts(["The nephew inherits the estate."])
    with pytest.raises(ModelError, match="template"):
        list(Reader(model, notes).ask("Who?", read="lexical"))
    assert not mark.exists()
