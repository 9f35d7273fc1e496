"""The thread that commits: order, bounds, and errors that are not lost."""

from __future__ import annotations

import threading
from collections.abc import Iterator

import pytest

from pipeline.indexing.commits import BackgroundCommits
from storage.errors import CatalogUnavailable


class Ledger:
    """Writes numbers down on the commit thread, when it is let; some it refuses at first."""

    def __init__(self, *refused: int) -> None:
        self.written: list[int] = []
        self.noted: list[int] = []
        self.threads: set[str] = set()
        self.open = threading.Event()
        self.open.set()
        self._refused = list(refused)
        self.commits = BackgroundCommits(self._write, lambda one, _seconds: self.noted.append(one))

    def _write(self, one: int) -> None:
        assert self.open.wait(120)
        self.threads.add(threading.current_thread().name)
        if one in self._refused:
            self._refused.remove(one)
            raise CatalogUnavailable("the database is locked")
        self.written.append(one)


@pytest.fixture
def make() -> Iterator[type[Ledger]]:
    made: list[Ledger] = []

    class Made(Ledger):
        def __init__(self, *refused: int) -> None:
            super().__init__(*refused)
            made.append(self)

    yield Made
    for ledger in made:
        ledger.open.set()
        ledger.commits.close()


def test_what_is_handed_over_is_committed_in_order_on_another_thread(make: type[Ledger]) -> None:
    ledger = make()
    for number in range(5):
        ledger.commits.hand_over(number)
    ledger.commits.wait()
    assert ledger.written == ledger.noted == list(range(5))
    assert threading.current_thread().name not in ledger.threads


def test_handing_over_returns_before_the_commit_has_ended_and_it_is_noted_after(make: type[Ledger]) -> None:
    ledger = make()
    ledger.open.clear()
    ledger.commits.hand_over(1)
    ledger.commits.look()
    assert ledger.noted == []
    ledger.open.set()
    ledger.commits.wait()
    assert ledger.noted == [1]


def test_at_most_one_commit_is_under_way(make: type[Ledger]) -> None:
    ledger = make()
    ledger.open.clear()
    ledger.commits.hand_over(1)
    second = threading.Thread(target=ledger.commits.hand_over, args=[2])
    second.start()
    second.join(0.05)
    assert second.is_alive(), "it waits for the first"
    ledger.open.set()
    second.join(120)
    ledger.commits.wait()
    assert ledger.noted == [1, 2]


def test_a_failed_commit_is_told_once_and_tried_again_before_what_comes_after(make: type[Ledger]) -> None:
    ledger = make(1)
    ledger.commits.hand_over(1)
    with pytest.raises(CatalogUnavailable):
        ledger.commits.hand_over(2)  # so 2 was not taken, and is the caller's still
    ledger.commits.hand_over(2)
    ledger.commits.wait()
    assert ledger.written == ledger.noted == [1, 2]


def test_a_commit_that_fails_again_tells_again(make: type[Ledger]) -> None:
    ledger = make(1, 1)
    ledger.commits.hand_over(1)
    for _ in range(2):
        with pytest.raises(CatalogUnavailable):
            ledger.commits.wait()
    ledger.commits.wait()
    assert ledger.noted == [1]


def test_the_error_is_seen_by_a_look_too(make: type[Ledger]) -> None:
    ledger = make(1)
    ledger.commits.hand_over(1)

    def look_until_it_has_ended() -> None:
        while True:
            ledger.commits.look()

    with pytest.raises(CatalogUnavailable):
        look_until_it_has_ended()
