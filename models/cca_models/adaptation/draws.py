"""Drawing records of several sources in given shares."""

from collections.abc import Sequence

import numpy as np
from numpy.random import Generator

from cca_models.adaptation.ragged import Ids


class Draw:
    """Draws records: a source by its share, then one of its records.

    Args:
        source: Source of each record.
        names: Names of the sources.
        shares: By name.
        weight: Of each record among those of its source; equal by default.
    """

    def __init__(
        self,
        source: Ids,
        names: Sequence[str],
        shares: dict[str, float],
        weight: Ids | None = None,
    ) -> None:
        self._of: dict[int, Ids] = {}
        self._sums: dict[int, Ids] = {}
        for place, name in enumerate(names):
            records = np.flatnonzero(source == place)
            if shares.get(name, 0) > 0 and len(records):
                self._of[place] = records
                each = np.ones(len(records)) if weight is None else weight[records]
                self._sums[place] = np.cumsum(each) / each.sum()
        self._places = list(self._of)
        share = np.asarray([shares[names[p]] for p in self._places])
        self._share = np.cumsum(share) / share.sum() if len(share) else share

    def source(self, rng: Generator) -> int:
        """Draw a source."""
        return self._places[int(np.searchsorted(self._share, rng.random()))]

    def of(self, rng: Generator, source: int) -> int:
        """Draw one of a source's records."""
        at = int(np.searchsorted(self._sums[source], rng.random()))
        return int(self._of[source][min(at, len(self._of[source]) - 1)])

    def draw(self, rng: Generator) -> int:
        """Draw a record."""
        return self.of(rng, self.source(rng))
