"""Ten times more searches than can be answered: accepted ones keep their latency, the rest are refused at once.

Usage: python benchmarks/overload.py [--quick] [--times X] [--seconds S] [--repeats N] [--batch N] [--queue N]

First as many clients as the queue holds ask as fast as they are answered: that is what the service can do, and how
long an accepted search then takes. Then clients offer ten times as many, at seeded random moments, answered or not;
some of them give up early, so that replies come for nobody. At the end Redis must hold nothing of all this.

The service is made small (few searches together, a short queue), so that clients on the same machine can be ten
times as fast as it is.
"""

from __future__ import annotations

import argparse
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from time import monotonic, sleep
from typing import Any

import redis
from measuring import keep, percentile, show, spread
from search_load import Asked, Clients, Load
from searched_system import DIMENSION, SEED, fill, unit_vectors
from systems import System, running

from query_service.transport.request_queue import REPLY_TTL_MS, STREAMS
from storage.catalog import catalog_of

_GIVES_UP_SECONDS = 0.02  # of the impatient clients; less than an accepted search takes
_IMPATIENT = 0.05  # of the searches offered
_KNOWN = ("vs:heartbeat:", "vs:search:")  # what a service at rest has in Redis: signs of life, (empty) streams


class Repeats:
    """What was measured, by repeat: name to figures."""

    def __init__(self) -> None:
        self.figures: dict[str, list[float]] = {}

    def add(self, **figures: float) -> None:
        """Note the figures of one repeat."""
        for name, value in figures.items():
            self.figures.setdefault(name, []).append(value)

    def show(self, title: str) -> None:
        """Print median, minimum and maximum of each."""
        rows = [(name.replace("_", " "), spread(values, 2)) for name, values in self.figures.items()]
        show(title, ["", "median (min-max)"], rows)


def saturated(clients: Clients, load: Load, into: Repeats) -> float:
    """As many as it can: answered searches per second."""
    asked = _of(clients.run(load), "answered")
    rate = len(asked) / load.seconds
    into.add(capacity_per_second=rate, **_milliseconds("at_capacity", asked))
    return rate


def overloaded(clients: Clients, load: Load, impatient: Load, into: Repeats) -> None:
    """So many more; who is refused is told so at once."""
    begun = monotonic()
    asked, gave_up = clients.run_together([load, impatient])
    outcomes = Counter(one.outcome for one in [*asked, *gave_up])
    expected = sum(outcomes[name] for name in ("answered", "busy", "deadline_exceeded"))
    seconds = monotonic() - begun
    answered, busy = _of(asked, "answered"), _of(asked, "busy")
    into.add(
        offered_per_second=(len(asked) + len(gave_up)) / load.seconds,
        answered_per_second=len(answered) / load.seconds,
        **_milliseconds("accepted", answered),
        **_milliseconds("refused", busy),
        refused_percent=100 * outcomes["busy"] / outcomes.total(),
        given_up=float(outcomes["deadline_exceeded"]),
        other_outcomes=float(outcomes.total() - expected),
        seconds=seconds,
    )


def left_over(system: System) -> dict[str, int]:
    """What Redis still holds when replies that nobody fetched have run out: keys that a service at rest has not."""
    sleep(REPLY_TTL_MS / 1000 + 1)
    with redis.Redis.from_url(system.redis_url, protocol=2) as plain:
        client: Any = plain
        keys = [key.decode() for key in client.scan_iter(count=1000)]
        waiting = sum(client.xlen(stream) for stream in STREAMS.values())
        pending = sum(client.xpending(stream, "query")["pending"] for stream in STREAMS.values())
    orphans = [key for key in keys if not key.startswith(_KNOWN)]
    return {"orphan_keys": len(orphans), "searches_in_streams": waiting, "searches_held": pending}


def _of(asked: Sequence[Asked], outcome: str) -> list[Asked]:
    return [one for one in asked if one.outcome == outcome]


def _milliseconds(name: str, asked: Sequence[Asked]) -> dict[str, float]:
    seconds = [one.seconds for one in asked]
    return {f"{name}_p{percent}_ms": 1000 * percentile(seconds, percent) for percent in (50, 99)}


def measure(arguments: argparse.Namespace) -> tuple[Repeats, dict[str, int]]:
    """All repeats on one system, and what is left in Redis behind them."""
    repeats = Repeats()
    with running(search_batch=arguments.batch, search_queue=arguments.queue) as system, Clients() as clients:
        with catalog_of(system.settings) as catalog:
            fill(catalog, "default", unit_vectors(arguments.vectors))
        system.start("query_service.worker", OMP_NUM_THREADS="1")
        address = system.redis_url
        calm = Load(address, arguments.queue, arguments.seconds, search_queue=arguments.queue)
        clients.run(calm)  # warm
        for _ in range(arguments.repeats):
            rate = arguments.times * saturated(clients, calm, repeats)
            many = replace(calm, clients=2 * arguments.queue, per_second=(1 - _IMPATIENT) * rate)
            few = replace(calm, clients=4, per_second=_IMPATIENT * rate, timeout=_GIVES_UP_SECONDS)
            overloaded(clients, many, few, repeats)
        return repeats, left_over(system)


def main() -> None:
    """Measure, print, keep."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="under a minute")
    parser.add_argument("--times", type=float, default=10.0, help="what it can answer")
    parser.add_argument("--vectors", type=int, default=100_000)
    parser.add_argument("--batch", type=int, default=2, help="searches that are answered together")
    parser.add_argument("--queue", type=int, default=16, help="searches that may wait")
    parser.add_argument("--seconds", type=float, help="of each part of each repeat (default 10; quick 3)")
    parser.add_argument("--repeats", type=int, help="default 5; quick 2")
    arguments = parser.parse_args()
    arguments.seconds = arguments.seconds or (3.0 if arguments.quick else 10.0)
    arguments.repeats = arguments.repeats or (2 if arguments.quick else 5)
    repeats, left = measure(arguments)
    repeats.show(f"{arguments.vectors:,} vectors of {DIMENSION}-d; {arguments.times:g} times what can be answered")
    show("left in Redis", list(left), [[str(value) for value in left.values()]])
    keep("overload", {"seed": SEED, **vars(arguments), "figures": repeats.figures, "left": left})


if __name__ == "__main__":
    main()
