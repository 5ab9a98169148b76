"""Commands on policies: `.alter`, `.alter-merge` and `.delete ... policy`.

Here: storing what a policy says. Not here: acting on it; the stand-in keeps every policy and obeys
`update` alone (`adx_updates`); its batching delay is a setting of the tenant.
"""

import orjson

from defender_adx_pipeline.local.commands_context import Context
from defender_adx_pipeline.local.commands_text import Reader
from defender_adx_pipeline.local.frames import KustoFault, Table

POLICY_COLUMNS = (
    ("PolicyName", "string"),
    ("EntityName", "string"),
    ("Policy", "string"),
    ("ChildEntities", "string"),
    ("EntityType", "string"),
)
POLICIES = {
    "caching": "CachingPolicy",
    "encoding": "EncodingPolicy",
    "extent_tags_retention": "ExtentTagsRetentionPolicy",
    "ingestionbatching": "IngestionBatchingPolicy",
    "ingestiontime": "IngestionTimePolicy",
    "merge": "ExtentsMergePolicy",
    "partitioning": "PartitioningPolicy",
    "restricted_view_access": "RestrictedViewAccessPolicy",
    "retention": "RetentionPolicy",
    "roworder": "RowOrderPolicy",
    "sharding": "ShardingPolicy",
    "streamingingestion": "StreamingIngestionPolicy",
    "update": "UpdatePolicy",
}


def alter(context: Context, reader: Reader) -> Table:
    """`.alter table|tables|database ... policy ...`."""
    return alter_policy(context, reader, merge=False)


def delete(context: Context, reader: Reader) -> Table:
    """`.delete table T policy P`."""
    kind, names = _policy_owner(context, reader)
    reader.need("policy")
    policy = _policy_name(reader)
    for name in names:
        context.store.delete("policy", name if kind == "Table" else "", policy)
    return Table(POLICY_COLUMNS, [policy_row(context, kind, name, policy) for name in names])


def policy_row(context: Context, kind: str, name: str, policy: str) -> tuple[str, ...]:
    """One policy of a table, or of the database, "null" when none is set."""
    body = context.store.get("policy", name if kind == "Table" else "", policy)
    shown = "null" if body is None else orjson.dumps(body["value"]).decode()
    entity = f"[{context.store.database}].[{name}]" if kind == "Table" else f"[{context.store.database}]"
    return (POLICIES[policy], entity, shown, "", kind)


def alter_policy(context: Context, reader: Reader, *, merge: bool) -> Table:
    """Set a policy, or lay the fields of an object over the one that is set (`merge`)."""
    kind, names = _policy_owner(context, reader)
    reader.need("policy")
    policy = _policy_name(reader)
    text = reader.rest().strip().removesuffix(";").strip()
    value: object
    if text[:1] in "`'\"@~" or text[:2].lower() in ("h'", 'h"'):
        literal = Reader(text)
        value = _policy_json(literal.long_string(), policy)
        literal.end()
    elif text:
        value = {"Setting": text}  # such as `caching hot = 31d` or `streamingingestion enable`
    else:
        reader.fail("a policy")
    set_ = []
    for name in names:
        owner = name if kind == "Table" else ""
        old = context.store.get("policy", owner, policy) if merge else None
        merged = (
            {**old["value"], **value} if old and isinstance(old["value"], dict) and isinstance(value, dict) else value
        )
        set_.append((owner, policy, {"value": merged}))
    context.store.put_all("policy", set_)
    return Table(POLICY_COLUMNS, [policy_row(context, kind, name, policy) for name in names])


def _policy_owner(context: Context, reader: Reader) -> tuple[str, list[str]]:
    if reader.take("database"):
        name = reader.name()
        context.need_database(name)
        return "Database", [name]
    if not reader.take("tables"):
        reader.need("table")
    return "Table", [context.store.table(name).name for name in reader.names()]


def _policy_name(reader: Reader) -> str:
    if reader.word() not in POLICIES:
        reader.fail("the name of a policy")
    return reader.any_word()


def _policy_json(text: str, policy: str) -> object:
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        raise KustoFault(f"The {policy} policy is not JSON: {error}", code="BadRequest_InvalidPolicy") from error
