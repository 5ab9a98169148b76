"""What a run says in Dagster when it waits for the quota."""

from datetime import timedelta

from defender_adx_pipeline_tests.defs.conftest import Dagster
from defender_adx_pipeline_tests.migration.world import World


def test_a_pause_and_the_wait_for_its_end_stand_in_the_log_of_the_step(
    world: World, dagster: Dagster, table: str
) -> None:
    ago = timedelta(hours=30)
    world.rows(table, 5, ago=ago)
    scale = float(world.tenant.environment()["DEFENDER_QUOTA_CLOCK_SCALE"])
    world.tenant.faults.add("hunting", "throttled_minute", match=table, retry_after=int(1.6 * scale))
    result = dagster.materialize(table, (world.now - ago).date().isoformat())
    assert result.success
    lines = {
        entry.user_message: entry.step_key for entry in dagster.instance.all_logs(result.run_id) if entry.user_message
    }
    (pause,) = (line for line in lines if line.startswith("all processes that share the quota hold back for 1.6 s"))
    assert "maximum allowed 45 per 00:01:00" in pause
    (wait,) = (line for line in lines if line.startswith("waiting about 2 s for the tenant's quota of hunting calls"))
    assert "45 per minute and 1500 per hour, less 10% for analysts; shared by all processes that use" in wait
    assert lines[pause] == lines[wait] == f"adx__{table}Raw"
