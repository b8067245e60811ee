"""Where the two processes meet, what they must have in common, and how they write to each other."""

from __future__ import annotations

import hashlib
import json
import os
import socket
import stat
import struct
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cca_cli import __version__
from cca_cli.paths import cache_dir
from cca_cli.threads import SPIN

__all__ = ["IDLE", "connect", "fingerprint", "receive", "receive_request", "send", "socket_path"]

# Seconds without a command after which the process ends.
IDLE = 1800
_PACKAGES = ("cca_cli", "models/cca_models", "kernels/cca_kernels")
# Read when a library is imported: they cannot be changed afterwards.
_IMPORT_TIME = ("OMP_", "MKL_", "KMP_", "GOMP_", "PYTHON", "TORCH", "TRITON_", "CUDA_", "LD_")
_LENGTH = struct.Struct("!I")
_MOST = 8 << 20


def socket_path() -> Path:
    """Return the socket of this user, this cache and this installation.

    A socket's name has room for a hundred characters only, so it lies in the folder for such
    things, under a hash.

    Raises:
        OSError: If the folder cannot be made, or others could write in it.
    """
    base = os.environ.get("XDG_RUNTIME_DIR") or tempfile.gettempdir()
    folder = Path(base) / f"cca-{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    found = os.stat(folder, follow_symlinks=False)
    if found.st_uid != os.getuid() or not stat.S_ISDIR(found.st_mode) or found.st_mode & 0o077:
        raise PermissionError(f"{folder} is not a folder of this user alone")
    about = "\0".join((str(cache_dir()), sys.executable, str(Path(__file__).parent)))
    return folder / f"{hashlib.sha256(about.encode()).hexdigest()[:24]}.sock"


def fingerprint() -> str:
    """Name the code and all that was read when it was imported; a warm process of another is old.

    The newest change of any of our modules counts, so that who works on them is not fooled.
    """
    root = Path(__file__).parents[2]
    newest = 0
    for package in _PACKAGES:
        for folder, _, files in os.walk(root / package):
            for name in files:
                if name.endswith(".py"):
                    newest = max(newest, os.stat(os.path.join(folder, name)).st_mtime_ns)
    fixed = sorted(
        (name, value)
        for name, value in os.environ.items()
        if name.startswith(_IMPORT_TIME) and name != SPIN
    )
    about = json.dumps((__version__, newest, fixed))
    return hashlib.sha256(about.encode()).hexdigest()


def connect(path: Path) -> socket.socket | None:
    """Connect to the process that listens; None if there is none."""
    link = socket.socket(socket.AF_UNIX)
    try:
        link.connect(str(path))
    except OSError:
        link.close()
        return None
    return link


def send(link: socket.socket, message: Any, files: Sequence[int] = ()) -> None:
    """Write a message, with open files."""
    content = json.dumps(message).encode("utf-8", "surrogateescape")
    content = _LENGTH.pack(len(content)) + content
    sent = socket.send_fds(link, [content], list(files)) if files else 0
    link.sendall(content[sent:])


def receive(link: socket.socket) -> Any:
    """Read a message; None if the other side has gone."""
    return receive_request(link, 0)[0]


def receive_request(link: socket.socket, files: int) -> tuple[Any, list[int]]:
    """Read a message with up to so many open files; None if the other side has gone."""
    content = b""
    opened: list[int] = []
    if files:
        content, opened, _, _ = socket.recv_fds(link, 1 << 16, files)
    while len(content) < _LENGTH.size:
        piece = link.recv(1 << 16)
        if not piece:
            return None, opened
        content += piece
    (length,) = _LENGTH.unpack_from(content)
    while len(content) < _LENGTH.size + min(length, _MOST):
        piece = link.recv(1 << 16)
        if not piece:
            return None, opened
        content += piece
    return json.loads(content[_LENGTH.size :]), opened
