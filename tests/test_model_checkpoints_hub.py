"""Checkpoints from the hub, with the hub's client replaced."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from tiny_checkpoint import make_tiny_checkpoint

from cca_models import hub
from cca_models.checkpoints import list_checkpoints, resolve_checkpoint
from cca_models.errors import CheckpointError, DownloadError, UnsupportedModelError
from cca_models.paths import models_dir

huggingface_hub = pytest.importorskip("huggingface_hub")


class FakeHub:
    """Serves one directory as owner/name; fails first if it is given an error."""

    def __init__(self, source: Path) -> None:
        self.source = source
        self.error: Exception | None = None
        self.downloads = 0
        self.shared: Path | None = None

    def model_info(self, name: str, **_: Any) -> Any:
        if self.error:
            raise self.error
        files = [SimpleNamespace(rfilename=f.name, size=f.stat().st_size)
                 for f in self.source.iterdir()]  # fmt: skip
        return SimpleNamespace(sha="abc", siblings=files)

    def hf_hub_download(self, name: str, file: str, *, local_dir: Path, **_: Any) -> str:
        return str(shutil.copy(self.source / file, local_dir / file))

    def snapshot_download(
        self, name: str, *, local_files_only: bool = False, **options: Any
    ) -> str:
        if local_files_only:
            if self.shared is None:
                raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
            return str(self.shared)
        self.downloads += 1
        assert options["revision"] == "abc"
        target: Path = options["local_dir"]
        (target / ".cache").mkdir(exist_ok=True)
        for file in self.source.iterdir():
            shutil.copy(file, target / file.name)
        return str(target)


@pytest.fixture
def fake(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    monkeypatch.setenv("CCA_CACHE_DIR", str(tmp_path / "cache"))
    for name in ("CCA_OFFLINE", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    made = FakeHub(make_tiny_checkpoint(tmp_path / "source"))
    monkeypatch.setattr(huggingface_hub, "HfApi", lambda: made)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", made.snapshot_download)
    monkeypatch.setattr(huggingface_hub, "hf_hub_download", made.hf_hub_download)
    monkeypatch.setattr(hub, "_POLL_SECONDS", 0.01)
    return made


def test_download_happens_once_and_is_listed(fake: FakeHub) -> None:
    checkpoint = resolve_checkpoint("owner/name")
    assert checkpoint.name == "owner/name"
    assert checkpoint.path == models_dir() / "owner--name"
    assert {file.name for file in checkpoint.path.iterdir()} == {
        file.name for file in fake.source.iterdir()
    }
    assert [found.name for found in list_checkpoints()] == ["owner/name"]
    assert resolve_checkpoint("owner/name", offline=True) == checkpoint
    assert fake.downloads == 1


def test_whole_copy_in_the_shared_cache_is_used(fake: FakeHub) -> None:
    fake.shared = fake.source
    assert resolve_checkpoint("owner/name", offline=True).path == fake.source
    assert fake.downloads == 0
    (fake.source / "model.safetensors").rename(fake.source / "x.safetensors")
    with pytest.raises(DownloadError, match="offline"):
        resolve_checkpoint("owner/name", offline=True)


def test_interrupted_download_is_gone_on_with(
    fake: FakeHub, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(name: str, *, local_files_only: bool = False, **options: Any) -> str:
        if local_files_only:
            raise huggingface_hub.errors.LocalEntryNotFoundError("not here")
        (options["local_dir"] / "part.incomplete").write_bytes(b"half")
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(huggingface_hub, "snapshot_download", stop)
        with pytest.raises(KeyboardInterrupt):
            resolve_checkpoint("owner/name")
    assert list_checkpoints() == []
    assert (models_dir() / ".partial-owner--name" / "part.incomplete").exists()
    assert resolve_checkpoint("owner/name").path.is_dir()


def refusal(kind: type[Exception]) -> Exception:
    error = kind.__new__(kind)
    Exception.__init__(error, "cause\nand more")
    return error


@pytest.mark.parametrize(
    ("raised", "error", "says"),
    [
        ("RepositoryNotFoundError", CheckpointError, "neither a directory here nor a model"),
        ("GatedRepoError", CheckpointError, "accepted its terms"),
        ("HfHubHTTPError", DownloadError, "cannot download owner/name from the hub: cause$"),
    ],
)
def test_refusals_of_the_hub_are_told_apart(
    fake: FakeHub, raised: str, error: type[Exception], says: str
) -> None:
    fake.error = refusal(getattr(huggingface_hub.errors, raised))
    with pytest.raises(error, match=says) as caught:
        resolve_checkpoint("owner/name")
    assert type(caught.value) is error
    assert getattr(caught.value, "hint", "")


def test_network_and_disk_are_told_apart(fake: FakeHub) -> None:
    for fake.error in (OSError("no route"), ConnectionError("no route"), OSError(-2, "no route")):
        with pytest.raises(DownloadError, match="no route"):
            resolve_checkpoint("owner/name")
    fake.error = OSError(28, "No space left on device", "model.safetensors")
    with pytest.raises(OSError) as caught:
        resolve_checkpoint("owner/name")
    assert caught.value.errno == 28


def test_model_without_safetensors_or_not_a_llama_is_refused(fake: FakeHub) -> None:
    config = (fake.source / "config.json").read_text()
    (fake.source / "config.json").write_text(config.replace('"llama"', '"bert"'))
    with pytest.raises(UnsupportedModelError, match=r"^owner/name: .*'bert'"):
        resolve_checkpoint("owner/name")
    assert fake.downloads == 0
    (fake.source / "model.safetensors").rename(fake.source / "pytorch_model.bin")
    with pytest.raises(CheckpointError, match="no safetensors"):
        resolve_checkpoint("owner/other")
    (fake.source / "tokenizer.json").unlink()
    with pytest.raises(CheckpointError, match=r"no tokenizer\.json"):
        resolve_checkpoint("owner/other")
