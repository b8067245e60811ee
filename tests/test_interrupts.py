"""Ctrl-C and SIGTERM where a library would swallow them."""

from __future__ import annotations

import contextlib
import signal
import threading

import pytest

from cca_cli.interrupts import heard_interrupts, terminate_with_exit_code


@pytest.mark.parametrize(
    ("number", "raised"), [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit)]
)
def test_what_was_swallowed_is_raised_at_the_end(
    number: signal.Signals, raised: type[BaseException]
) -> None:
    before = {n: signal.getsignal(n) for n in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    terminate_with_exit_code()
    mine = signal.getsignal(number)
    try:
        # Dropped, as C does it that looks for an optional package.
        dropped = contextlib.suppress(BaseException)
        with pytest.raises(raised) as caught, heard_interrupts(), dropped:
            signal.raise_signal(number)
        assert signal.getsignal(number) is mine
        if raised is SystemExit:
            assert caught.value.code == 143  # type: ignore[attr-defined]
        with heard_interrupts():
            pass
    finally:
        for n, handler in before.items():
            signal.signal(n, handler)


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        with heard_interrupts():
            signal.raise_signal(signal.SIGINT)
    finally:
        signal.signal(signal.SIGINT, before)


def test_other_threads_are_left_alone() -> None:
    done = []

    def work() -> None:
        with heard_interrupts():
            done.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert done
