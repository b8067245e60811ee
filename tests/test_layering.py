"""Imports go one way, and the light commands stay light."""

from __future__ import annotations

import ast
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "cca_cli": ROOT / "cca_cli",
    "cca_models": ROOT / "models/cca_models",
    "cca_kernels": ROOT / "kernels/cca_kernels",
}
MAY_IMPORT = {
    "cca_cli": {"cca_cli", "cca_models", "cca_kernels"},
    "cca_models": {"cca_models", "cca_kernels"},
    "cca_kernels": {"cca_kernels"},
}
HEAVY = (
    "torch", "transformers", "triton", "rich", "pypdf", "pypdfium2", "numpy", "tiktoken",
    "tokenizers", "bm25s", "safetensors", "filelock", "matplotlib",
)  # fmt: skip
FILES = [
    (package, file) for package, root in PACKAGES.items() for file in sorted(root.rglob("*.py"))
]


def imports_of(file: Path) -> Iterator[str]:
    """Go through the modules that a file imports anywhere."""
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            module = node.module or ""
            yield module
            yield from (f"{module}.{alias.name}" for alias in node.names)


@pytest.mark.parametrize(
    ("package", "file"), FILES, ids=lambda value: getattr(value, "name", value)
)
def test_imports_go_one_way(package: str, file: Path) -> None:
    ours = {name.split(".")[0] for name in imports_of(file)} & set(PACKAGES)
    assert ours <= MAY_IMPORT[package]


@pytest.mark.parametrize(
    ("package", "file"), FILES, ids=lambda value: getattr(value, "name", value)
)
def test_nobody_imports_click(package: str, file: Path) -> None:
    names = {name.split(".")[0] for name in imports_of(file)}
    assert "click" not in names
    if "typer" in names:
        assert package == "cca_cli"


def test_commands_do_not_import_each_other() -> None:
    for file in (ROOT / "cca_cli/commands").glob("*.py"):
        assert not [name for name in imports_of(file) if name.startswith("cca_cli.commands")]


def test_documents_know_no_typer() -> None:
    for file in (ROOT / "cca_cli/documents").rglob("*.py"):
        assert "typer" not in {name.split(".")[0] for name in imports_of(file)}


def test_plain_folders_hold_no_package() -> None:
    assert not (ROOT / "models/__init__.py").exists()
    assert not (ROOT / "kernels/__init__.py").exists()


def modules_after(code: str) -> set[str]:
    """Return the top-level names in sys.modules after some code in a fresh process."""
    script = f"{code}\nimport sys; sys.stderr.write(' '.join(m.split('.')[0] for m in sys.modules))"
    done = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    return set(done.stderr.split())


def environment() -> dict[str, str]:
    """Return the environment of a child that finds the packages."""
    path = os.pathsep.join(str(ROOT / part) for part in (".", "models", "kernels"))
    return {**os.environ, "PYTHONPATH": path}


@pytest.mark.parametrize(
    "code",
    [
        "from cca_cli.app import run; assert run(['--help']) == 0",
        "from cca_cli.app import run; assert run(['ask', '--help']) == 0",
        "from cca_cli.app import run; assert run(['--version']) == 0",
        "import cca_cli.app, cca_cli.errors, cca_cli.console",
    ],
)
def test_light_commands_import_nothing_heavy(code: str) -> None:
    assert not modules_after(code) & set(HEAVY)


def test_listing_the_library_imports_no_torch(tmp_path: Path) -> None:
    code = (
        f"import os; os.environ['CCA_HOME'] = {str(tmp_path)!r}\n"
        "from cca_cli.app import run; assert run(['docs', 'ls', '-q']) == 0"
    )
    assert not modules_after(code) & {"torch", "transformers", "numpy", "rich"}


@pytest.mark.parametrize(
    "module", ["cca_models", "cca_models.documents", "cca_models.errors", "cca_kernels"]
)
def test_packages_import_no_torch(module: str) -> None:
    assert not modules_after(f"import {module}") & {"torch", "transformers", "triton"}


def test_help_is_quick() -> None:
    """Processor seconds: on an idle machine they are the wall's, and neighbours do not count."""
    times = []
    for _ in range(5):
        before = os.times()
        subprocess.run(
            [sys.executable, "-m", "cca_cli", "--help"],
            stdout=subprocess.DEVNULL,
            env=environment(),
            check=True,
        )
        after = os.times()
        user = after.children_user - before.children_user
        times.append(user + after.children_system - before.children_system)
    assert statistics.median(times) < 0.3
