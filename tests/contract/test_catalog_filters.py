"""Filters compiled to SQL give exactly the answers of the filters in Python."""

from __future__ import annotations

import pytest
from catalog_batches import MODEL, indexed
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from storage.attributes import normal_attributes
from storage.catalog import Catalog, Generation, IndexBatch
from storage.errors import InvalidFilter
from storage.filters import And, Equals, Exists, Filter, In, Not, Or, Range
from storage.records import Attributes

KEYS = st.sampled_from(["a", "b", "c"])
TEXTS = st.sampled_from(["", "x", "X", "1", "true", "x" * 501, "x" * 501 + "y", "猫"])
NUMBERS = st.one_of(
    st.integers(-3, 3),
    st.sampled_from([0.5, -0.0, 1.0, 2.0, 2**53, -(2**53), 2.0**53, 1e300, 5e-324]),
)
SCALARS = st.one_of(TEXTS, NUMBERS, st.booleans())
ATTRIBUTES = st.dictionaries(KEYS, st.one_of(SCALARS, st.none(), st.lists(TEXTS, max_size=3)), max_size=3)
BOUNDS = st.dictionaries(st.sampled_from(["gt", "gte", "lt", "lte"]), NUMBERS, min_size=1, max_size=2)
LEAVES: st.SearchStrategy[Filter] = st.one_of(
    st.builds(Equals, key=KEYS, value=SCALARS),
    st.builds(In, key=KEYS, values=st.lists(SCALARS, max_size=4).map(tuple)),
    st.builds(lambda key, bounds: Range(key=key, **bounds), KEYS, BOUNDS),
    st.builds(Exists, key=KEYS),
)
FILTERS = st.recursive(
    LEAVES,
    lambda parts: st.one_of(
        st.builds(And, filters=st.lists(parts, max_size=3).map(tuple)),
        st.builds(Or, filters=st.lists(parts, max_size=3).map(tuple)),
        st.builds(Not, filter=parts),
    ),
    max_leaves=6,
)


class TestFilters:
    @settings(
        max_examples=60,
        deadline=None,
        suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
    )
    @given(
        images=st.lists(ATTRIBUTES, min_size=1, max_size=8),
        filters=st.lists(FILTERS, min_size=1, max_size=8),
    )
    def test_sql_and_python_agree_on_every_filter(
        self, catalog: Catalog, generation: Generation, images: list[Attributes], filters: list[Filter]
    ) -> None:
        collection_id = generation.collection_id
        catalog.images.delete(collection_id, [image.image_id for image in catalog.images.list(collection_id)])
        upserts = [indexed(str(number), attributes=of_image) for number, of_image in enumerate(images)]
        catalog.commit(generation.id, IndexBatch(upserts=upserts))
        for filter_ in filters:
            expected = {str(number) for number, of_image in enumerate(images) if filter_.matches(of_image)}
            assert catalog.images.matching_ids(collection_id, filter_) == expected
            assert catalog.images.count(collection_id, filter=filter_) == len(expected)
            listed = [image.image_id for image in catalog.images.list(collection_id, filter=filter_)]
            assert listed == sorted(expected)

    @settings(max_examples=100, deadline=None)
    @given(attributes=ATTRIBUTES, filter_=FILTERS)
    def test_dropping_absent_attributes_changes_no_answer(self, attributes: Attributes, filter_: Filter) -> None:
        assert filter_.matches(attributes) == filter_.matches(normal_attributes(attributes))

    def test_a_filter_sees_its_own_collection_only(self, catalog: Catalog, generation: Generation) -> None:
        other = catalog.generations.ensure_active(catalog.collections.ensure("other").id, MODEL)
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", attributes={"x": 1})]))
        catalog.commit(other.id, IndexBatch(upserts=[indexed("a"), indexed("b", attributes={"x": 1})]))
        filter_ = Equals(key="x", value=1)
        assert catalog.images.matching_ids(generation.collection_id, filter_) == {"a"}
        assert catalog.images.matching_ids(other.collection_id, filter_) == {"b"}
        assert catalog.images.matching_ids(other.collection_id, Not(filter=filter_)) == {"a"}

    def test_the_largest_filter_that_is_taken_runs(self, catalog: Catalog, generation: Generation) -> None:
        catalog.commit(generation.id, IndexBatch(upserts=[indexed("a", attributes={"x": 19_000})]))
        values = In(key="x", values=tuple(range(19_001)))
        assert catalog.images.matching_ids(generation.collection_id, values) == {"a"}
        deep: Filter = Exists(key="x")
        for _ in range(254):
            deep = Not(filter=deep)
        assert catalog.images.matching_ids(generation.collection_id, deep) == {"a"}
        wide = Or(filters=tuple(Equals(key="x", value=number) for number in range(254)))
        assert catalog.images.matching_ids(generation.collection_id, wide) == set()

    @pytest.mark.parametrize(
        "filter_",
        [
            In(key="x", values=tuple(range(20_001))),
            Or(filters=tuple(Exists(key=str(number)) for number in range(256))),
        ],
    )
    def test_a_filter_too_large_for_a_statement_is_refused(
        self, catalog: Catalog, generation: Generation, filter_: Filter
    ) -> None:
        with pytest.raises(InvalidFilter, match="split it"):
            catalog.images.matching_ids(generation.collection_id, filter_)
