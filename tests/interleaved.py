"""Lets another process act between any two transactions of some work: every place where one can come between."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from storage.catalog.database.engine import Database

_TRANSACTIONS = ("read", "read_once", "write")


class Overtaking:
    """Calls `act` before the transaction of that number begins, counted from 0; those of `act` do not count."""

    def __init__(self, number: int, act: Callable[[], object]) -> None:
        self._number = number
        self._act = act
        self.begun = 0

    @property
    def happened(self) -> bool:
        """Whether there were as many transactions."""
        return self.begun > self._number

    def before_transaction(self) -> None:
        """Note one more transaction; at the right one, act first."""
        self.begun += 1
        if self.begun == self._number + 1:
            act, self._act = self._act, lambda: None
            counted = self.begun
            act()
            self.begun = counted


@contextmanager
def overtaken(monkeypatch: pytest.MonkeyPatch, number: int, act: Callable[[], object]) -> Iterator[Overtaking]:
    """Within the block, `act` runs just before the transaction of this number, whichever catalog begins it."""
    overtaking = Overtaking(number, act)

    def counting(original: Callable[[Database], Any]) -> Callable[[Database], Any]:
        def begin(self: Database) -> Any:
            overtaking.before_transaction()
            return original(self)

        return begin

    with monkeypatch.context() as patch:
        for name in _TRANSACTIONS:
            patch.setattr(Database, name, counting(getattr(Database, name)))
        yield overtaking


def at_every_transaction(run: Callable[[int], bool]) -> int:
    """Call `run` with 0, 1, 2 ... until it says that there was no such transaction; return how many there were."""
    return next(number for number in itertools.count() if not run(number))
