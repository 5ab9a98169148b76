"""The schema of a database as it says it itself."""

import json

from defender_adx_pipeline.catalogue import Catalogue
from defender_adx_pipeline_tests.local.kusto import kusto

COLUMNS = {"LogonId": "long", "LogonID": "long", "Day of month": "int", "Bag": "dynamic"}


def test_the_whole_schema_has_every_column_also_where_names_differ_in_case_alone(open_tenant):
    declared = "LogonId: long, LogonID: long, ['Day of month']: int, Bag: dynamic"
    with open_tenant(scale=0, catalogue=Catalogue({})) as tenant, kusto(tenant) as adx:
        adx.command(f""".create-merge table Cases ({declared}) with (folder = "A/B", docstring = "it's \\"so\\"")""")
        adx.command(".create-or-alter function with (folder = 'A') Ids(low: long) { Cases | where LogonId > low }")
        for named in ("", "defender "):
            (row,) = adx.command(f".show database {named}schema as json")
            tables = json.loads(row["DatabaseSchema"])["Databases"]["defender"]["Tables"]
            assert {one["Name"]: one["CslType"] for one in tables["Cases"]["OrderedColumns"]} == COLUMNS
        assert {row["ColumnName"] for row in adx.command(".show database schema")} == set(COLUMNS)
        script = [row["DatabaseSchemaScript"] for row in adx.command(".show database schema as csl script")]
    # It makes the same database anew, in which the script is the same.
    with open_tenant(scale=0, catalogue=Catalogue({})) as tenant, kusto(tenant) as adx:
        done = adx.command(".execute database script with (ThrowOnErrors=true) <|\n" + "\n".join(script))
        assert [row["Result"] for row in done] == ["Completed", "Completed"]
        again = [
            row["DatabaseSchemaScript"]
            for row in adx.command(".show database defender schema as csl script with (ShowObfuscatedStrings=true)")
        ]
        assert again == script
        (row,) = adx.command(".show table Cases schema as json")
        assert row["DocString"] == 'it\'s "so"'
