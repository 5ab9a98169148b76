"""How many hunting queries of a folder bind in ADX: `python tools/kql_collection.py FOLDER [--list]`.

Binds every block of KQL with Microsoft's parser against the tables that Microsoft documents, and against the schema
that is read back from a freshly bootstrapped local tenant. Prints what differs; exits 1 when fewer bind in ADX, or when
there is nothing to bind. Not here: finding the blocks (`queries.extraction`), and binding them (`queries.binding`).
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from defender_adx_pipeline.adx.client import AdxClient
from defender_adx_pipeline.adx.schema import bootstrap
from defender_adx_pipeline.local.tenant import LocalTenant
from defender_adx_pipeline_tests.queries.binding import Schema, bind, documented_schema, read_back_schema
from defender_adx_pipeline_tests.queries.extraction import Block, blocks
from defender_adx_pipeline_tests.queries.reporting import Report


@contextmanager
def bootstrapped() -> Iterator[AdxClient]:
    """A local tenant with all tables and no row."""
    with tempfile.TemporaryDirectory() as home, LocalTenant(Path(home), scale=0) as tenant:
        environment = tenant.environment()
        os.environ["REQUESTS_CA_BUNDLE"] = environment["REQUESTS_CA_BUNDLE"]
        address = (environment["ADX_CLUSTER_URI"], environment["ADX_DATABASE"])
        with AdxClient(*address, ingest_uri=environment["ADX_INGEST_URI"]) as client:
            bootstrap(client, client_id=environment["AZURE_CLIENT_ID"], tenant_id=environment["AZURE_TENANT_ID"])
            yield client


def main(arguments: Sequence[str]) -> int:
    """Print the report of a folder; its exit code."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--list", action="store_true", help="also tell what binds on neither side, and why")
    given = parser.parse_args(arguments)
    found: list[Block] = list(blocks(given.folder))
    with bootstrapped() as client:
        schemas: dict[str, Schema] = {"documented": documented_schema(), "adx": read_back_schema(client)}
    report = Report(found, bind(schemas, {block.source: block.text for block in found}))
    for line in report.lines(with_unbound=given.list):
        sys.stdout.write(line + "\n")
    return report.status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
