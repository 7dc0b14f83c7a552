"""Bulk parsing inside engines that hold more than a machine does: a Ray Data and a Spark transform.

>>> dataset.map_batches(ParseBatch, fn_constructor_args=["models/conv-nar-topv2"], concurrency=4)
>>> frame.mapInPandas(spark_transform("models/conv-nar-topv2"), spark_schema(frame.schema))
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from assistants import runtime
from assistants.columns import COLUMNS, check_free, columns

if TYPE_CHECKING:
    import pandas as pd
    from pyspark.sql.types import StructType


class ParseBatch:
    """A callable class for ``ray.data.Dataset.map_batches``; every worker loads the bundle once.

    Args:
        bundle: folder or ``.zip`` that all workers can read.
        column: of the utterances.
        precision: ``int8``, ``int4`` or ``fp32``; None takes the first of them that the bundle has.
    """

    def __init__(self, bundle: Path | str, column: str = "utterance", precision: str | None = None) -> None:
        self._parser, self._column = runtime.load(bundle, precision), column

    def __call__(self, batch: dict[str, np.ndarray]) -> dict[str, Any]:
        """A batch of columns, and those of :data:`assistants.columns.COLUMNS`.

        Raises:
            UsageError: the batch has one of these already.
        """
        check_free(batch)
        found = columns(self._parser, list(batch[self._column]))
        return {**batch, **{name: _array(values, COLUMNS[name]) for name, values in found.items()}}


def spark_transform(
    bundle: Path | str, column: str = "utterance", precision: str | None = None
) -> Callable[[Iterator[pd.DataFrame]], Iterator[pd.DataFrame]]:
    """A function for ``pyspark.sql.DataFrame.mapInPandas``; every task loads the bundle once.

    Args:
        bundle: folder or ``.zip`` that all executors can read.
        column: of the utterances.
        precision: ``int8``, ``int4`` or ``fp32``; None takes the first of them that the bundle has.
    """

    def transform(frames: Iterator[pd.DataFrame]) -> Iterator[pd.DataFrame]:
        parse = ParseBatch(bundle, column, precision)
        for frame in frames:
            check_free(frame)
            found = parse({column: frame[column].to_numpy(dtype=object)})
            yield frame.assign(**{name: found[name] for name in COLUMNS})

    return transform


def spark_schema(schema: StructType) -> StructType:
    """The schema of a transformed Spark table: a copy of its own, and the columns that are added."""
    from pyspark.sql import types

    kinds = {str: types.StringType(), float: types.DoubleType(), bool: types.BooleanType()}
    return types.StructType(
        [*schema.fields, *(types.StructField(name, kinds[kind], True) for name, kind in COLUMNS.items())]
    )


def _array(values: list[Any], kind: type) -> np.ndarray:
    """A column; numbers that are missing are NaN, so that a batch without one has the same type as the others."""
    return np.array(values, dtype=np.float64 if kind is float else object)
