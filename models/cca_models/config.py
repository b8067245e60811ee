"""The settings of the method: group size and window."""

from dataclasses import dataclass

from cca_kernels.partition import raw_start, visible_cores


@dataclass(frozen=True, kw_only=True, slots=True)
class CCAConfig:
    """How the past is folded.

    Attributes:
        group_size: Tokens per core token, G.
        window: Raw tokens that every token still sees one by one at least, W.

    Raises:
        ValueError: If group_size < 1 or window < group_size.
    """

    group_size: int = 16
    window: int = 1024

    def __post_init__(self) -> None:
        if self.group_size < 1:
            raise ValueError(f"expected group_size >= 1, got {self.group_size}")
        if self.window < self.group_size:
            raise ValueError(f"expected window >= group_size {self.group_size}, got {self.window}")

    def visible_cores(self, position: int) -> int:
        """Count the core tokens that the token at a position sees, m(p)."""
        return visible_cores(position, group_size=self.group_size, window=self.window)

    def raw_start(self, position: int) -> int:
        """Give the first raw position that the token at a position sees."""
        return raw_start(position, group_size=self.group_size, window=self.window)
