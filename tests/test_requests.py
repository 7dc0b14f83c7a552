"""What every parser answers to arguments that are none."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from assistants import runtime
from frames.errors import UsageError
from frames.frame import Frame
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from parsers.autoregressive.parser import AutoregressiveDecodingConfig, AutoregressiveParser
from parsers.interface import Parser
from tests.encoders import save_encoder


def _autoregressive(folder: Path) -> Parser:
    from lightning_modules.autoregressive import AutoregressiveModule
    from lightning_modules.datamodule import Assets
    from parsers.autoregressive.model import AutoregressiveConfig

    encoder = save_encoder(folder / "encoder", "bert", ["wake me at six", "play it"])
    config = AutoregressiveConfig(
        encoder=str(encoder), width=32, decoder_heads=2, decoder_layers=1, decoder_feed_forward=32
    )
    module = AutoregressiveModule(config)
    ontology = Ontology.from_frames([Frame.parse("[IN:A [SL:B x ] ]")])
    module.build(Assets(PieceTokenizer.from_pretrained(str(encoder)), ontology, "span"))
    assert module.model is not None
    return AutoregressiveParser(
        module.model, PieceTokenizer.from_pretrained(str(encoder)), ontology, "span", AutoregressiveDecodingConfig()
    )


@pytest.fixture(scope="module", params=["conv-nar-topv2", "raf-topv2", "autoregressive"])
def parser(request: pytest.FixtureRequest, repository: Path, tmp_path_factory: pytest.TempPathFactory) -> Parser:
    if request.param == "autoregressive":
        return _autoregressive(tmp_path_factory.mktemp("autoregressive"))
    return runtime.load(repository / "models" / request.param)


@pytest.mark.parametrize(
    ("utterances", "n_best", "code"),
    [
        ("play it", 1, "E453"),
        ("", 1, "E453"),
        (b"play it", 1, "E453"),
        (None, 1, "E453"),
        (7, 1, "E453"),
        ({"play it": 1}, 1, "E453"),
        (["play it", None], 1, r"E454.*utterances\[1\].*None"),
        ([b"play it"], 1, r"E454.*utterances\[0\].*bytes"),
        ([["play it", "wake me"]], 1, "E454.*list"),
        ([("play", "it", "now")], 2, "E454.*tuple"),
        ([float("nan")], 1, "E454.*float"),
        (["play it"], 0, "E455"),
        (["play it"], -3, "E455"),
        (["play it"], 1.5, "E455"),
        (["play it"], "2", "E455"),
        (["play it"], None, "E455"),
        (["play it"], True, "E455"),
        ([], 0, "E455"),
        (["play it", " "], 1, "E410"),
    ],
)
def test_wrong_arguments_are_refused(parser: Parser, utterances: Any, n_best: Any, code: str):
    with pytest.raises(UsageError, match=code):
        parser.parse(utterances, n_best)


def test_what_holds_text_is_parsed(parser: Parser):
    assert parser.parse([]) == parser.parse((), 3) == []
    (expected,) = parser.parse(["play it"])
    kinds: list[Iterable[str]] = [("play it",), iter(["play it"]), np.array(["play it"])]
    for utterances in kinds:
        assert [[h.frame for h in found] for found in parser.parse(utterances)] == [[h.frame for h in expected]]  # type: ignore[arg-type]
    assert parser.parse(["play it"], np.int64(1))[0][0].frame == expected[0].frame  # type: ignore[arg-type]
