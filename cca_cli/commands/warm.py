"""``cca warm``: keep a process ready, so that questions need not wait for libraries to load."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any

import typer

from cca_cli.console import Console
from cca_cli.errors import CLIError, ExitCode, UsageError
from cca_cli.options import DebugOpt, JsonOpt, QuietOpt, VerboseOpt

if TYPE_CHECKING:
    from pathlib import Path

app = typer.Typer(
    help="Keep a process ready in which ask and others start at once.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

# Importing and loading take a few seconds; on a loaded machine many more.
_WAIT = 120.0


@app.command("start")
def start(
    ctx: typer.Context,
    minutes: Annotated[
        float, typer.Option("--for", min=0.01, help="End after so many minutes without a command.")
    ] = 30.0,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Start the process that has loaded everything already.

    `cca ask`, `ingest` and `summarise` then run in copies of it. It holds the libraries and, on a
    CPU, the default model (CCA_MODEL), and computes nothing until it is asked. It listens on a
    socket that only you can open. CCA_WARM=off passes it by.

    \b
    Examples:
      cca warm start --for 60
      cca warm stop
    """
    console = Console.of(ctx)
    path = _path()
    state = _ask(path, {"state": True})
    if state is None:
        state = _start(console, path, 60 * minutes)
    _show(console, state)


@app.command("status")
def status(
    ctx: typer.Context,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """Say whether such a process is there, and what it has done.

    \b
    Examples:
      cca warm status --json | jq .commands
    """
    console = Console.of(ctx)
    _show(console, _ask(_path(), {"state": True}))


@app.command("stop")
def stop(
    ctx: typer.Context,
    json: JsonOpt = False,
    quiet: QuietOpt = False,
    verbose: VerboseOpt = 0,
    debug: DebugOpt = False,
) -> None:
    """End it; commands that it runs are finished.

    \b
    Examples:
      cca warm stop
    """
    console = Console.of(ctx)
    stopped = _ask(_path(), {"stop": True})
    if console.human:
        console.write("ended\n" if stopped else "not running\n")
    else:
        console.json({"stopped": stopped is not None})


def _path() -> Path:
    import os

    if not hasattr(os, "fork"):
        raise UsageError("cca warm needs a system that can fork", hint="Linux or macOS")
    from cca_cli.warm.meeting import socket_path

    try:
        return socket_path()
    except OSError as error:
        raise CLIError(
            f"no place for a socket: {error.strerror or error}",
            hint="XDG_RUNTIME_DIR names a folder of yours",
            code=ExitCode.RESOURCES,
        ) from error


def _ask(path: Path, message: dict[str, Any]) -> dict[str, Any] | None:
    """Send a message to the process; None if there is none."""
    from cca_cli.warm.meeting import connect, receive, send

    link = connect(path)
    if link is None:
        return None
    with link:
        link.settimeout(10.0)
        try:
            send(link, message)
            answer = receive(link)
        except OSError:
            return None
    return answer if isinstance(answer, dict) else None


def _start(console: Console, path: Path, idle: float) -> dict[str, Any]:
    import subprocess
    import sys
    import time

    with console.progress("warm") as progress:
        progress("loading", 0, 0)
        process = subprocess.Popen(
            [sys.executable, "-m", "cca_cli.warm.server", str(path), str(idle)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        end = time.monotonic() + _WAIT
        while time.monotonic() < end:
            state = _ask(path, {"state": True})
            if state is not None:
                return state
            if process.poll() is not None:
                break
            time.sleep(0.05)
    process.kill()
    raise CLIError(
        "the process did not start",
        hint="cca doctor shows whether the libraries load",
        code=ExitCode.INTERNAL,
    )


def _show(console: Console, state: dict[str, Any] | None) -> None:
    if not console.human:
        console.json({"running": state is not None, **(state or {})})
    elif state is None:
        console.write("not running\n")
    else:
        minutes = state["idle_s"] / 60
        console.write(
            f"running, process {state['pid']}, model {state['model'] or 'none'}, "
            f"{state['commands']} commands so far; ends after {minutes:g} minutes without one\n"
        )
