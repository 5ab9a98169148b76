"""One readable error where a schedule or a sensor cannot be evaluated, or a downstream asset cannot be given its rows.

Here: the decorator and the error. Not here: failures of loads, which come with a report (`failing`).

Dagster shows the error that user code raised below its own ("Error occurred during the evaluation of ...") and below
the stack of that. One of its own kind (`DagsterError`) it shows as it is.
"""

import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import Any, TypeVar

import dagster as dg

from defender_adx_pipeline.defs.advice import EXPECTED
from defender_adx_pipeline.defs.resources import AdxResource

_Evaluation = TypeVar("_Evaluation", bound=Callable[..., Any])


class EvaluationError(dg.DagsterError):
    """What a schedule or a sensor failed with: what happened, and what to do."""


class ReadingError(dg.DagsterError):
    """Why a downstream asset was not given its rows: what happened, and what to do."""


@contextmanager
def reading(asset: str) -> Iterator[None]:
    """Turn what is meant for the operator into the error of a step that was to get the rows of an asset.

    Raises:
        ReadingError: in the place of an error of ADX, of the settings or of the configuration.
    """
    try:
        yield
    except EXPECTED as error:
        raise ReadingError(
            f"{asset}: {str(error).rstrip('. ')}. Nothing was read or changed; run the step again when it is mended."
            " `defender-adx doctor`, with the settings of this process, tells all that is wrong."
        ) from None


def readable(evaluate: _Evaluation) -> _Evaluation:
    """Decorate the function of a schedule or a sensor, below Dagster's decorator.

    An error that is meant for the operator becomes the tick's, without a stack of causes; anything else is a bug, and
    keeps its stack. The function's `AdxResource` is told to `hurry`: Dagster gives an evaluation a minute, and says
    nothing but that when it is over.
    """

    @wraps(evaluate)
    def evaluated(*arguments: Any, **named: Any) -> Any:
        with _told(evaluate.__name__, named):
            return evaluate(*arguments, **named)

    @wraps(evaluate)
    def evaluated_one_by_one(*arguments: Any, **named: Any) -> Iterator[Any]:
        with _told(evaluate.__name__, named):
            yield from evaluate(*arguments, **named)

    return evaluated_one_by_one if inspect.isgeneratorfunction(evaluate) else evaluated  # type: ignore[return-value]


@contextmanager
def _told(name: str, arguments: dict[str, Any]) -> Iterator[None]:
    for resource in arguments.values():
        if isinstance(resource, AdxResource):
            resource.hurry()
    try:
        yield
    except EXPECTED as error:
        raise EvaluationError(
            f"{name}: {str(error).rstrip('. ')}. No run was started, and nothing is lost: the next tick tries again,"
            " and Defender keeps 30 days. `defender-adx doctor`, where the code location runs, tells all that is wrong."
        ) from None
