"""Ray Data and Spark parse with a bundle on a local cluster; each needs its extra (``ray``, ``spark``) and Spark a Java."""

import os
import shutil
import sys
from pathlib import Path

import pytest

from assistants import runtime
from assistants.columns import COLUMNS
from assistants.transforms import ParseBatch, spark_schema, spark_transform

UTTERANCES = ["wake me at 6", "any rain tomorrow", "", "remind me to call mum", "play some jazz"] * 8


@pytest.fixture
def wanted(repository: Path) -> list[str | None]:
    """The frames of the runtime, None for an utterance that cannot be parsed."""
    parser = runtime.load(repository / "models" / "conv-nar-topv2", threads=1)
    return [str(parser.parse([text])[0][0].frame) if text else None for text in UTTERANCES]


def test_ray_parses_on_a_local_cluster(repository: Path, wanted: list[str | None]):
    ray = pytest.importorskip("ray", reason="ray is not installed: pip install -e '.[ray]'")
    environment = {"env_vars": {"PYTHONPATH": str(repository)}}
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, runtime_env=environment)
    try:
        rows = [{"number": number, "utterance": text} for number, text in enumerate(UTTERANCES)]
        parsed = ray.data.from_items(rows).map_batches(
            ParseBatch,
            fn_constructor_args=[str(repository / "models" / "conv-nar-topv2")],
            batch_size=16,
            concurrency=1,
        )
        found = sorted(parsed.take_all(), key=lambda row: row["number"])
    finally:
        ray.shutdown()
    assert [row["frame"] for row in found] == wanted
    assert ["E410" in (row["error"] or "") for row in found] == [not text for text in UTTERANCES]


def test_spark_parses_on_a_local_cluster(repository: Path, wanted: list[str | None], monkeypatch: pytest.MonkeyPatch):
    sql = pytest.importorskip("pyspark.sql", reason="pyspark is not installed: pip install -e '.[spark]'")
    if "JAVA_HOME" not in os.environ and shutil.which("java") is None:
        pytest.skip("Spark needs Java")
    monkeypatch.setenv("PYTHONPATH", str(repository))
    monkeypatch.setenv("PYSPARK_PYTHON", sys.executable)
    builder = sql.SparkSession.builder.master("local[2]").config("spark.ui.enabled", "false")
    spark = (
        builder.config("spark.driver.bindAddress", "127.0.0.1").config("spark.driver.host", "127.0.0.1").getOrCreate()
    )
    try:
        table = spark.createDataFrame(list(enumerate(UTTERANCES)), ["number", "utterance"])
        bundle = repository / "models" / "conv-nar-topv2"
        parsed = table.mapInPandas(spark_transform(bundle), spark_schema(table.schema))
        found = sorted(parsed.collect(), key=lambda row: row["number"])
    finally:
        spark.stop()
    assert [row["frame"] for row in found] == wanted
    assert set(COLUMNS) <= set(parsed.columns)
