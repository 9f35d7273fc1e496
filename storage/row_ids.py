"""Which image has which row of an index: a table that never changes, and what was changed since. Knows no vectors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from itertools import repeat

import numpy as np

from storage.id_table import IdTable
from storage.vector_checks import Positions

_FEW = 0.001  # of all rows: so few are sorted faster than all rows are marked
_WIDE = 0.4  # of all rows: from here on it is faster to ask a set for each row's id than a table for each id


class RowIds:
    """Ids by row and rows by id. Rows below `base` are those of the table (None: there are none).

    A removed row of the base is a hole, to be filled by the next new id; the rows behind the base have no holes.
    """

    def __init__(self, table: IdTable | None = None) -> None:
        self._table = table
        self.base = 0 if table is None else len(table)
        self._gone = np.zeros(self.base, dtype=bool)  # rows whose id in the table does not count any more
        self._holes: list[int] = []
        self._refilled: dict[int, str] = {}
        self._tail: list[str] = []
        self._row_of: dict[str, int] = {}  # of all ids that are not in their row of the table

    def __len__(self) -> int:
        return self.rows - len(self._holes)

    @property
    def rows(self) -> int:
        """How many rows there are, the holes included."""
        return self.base + len(self._tail)

    @property
    def holes(self) -> int:
        return len(self._holes)

    def id_at(self, row: int) -> str:
        """The id of a row that is no hole."""
        if row >= self.base:
            return self._tail[row - self.base]
        if self._table is None or self._gone[row]:
            return self._refilled[row]
        return self._table.id_at(row)

    def find(self, image_ids: Iterable[str]) -> Positions:
        """The row of each id, (n,); -1 for one that has none."""
        ids = image_ids if isinstance(image_ids, list) else list(image_ids)
        found = list(map(self._row_of.get, ids, repeat(-1)))  # numbers are not looked at yet: memory is waited for less
        rows = np.fromiter(found, np.int64, len(ids))
        if self._table is not None and self.base:
            # whatever is no string has no row
            left = [place for place in np.flatnonzero(rows < 0).tolist() if isinstance(ids[place], str)]
            places = self._table.find([ids[place] for place in left])
            rows[left] = np.where(self._gone[places], -1, places)
        return rows

    def rows_of(self, image_ids: Iterable[str]) -> Positions:
        """The rows of those that have one, rising."""
        if not self.base and isinstance(image_ids, (set, frozenset)) and len(image_ids) > _WIDE * self.rows:
            return np.flatnonzero(np.fromiter(map(image_ids.__contains__, self._tail), bool, self.rows))
        rows = self.find(image_ids)
        if len(rows) < _FEW * self.rows:
            return np.unique(rows[rows >= 0])
        here = np.zeros(self.rows, dtype=bool)
        here[rows[rows >= 0]] = True
        return np.flatnonzero(here)

    def live(self) -> Positions:
        """The rows that are no holes, rising."""
        if not self._holes:
            return np.arange(self.rows)
        here = np.ones(self.rows, dtype=bool)
        here[self._holes] = False
        return np.flatnonzero(here)

    def ids(self) -> list[str]:
        """The id of each row that is no hole, in the order of rows."""
        known = [] if self._table is None else list(self._table)
        for row, image_id in self._refilled.items():
            known[row] = image_id
        if self._holes:
            holes = set(self._holes)
            known = [image_id for row, image_id in enumerate(known) if row not in holes]
        return known + self._tail

    def fill_holes(self, image_ids: Sequence[str]) -> Positions:
        """Give holes to the first of the new ids, as far as there are any; return their rows."""
        rows = [self._holes.pop() for _ in range(min(len(image_ids), len(self._holes)))]
        for row, image_id in zip(rows, image_ids, strict=False):
            self._refilled[row] = image_id
            self._row_of[image_id] = row
        return np.array(rows, dtype=np.int64)

    def append(self, image_ids: Sequence[str]) -> None:
        """Give rows behind all others to new ids."""
        self._row_of.update(zip(image_ids, range(self.rows, self.rows + len(image_ids)), strict=True))
        self._tail.extend(image_ids)

    def drop(self, image_id: str, row: int) -> int | None:
        """Take an id out of its row. Return the last row if its id moved there, None if the row is a hole now."""
        self._row_of.pop(image_id, None)
        if row < self.base:
            self._gone[row] = True
            self._refilled.pop(row, None)
            self._holes.append(row)
            return None
        last, last_id = self.rows - 1, self._tail.pop()
        if row != last:
            self._tail[row - self.base] = last_id
            self._row_of[last_id] = row
        return last
