import pytest

from defender_adx_pipeline.defender.clouds import cloud, hunting_endpoint, hunting_scope
from defender_adx_pipeline.settings import ApiName, CloudName, Settings


@pytest.mark.parametrize(
    ("name", "api", "endpoint", "scope"),
    [
        (
            "global",
            "graph",
            "https://graph.microsoft.com/v1.0/security/runHuntingQuery",
            "https://graph.microsoft.com/.default",
        ),
        (
            "gcc",
            "xdr",
            "https://api-gcc.security.microsoft.us/api/advancedhunting/run",
            "https://api-gcc.security.microsoft.us/.default",
        ),
        (
            "gcc-high",
            "mde",
            "https://api-gov.securitycenter.microsoft.us/api/advancedqueries/run",
            "https://api-gov.securitycenter.microsoft.us/.default",
        ),
        (
            "dod",
            "graph",
            "https://dod-graph.microsoft.us/v1.0/security/runHuntingQuery",
            "https://dod-graph.microsoft.us/.default",
        ),
    ],
)
def test_every_cloud_has_its_own_addresses(name: CloudName, api: ApiName, endpoint: str, scope: str) -> None:
    settings = Settings(defender_cloud=name, defender_api=api)
    assert hunting_endpoint(settings) == endpoint
    assert hunting_scope(settings) == scope


def test_us_government_clouds_sign_in_elsewhere() -> None:
    assert cloud("global").authority_host == cloud("gcc").authority_host == "https://login.microsoftonline.com"
    assert cloud("gcc-high").authority_host == cloud("dod").authority_host == "https://login.microsoftonline.us"


def test_an_address_of_ones_own_keeps_the_path_of_the_api() -> None:
    settings = Settings(defender_api_url="http://127.0.0.1:9/", defender_api="graph")
    assert hunting_endpoint(settings) == "http://127.0.0.1:9/v1.0/security/runHuntingQuery"
    assert hunting_scope(settings) == "https://graph.microsoft.com/.default"
