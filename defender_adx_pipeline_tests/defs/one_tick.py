"""One tick, evaluated for real, and the runs that it asks for: a process of its own, which prints one JSON line.

Its jobs have the tables of DEFENDER_TABLES_FILE, which the code location of the tests' own process was built without.
"""

import sys
from datetime import UTC, datetime
from typing import Any

import dagster as dg
import orjson

from defender_adx_pipeline.definitions import defs
from defender_adx_pipeline.defs.schedules import event_tables_tick


def requests_of_a_tick(instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    """What the schedule asks for now."""
    with dg.build_schedule_context(
        instance=instance,
        scheduled_execution_time=datetime.now(UTC),
        resources=defs().resources,
        repository_def=defs().get_repository_def(),
    ) as context:
        return list(event_tables_tick.evaluate_tick(context).run_requests or [])


def run(instance: dg.DagsterInstance, request: dg.RunRequest) -> dict[str, Any]:
    """Run what was asked for, in this process."""
    result = (
        defs()
        .resolve_job_def("event_tables")
        .execute_in_process(
            instance=instance,
            asset_selection=list(request.asset_selection or ()),
            partition_key=request.partition_key,
            tags=request.tags,
            run_config={"loggers": {"console": {"config": {"log_level": "ERROR"}}}},
            raise_on_error=False,
        )
    )
    steps = {entry.step_key for entry in instance.all_logs(result.run_id) if entry.step_key}
    return {"success": result.success, "steps": sorted(steps)}


def main() -> None:
    """The tick, then its runs; the time in between tells the hunting calls of the two apart."""
    with dg.instance_for_test() as instance:
        requests = requests_of_a_tick(instance)
        between = datetime.now(UTC).isoformat()
        told = [
            {
                "assets": sorted(key.to_user_string() for key in request.asset_selection or ()),
                **run(instance, request),
            }
            for request in requests
        ]
    sys.stdout.write(orjson.dumps({"between": between, "runs": told}).decode() + "\n")


if __name__ == "__main__":
    main()
