"""At most so many results for each value of an attribute."""

from __future__ import annotations

from collections import Counter

from pipeline.rerank.stream import Stream
from storage.attributes import Comparable, comparable, element_values


def limit_groups(stream: Stream, key: str, size: int) -> Stream:
    """Keep the `size` most relevant results of each value of the attribute `key`.

    A result without the attribute is a group of its own: nothing says that two unlabelled images belong
    together, and one common group would hide nearly all of a collection that is only partly labelled. A list
    is one value, the same whatever its order; values are equal when they are equal for the filters.
    """
    taken: Counter[frozenset[Comparable]] = Counter()
    for result in stream:
        group = frozenset(comparable(value) for value in element_values(result.attributes.get(key)))
        taken[group] += 1
        if not group or taken[group] <= size:
            yield result
