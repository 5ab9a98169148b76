"""The admin routes around snapshot tables, asked as from another process."""

import requests

from defender_adx_pipeline_tests.local.test_tenant import hunt

TABLE = "ExposureGraphNodes"


def test_a_state_is_made_moved_on_and_watched_over_the_admin_endpoint(open_tenant):
    with open_tenant(scale=0) as tenant:

        def post(path, body=None):
            answer = requests.post(tenant.url("admin") + path, json=body, timeout=10)
            return answer.status_code, answer.json()

        assert post("/snapshots/rows", {"table": TABLE, "rows": 50}) == (200, {"table": TABLE, "new": 50})
        assert post("/scans") == (200, {})
        assert post("/snapshots/evolve", {"table": TABLE, "at_call": 2, "new": 5, "gone": 0, "changed": 0})[0] == 200
        assert [len(hunt(tenant, TABLE).json()["results"]) for _ in range(2)] == [50, 55]
        assert requests.get(tenant.url("admin") + "/scans", timeout=10).json() == {
            TABLE: {"calls": 2, "rows": 105, "distinct": 55, "repeated": 50, "most": 2, "unknown": 0}
        }
        assert requests.delete(tenant.url("admin") + "/scans", timeout=10).json() == {}
        moved = {"table": TABLE, "new": 1, "gone": 11, "changed": 2}
        assert post("/snapshots/evolve", {**moved, "gone": 0.2}) == (200, {**moved, "rows": 45})
        status, told = post("/snapshots/evolve", {"table": "DeviceInfo"})
        assert (status, "no snapshot table" in told["error"]) == (400, True)
        assert post("/snapshots/evolve", {"table": TABLE, "fewer": 3})[0] == 400
