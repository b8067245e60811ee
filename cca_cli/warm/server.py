"""The process that waits: `python -m cca_cli.warm.server SOCKET SECONDS`."""

from __future__ import annotations

import atexit
import contextlib
import gc
import os
import signal
import socket
import sys
import time
from pathlib import Path
from typing import Any, NoReturn

from cca_cli.errors import ExitCode
from cca_cli.interrupts import terminate_with_exit_code
from cca_cli.threads import crowded
from cca_cli.warm.meeting import fingerprint, receive_request, send

__all__ = ["main"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class _Server:
    """Listens, and forks a copy for every command.

    It stays single-threaded and never computes on more than one thread, since a fork takes no
    threads along and a pool that has lost its own hangs.

    Args:
        path: Of the socket.
        idle: Seconds without a command after which it ends.
    """

    def __init__(self, path: Path, idle: float) -> None:
        self._path, self._idle = path, idle
        self._fingerprint = fingerprint()
        self._models: dict[Any, Any] = {}
        self._since, self._ran = time.time(), 0
        self._children: set[int] = set()

    def listen(self) -> socket.socket:
        """Bind the socket; whoever held the name before has been asked and has gone."""
        with contextlib.suppress(FileNotFoundError):
            self._path.unlink()
        listening = socket.socket(socket.AF_UNIX)
        before = os.umask(0o177)
        try:
            listening.bind(str(self._path))
        finally:
            os.umask(before)
        listening.listen(16)
        return listening

    def load(self) -> None:
        """Import what commands import, and load the default model where a fork may share it."""
        import torch

        self._threads = torch.get_num_threads()
        torch.set_num_threads(1)
        import cca_cli.app
        import cca_cli.conversation
        import cca_cli.ingestion
        import cca_cli.questions  # noqa: F401
        import cca_models.engine
        import cca_models.generation
        import cca_models.reading.summarising  # noqa: F401

        if torch.version.cuda is None and getattr(torch.version, "hip", None) is None:
            # A GPU's state does not survive a fork.
            self._load_model()
        # What is alive now is never collected: pages that no collection touches stay shared.
        gc.collect()
        gc.freeze()

    def _load_model(self) -> None:
        from cca_cli.console import Console
        from cca_cli.model_loading import DEFAULT_MODEL, open_model
        from cca_models.errors import ModelError

        console = Console()
        console.quiet, console.models = True, self._models
        with contextlib.suppress(ModelError, OSError):
            open_model(console, os.environ.get("CCA_MODEL") or DEFAULT_MODEL, offline=True)

    def serve(self, listening: socket.socket) -> None:
        """Answer until told to stop, or until nobody has asked for long enough."""
        asked = time.monotonic()
        listening.settimeout(1.0)
        while True:
            self._reap()
            try:
                link, _ = listening.accept()
            except TimeoutError:
                if self._children:
                    asked = time.monotonic()
                if time.monotonic() - asked > self._idle or not self._path.exists():
                    return
                continue
            asked = time.monotonic()
            with link:
                link.settimeout(5.0)
                if not self._answer(link, listening):
                    return

    def _answer(self, link: socket.socket, listening: socket.socket) -> bool:
        """Answer one connection; gives whether to go on."""
        files: list[int] = []
        try:
            request, files = receive_request(link, 3)
            if not isinstance(request, dict):
                return True
            if "stop" in request:
                send(link, {"pid": os.getpid()})
                return False
            if "run" not in request:
                send(link, self._state())
                return True
            if request["fingerprint"] != self._fingerprint:
                # Another version, or other settings than it was started with.
                send(link, {"old": True})
                return fingerprint() == self._fingerprint
            if len(files) == 3:
                self._fork(link, listening, request, files)
            return True
        except (OSError, ValueError, KeyError):
            return True
        finally:
            for file in files:
                os.close(file)

    def _state(self) -> dict[str, Any]:
        return {
            "pid": os.getpid(),
            "since": self._since,
            "idle_s": self._idle,
            "commands": self._ran,
            "active": len(self._children),
            "model": next(iter(self._models), [None])[0],
        }

    def _fork(
        self, link: socket.socket, listening: socket.socket, request: Any, files: list[int]
    ) -> None:
        self._ran += 1
        # What comes before the copy knows what to do about it has to wait.
        signal.pthread_sigmask(signal.SIG_BLOCK, _SIGNALS)
        pid = os.fork()
        if pid:
            signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
            self._children.add(pid)
            return
        listening.close()
        link.settimeout(None)
        code = 1
        try:
            send(link, {"pid": os.getpid()})
            code = _become(request, files, self._models, self._threads)
        except KeyboardInterrupt:
            code = ExitCode.INTERRUPTED
        except SystemExit as stop:
            code = stop.code if isinstance(stop.code, int) else ExitCode.INTERNAL
        finally:
            # os._exit, since the stack below is the server's; so what a process does at its end
            # (temporary folders, logs) is done here.
            atexit._run_exitfuncs()
            with contextlib.suppress(OSError):
                send(link, {"code": code})
            os._exit(code)

    def _reap(self) -> None:
        for pid in list(self._children):
            if os.waitpid(pid, os.WNOHANG)[0]:
                self._children.discard(pid)


def _become(request: Any, files: list[int], models: dict[Any, Any], threads: int) -> int:
    """Be the command that was typed: its streams, folder, environment, arguments."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        stream = open(number, "r" if number == 0 else "w", closefd=False)  # noqa: SIM115
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)
    os.chdir(request["folder"])
    os.umask(request["umask"])
    os.environ.clear()
    os.environ.update(request["environment"])
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number in _SIGNALS:
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in request["ignored"]:
        signal.signal(number, signal.SIG_IGN)
    terminate_with_exit_code()
    import torch

    # How its threads wait was settled when the process began; how many they are was not.
    torch.set_num_threads(max(1, threads // 2) if crowded() else threads)
    from cca_cli.app import run_streams

    # Not before: an exception that a signal raises within an import may get lost there.
    signal.pthread_sigmask(signal.SIG_UNBLOCK, _SIGNALS)
    return run_streams(request["run"], models=models)


def main() -> NoReturn:
    """Load, listen, and end."""
    path, idle = Path(sys.argv[1]), float(sys.argv[2])
    server = _Server(path, idle)
    server.load()
    with server.listen() as listening:
        # Only now: who waits for the socket waits for the model, too.
        try:
            server.serve(listening)
        finally:
            with contextlib.suppress(OSError):
                path.unlink()
    # Commands that still run go on by themselves.
    os._exit(0)


if __name__ == "__main__":
    main()
