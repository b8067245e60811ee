"""The window that a training row is read with.

A row that fits into the window, or two of which do, is read raw and teaches nothing about core
tokens. So short rows get a narrow window, but for a share of them: reading raw passages, as the
reader does when it answers, must not be unlearnt.
"""

from numpy.random import Generator

from cca_models.config import CCAConfig

# Of rows that fit into the window whole, so many times more are read with all of it.
_MORE = 1.6


def row_window(length: int, cca: CCAConfig, *, raw_small: float, rng: Generator) -> int:
    """Choose the window for rows of a length.

    Args:
        length: Tokens of a row.
        cca: Group size and window that the adapter is for.
        raw_small: Share of the rows of two windows or less that are read with the whole window.
        rng: What draws them.

    Returns:
        The window, W; of long rows, and of that share of the short ones. A quarter of it for the
        other rows of up to two windows, an eighth for those of up to one; a group at least.
    """
    W = cca.window
    if length > 2 * W:
        return W
    fits = length <= W
    if rng.random() < raw_small * (_MORE if fits else 1):
        return W
    return max(cca.group_size, W // (8 if fits else 4))
