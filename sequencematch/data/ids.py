"""Many ids in little memory."""

import bisect
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Any


class Ids(Sequence[int]):
    """Ids in ascending order, kept as ranges: 150,000 of them take no memory, and `in` no time.

    Args:
      ids: in ascending order, all different.
    """

    def __init__(self, ids: Iterable[int]):
        # In a range, an id grows as its place does.
        groups = itertools.groupby(enumerate(ids), key=lambda pair: pair[1] - pair[0])
        runs = [[i for _, i in group] for _, group in groups]
        self._ranges = [range(run[0], run[-1] + 1) for run in runs]
        self._begins = list(itertools.accumulate(map(len, self._ranges), initial=0))

    def __len__(self) -> int:
        return self._begins[-1]

    def __getitem__(self, place: Any) -> Any:
        if isinstance(place, slice):
            return [self[i] for i in range(len(self))[place]]
        place = range(len(self))[place]
        which = bisect.bisect(self._begins, place) - 1
        return self._ranges[which][place - self._begins[which]]

    def __iter__(self) -> Iterator[int]:
        return itertools.chain(*self._ranges)

    def __contains__(self, i: object) -> bool:
        which = bisect.bisect(self._ranges, i, key=lambda ids: ids[0]) - 1
        return which >= 0 and i in self._ranges[which]
