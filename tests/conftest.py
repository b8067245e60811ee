"""What every test file shares: quiet libraries, no hub, and a fair share of the cores."""

import os
import signal

from cca_cli.threads import calm_threads

# A background job of a shell ignores Ctrl-C, and so would the programs that the tests interrupt.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# More threads than cores make torch's short parallel loops many times slower.
_workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // _workers)))
calm_threads()

# Without a GPU the Triton kernels run under Triton's interpreter, which must be chosen before their
# modules are imported. Only a test that names impl="triton" takes them then.
import pytest  # noqa: E402
import torch  # noqa: E402 - the thread counts above must come first

if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what is marked `gpu` where there is none."""
    if torch.cuda.is_available():
        return
    for item in items:
        if item.get_closest_marker("gpu"):
            item.add_marker(pytest.mark.skip(reason="needs a CUDA GPU"))
