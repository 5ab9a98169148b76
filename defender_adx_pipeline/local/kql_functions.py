"""KQL functions that duckdb-kql lacks, entered into its registry of functions.

Here: what an expression may call beyond the library: `bag_remove_keys`, `hash`, `rand`, `range`, `row_number`, a
`strcat_delim` short enough for many arguments, and a `bin` of datetimes that is exact. Not here: operators
(`kql_serialize`), and functions that only Kusto's engine has (`engine`).
"""

from dataclasses import dataclass

from duckdb_kql import ir, translate
from duckdb_kql.translate.functions import SCALAR_FUNCTIONS, FunctionSpec

_LOWEST_LONG = "9223372036854775808"


@dataclass(frozen=True)
class _Hash(FunctionSpec):
    """`hash(source [, mod])`, with DuckDB's hash in the place of Kusto's xxhash64.

    The numbers are other numbers than Kusto's. What holds as there: equal values of one type have equal hashes, in
    every query and process; hashes are spread evenly; null has a hash; the result is a long, which without `mod` may be
    negative and with it lies in 0 .. mod-1.
    """

    def render(self, args: list[str]) -> str:
        if len(args) == 1:
            return f"CAST(CAST(hash({args[0]}) AS HUGEINT) - {_LOWEST_LONG} AS BIGINT)"
        if len(args) == 2:
            return f"CAST(hash({args[0]}) % CAST({args[1]} AS UBIGINT) AS BIGINT)"
        raise ValueError(f"hash() takes 1 or 2 arguments, got {len(args)}")


@dataclass(frozen=True)
class _RowNumber(FunctionSpec):
    """`row_number([start])`: the place of a row in the order that its row set has already."""

    def render(self, args: list[str]) -> str:
        if len(args) > 1:
            raise ValueError("row_number() with a restart is not known to this stand-in")
        start = args[0] if args else "1"
        return f"(row_number() OVER () - 1 + {start})"


@dataclass(frozen=True)
class _BagRemoveKeys(FunctionSpec):
    """`bag_remove_keys(bag, keys)` for keys of the bag itself; paths such as `$.a.b` are not known."""

    def render(self, args: list[str]) -> str:
        if len(args) != 2:
            raise ValueError(f"bag_remove_keys() takes 2 arguments, got {len(args)}")
        keys = f"""from_json({args[1]}, '["VARCHAR"]')"""
        # In a merge patch (RFC 7396) null removes a key; nulls of the bag that no key names stay.
        return f"json_merge_patch({args[0]}, to_json(map({keys}, list_transform({keys}, lambda _: NULL))))"


def _strcat_delim(node: ir.FunctionCall) -> str | None:
    # The library wraps each argument in a conversion that names it five times, also one that is text already: 64 times
    # tostring() made a megabyte of SQL. concat_ws skips nulls, where Kusto keeps the place of an empty text.
    if not node.args:
        return None
    return f"concat_ws({', '.join(_text(argument) for argument in node.args)})"


def _bin(node: ir.FunctionCall) -> str | None:
    # The library counts in seconds as a double, which are 0.24 us apart in this century, and DuckDB rounds a nanosecond
    # timestamp to microseconds. Kusto's datetimes are whole numbers of 100 ns, of which the bin's start loses none.
    if len(node.args) != 2:
        return None
    value, size = node.args
    is_timespan = isinstance(size, ir.Literal) and size.kind == "timespan"
    if not is_timespan or translate._is_timespan_expr(value):  # noqa: SLF001 - what the library decides by
        return None
    moment, step = translate.render_expr(value), f"epoch_us({translate.render_expr(size)})"
    micros = f"(CASE typeof({moment}) WHEN 'TIMESTAMP_NS' THEN epoch_ns({moment}) // 1000 ELSE epoch_us({moment}) END)"
    return f"list_transform([{micros}], lambda _us: make_timestamp(_us - ((_us % {step}) + {step}) % {step}))[1]"


def _range(node: ir.FunctionCall) -> str | None:
    # As JSON, which is what a dynamic array is here; mv-expand turns its texts into datetimes again.
    if len(node.args) != 3:
        return None
    step = node.args[2]
    parts = [translate.render_expr(argument) for argument in node.args]
    if isinstance(step, ir.Literal) and step.kind == "timespan":
        parts[:2] = [f"CAST({part} AS TIMESTAMP)" for part in parts[:2]]
    return f"to_json(generate_series({', '.join(parts)}))"


def _text(argument: ir.Expr) -> str:
    if isinstance(argument, ir.FunctionCall) and argument.name == "tostring" and len(argument.args) == 1:
        return str(translate.render_expr(argument))
    return str(translate.render_kql_tostring(argument))


def add_functions() -> None:
    """Make the functions known to every translation of this process."""
    SCALAR_FUNCTIONS["bag_remove_keys"] = _BagRemoveKeys("bag_remove_keys", "template", "", (2,))
    for name in ("hash", "hash_xxhash64"):
        SCALAR_FUNCTIONS[name] = _Hash(name, "template", "", (1, 2))
    SCALAR_FUNCTIONS["rand"] = FunctionSpec("rand", "native", "random()", (0,))
    SCALAR_FUNCTIONS["row_number"] = _RowNumber("row_number", "template", "")
    numeric_bin = translate._SPECIAL_FORMS["bin"]  # noqa: SLF001 - consulted before the registry
    for name in ("bin", "floor"):
        translate._SPECIAL_FORMS[name] = lambda node: _bin(node) or numeric_bin(node)  # noqa: SLF001
    translate._SPECIAL_FORMS["range"] = _range  # noqa: SLF001 - consulted before the registry
    translate._SPECIAL_FORMS["strcat_delim"] = _strcat_delim  # noqa: SLF001 - consulted before the registry
