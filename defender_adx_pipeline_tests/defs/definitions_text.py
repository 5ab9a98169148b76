"""What the code location is made of, as text that a person can review: a line for each definition.

Here: the text, and a process of its own that prints it (`python -m defender_adx_pipeline_tests.defs.definitions_text`),
with settings of its own, no network and every warning recorded. Not here: the comparison (`test_definitions`).
"""

import socket
import sys
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, NoReturn

import orjson

if TYPE_CHECKING:
    import dagster as dg
    from dagster._core.definitions.assets.graph.asset_graph import AssetNode


def describe(repository: "dg.RepositoryDefinition") -> str:
    """The whole code location, section by section, in an order that does not change."""
    sections = {
        "asset partitions": _partitions(repository),
        "assets": _assets(repository),
        "asset checks": _checks(repository),
        "jobs": _jobs(repository),
        "schedules": _schedules(repository),
        "sensors": _sensors(repository),
        "resources": _resources(repository),
    }
    parts = []
    for title, lines in sections.items():
        parts.append("\n".join([f"# {title}", *lines]))
    return "\n\n".join(parts) + "\n"


def _partitions(repository: "dg.RepositoryDefinition") -> Iterator[str]:
    graph = repository.asset_graph
    nodes = (graph.get(key) for key in graph.get_all_asset_keys())
    counted = Counter(_partitioning(node.partitions_def) for node in nodes)
    yield from (f"{text}: {count} assets" for text, count in sorted(counted.items()))


def _partitioning(partitions: Any) -> str:
    if partitions is None:
        return "none"
    return str(partitions)


def _assets(repository: "dg.RepositoryDefinition") -> Iterator[str]:
    nodes = (repository.asset_graph.get(key) for key in repository.asset_graph.get_all_asset_keys())
    return _grouped((_line("assets", _shared_facts(node)), _asset(node)) for node in nodes)


def _asset(node: "AssetNode") -> str:
    facts = [
        ("from", _keys(node.parent_keys)),
        ("group", node.group_name),
        ("tags", _pairs(node.tags)),
        ("pool", _listed(node.pools or ())),
    ]
    return _line(node.key.to_user_string(), facts)


def _shared_facts(node: "AssetNode") -> Iterator[tuple[str, Any]]:
    """What many assets have in common."""
    yield "external" if node.is_external else "materializable", True
    yield "kinds", _listed(node.kinds)
    yield "owners", _listed(node.owners)
    yield "io", node.io_manager_key if node.is_materializable else None
    policy = node.backfill_policy
    yield "partitions a run", (policy.max_partitions_per_run or "all") if policy else None
    fresh = node.freshness_policy
    windows = ("warn_window", "fail_window")
    times = [getattr(fresh, name).to_timedelta() for name in windows if getattr(fresh, name, None)]
    yield "fresh within", ", ".join(map(str, times)) or fresh
    yield "automation", node.automation_condition
    # Values, such as column schemas, are derived from the catalogue and have tests of their own.
    yield "metadata", _listed(node.metadata)


def _checks(repository: "dg.RepositoryDefinition") -> Iterator[str]:
    graph = repository.asset_graph
    specs = (graph.get_check_spec(key) for key in graph.asset_check_keys)
    return _grouped(
        (
            _line(
                spec.name,
                [
                    ("blocking", spec.blocking),
                    ("automation", spec.automation_condition),
                    ("partitions", _partitioning(graph.get(spec.key).partitions_def)),
                ],
            ),
            spec.asset_key.to_user_string(),
        )
        for spec in specs
    )


def _grouped(lines: Iterable[tuple[str, str]]) -> Iterator[str]:
    """Lines under what they have in common."""
    groups: dict[str, list[str]] = {}
    for shared, own in sorted(lines):
        groups.setdefault(shared, []).append(own)
    for shared, own in groups.items():
        yield f"## {shared}: {len(own)}"
        yield from own


def _jobs(repository: "dg.RepositoryDefinition") -> Iterator[str]:
    for job in sorted(repository.get_all_jobs(), key=lambda job: job.name):
        layer = job.asset_layer
        facts = [
            ("assets", len(layer.selected_asset_keys)),
            ("checks", len(layer.asset_graph.asset_check_keys) if layer.asset_graph else 0),
            ("partitions", _partitioning(job.partitions_def)),
            ("executor", job.executor_def.name),
            ("tags", _pairs(job.tags)),
        ]
        yield _line(job.name, facts)


def _schedules(repository: "dg.RepositoryDefinition") -> Iterator[str]:
    for schedule in sorted(repository.schedule_defs, key=lambda schedule: schedule.name):
        facts = [
            ("cron", schedule.cron_schedule),
            ("zone", schedule.execution_timezone),
            ("at first", schedule.default_status.value),
            ("job", schedule.job_name),
            ("tags", _pairs(schedule.tags)),
        ]
        yield _line(schedule.name, facts)


def _sensors(repository: "dg.RepositoryDefinition") -> Iterator[str]:
    for sensor in sorted(repository.sensor_defs, key=lambda sensor: sensor.name):
        facts = [
            ("type", sensor.sensor_type.value),
            ("every", f"{sensor.minimum_interval_seconds} s"),
            ("at first", sensor.default_status.value),
            ("jobs", _listed(target.job_name for target in sensor.targets)),
            ("tags", _pairs(sensor.tags)),
        ]
        yield _line(sensor.name, facts)


def _resources(repository: "dg.RepositoryDefinition") -> Iterator[str]:
    for key, resource in sorted(repository.get_top_level_resources().items()):
        yield _line(key, [("class", getattr(resource, "configurable_resource_cls", type(resource)).__name__)])


def _line(name: str, facts: Iterable[tuple[str, Any]]) -> str:
    """`name | fact value | fact value`; a fact that is true by its name alone, and none that is not there."""
    said = (fact if value is True else f"{fact} {value}" for fact, value in facts if value not in (None, False, ""))
    return " | ".join((name, *said))


def _keys(keys: "Iterable[dg.AssetKey]") -> str:
    return _listed(key.to_user_string() for key in keys)


def _listed(names: Iterable[str]) -> str:
    return ", ".join(sorted(names))


def _pairs(tags: Any) -> str:
    # A kind is a tag, too, and stands under its own name.
    return _listed(f"{name}={value}" for name, value in (tags or {}).items() if not name.startswith("dagster/kind/"))


def _no_network(address: Any) -> NoReturn:
    raise AssertionError(f"loading the code location connected to {address}")


class _LocalSocket(socket.socket):
    """A socket that connects to nothing but Unix sockets."""

    def connect(self, address: Any, /) -> None:
        if self.family != socket.AF_UNIX:
            _no_network(address)
        super().connect(address)

    def connect_ex(self, address: Any, /) -> int:
        if self.family != socket.AF_UNIX:
            _no_network(address)
        return super().connect_ex(address)


def main() -> None:
    """Print a line of JSON: the text, and the warnings that came up while the code location loaded."""
    socket.socket = _LocalSocket  # type: ignore[misc]
    socket.getaddrinfo = lambda host, *_, **__: _no_network(host)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        from defender_adx_pipeline.definitions import defs  # noqa: PLC0415 - only now can it be watched

        text = describe(defs().get_repository_def())
    told = [f"{each.category.__name__}: {each.message} ({each.filename}:{each.lineno})" for each in caught]
    sys.stdout.buffer.write(orjson.dumps({"text": text, "warnings": told}))


if __name__ == "__main__":
    main()
