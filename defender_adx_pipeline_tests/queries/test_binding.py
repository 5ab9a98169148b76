"""The hunting queries bind in ADX as they do in Defender, by Microsoft's parser.

ADX is a bootstrapped local tenant: its schema is read back over the wire, and nothing of it comes from the catalogue.
"""

import copy
from collections.abc import Iterator

import pytest

from defender_adx_pipeline.catalogue import load_catalogue
from defender_adx_pipeline_tests.conftest import OpenTenant
from defender_adx_pipeline_tests.migration.world import bootstrapped_world
from defender_adx_pipeline_tests.queries.binding import Bound, Schema, bind, documented_schema, read_back_schema
from defender_adx_pipeline_tests.queries.collection import hunting_queries

pytestmark = [pytest.mark.binding, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def read_back(open_tenant: OpenTenant) -> Iterator[Schema]:
    with bootstrapped_world(open_tenant, list(load_catalogue())) as world:
        yield read_back_schema(world.adx)


def queries_that_read(*tables: str) -> dict[str, str]:
    return {query.name: query.text for query in hunting_queries() if query.tables & {*tables}}


def failed(bound: Bound, side: str) -> dict[str, list[str]]:
    return {name: sides[side] for name, sides in bound.items() if sides[side]}


def test_every_query_binds_in_defender_and_in_adx(read_back: Schema) -> None:
    queries = {query.name: query.text for query in hunting_queries()}
    bound = bind({"defender": documented_schema(), "adx": read_back}, queries)
    assert bound.keys() == queries.keys()
    assert failed(bound, "defender") == {}
    assert failed(bound, "adx") == {}


def test_a_column_that_is_not_there_is_found(read_back: Schema) -> None:
    without = copy.deepcopy(read_back)
    del without["tables"]["DeviceProcessEvents"]["InitiatingProcessCommandLine"]
    queries = queries_that_read("DeviceProcessEvents")
    found = failed(bind({"without": without}, queries), "without")
    assert found.keys() == {name for name, text in queries.items() if "InitiatingProcessCommandLine" in text}
    assert all("InitiatingProcessCommandLine" in " ".join(messages) for messages in found.values())


def test_a_type_that_is_another_is_found(read_back: Schema) -> None:
    other = copy.deepcopy(read_back)
    other["tables"]["DeviceFileEvents"]["FileSize"] = "string"
    assert "file-extensions" in failed(bind({"other": other}, queries_that_read("DeviceFileEvents")), "other")


def test_a_snapshot_table_is_the_function_of_its_name(read_back: Schema) -> None:
    assert "ExposureGraphNodes" not in read_back["tables"]
    without = copy.deepcopy(read_back)
    del without["functions"]["ExposureGraphNodes"]
    column = copy.deepcopy(read_back)
    del column["tables"]["ExposureGraphNodesSnapshots"]["NodeLabel"]
    queries = queries_that_read("ExposureGraphNodes")
    bound = bind({"without": without, "column": column}, queries)
    assert failed(bound, "without").keys() == queries.keys()
    assert failed(bound, "column").keys() == {name for name, text in queries.items() if "NodeLabel" in text}
