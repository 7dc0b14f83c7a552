"""Options of earlier versions load, or are refused where they would mean something else."""

from dataclasses import asdict, dataclass
from typing import Literal, get_args

import pytest

from frames.linearization import POINTER_FORMS
from lightning_modules.datamodule import Form
from lightning_modules.nar import NAROptimizationConfig
from parsers.aliases import DROPPED, RENAMED, check_choices, known_options
from parsers.conv_nar.model import ConvNARConfig
from parsers.nar import DecodingConfig
from parsers.nar_model import NARConfig
from parsers.raf.candidate import RAFDecodingConfig
from parsers.raf.model import RAFConfig


def test_options_load_under_their_present_names():
    old = {"lr": 0.5, "length_weight": 0.4, "rescoring_loss": 0.25, "warmup": 0.1, "masking": "everything"}
    options = NAROptimizationConfig(**known_options(NAROptimizationConfig, old))
    assert (options.length_loss_weight, options.lr_warmup) == (0.4, 0.1)
    # An option of decoding had the old name of another, and is gone.
    assert known_options(DecodingConfig, {"length_weight": 1.0, "passes": 1}) == {}
    assert known_options(ConvNARConfig, asdict(ConvNARConfig())) == asdict(ConvNARConfig())


def test_options_that_are_gone_are_dropped_where_that_changes_nothing():
    assert known_options(ConvNARConfig, {"width": 8, "pointer_heads": 4, "reads_tokens": False}) == {"width": 8}
    with pytest.raises(TypeError, match="passes"):
        DecodingConfig(**known_options(DecodingConfig, {"passes": 3}))
    with pytest.raises(TypeError, match="reads_tokens"):
        ConvNARConfig(**known_options(ConvNARConfig, {"reads_tokens": True}))
    with pytest.raises(TypeError, match="length_weight"):
        DecodingConfig(**known_options(DecodingConfig, {"length_weight": 2.0}))
    saved = {"leaf_width": 128, "decoder_self_attention": True, "pointer_copy": "positions", "retrieval_width": 8}
    assert known_options(RAFConfig, saved) == {"retrieval_width": 8}
    for changed in ({"leaf_width": 64}, {"decoder_self_attention": False}, {"pointer_copy": "types"}):
        with pytest.raises(TypeError, match=next(iter(changed))):
            RAFConfig(**known_options(RAFConfig, changed))
    with pytest.raises(TypeError, match="invented"):
        DecodingConfig(**known_options(DecodingConfig, {"invented": 1}))
    assert known_options(NAROptimizationConfig, {"masking": "uniform", "invented": 1}, drop_unknown=True) == {}


@pytest.mark.parametrize(
    ("options", "saved", "now"),
    [
        (NARConfig, {"length_pooling": "mean", "length_embedding": False}, {"plain_length": True}),
        (NARConfig, {"length_pooling": "mean_max", "length_embedding": True}, {"plain_length": False}),
        (RAFConfig, {"filling": "table", "encoders": "shared", "spans": "joint"}, {"filling": "table"}),
        (
            RAFConfig,
            {"filling": "together", "encoders": "separate", "spans": "endpoints"},
            {"filling": "cross_encoder"},
        ),
        (RAFConfig, {"own_vectors": True, "lift": 1.5}, {"scenario_embeddings": True, "unseen_scale": 1.5}),
        (RAFDecodingConfig, {"num_composed": 0, "compose_weight": 0.0}, {"compose_weight": 0.0}),
        (RAFDecodingConfig, {"num_composed": 4, "compose_weight": 8.0}, {"compose_weight": 8.0}),
    ],
    ids=str,
)
def test_options_that_became_one_load_where_they_mean_the_same(options: type, saved: dict, now: dict):
    assert known_options(options, saved) == now
    assert known_options(options, now) == now


@pytest.mark.parametrize(
    ("options", "saved"),
    [
        (NARConfig, {"length_pooling": "mean", "length_embedding": True}),
        (RAFConfig, {"filling": "together", "encoders": "shared", "spans": "joint"}),
        (RAFConfig, {"filling": "table", "encoders": "shared", "spans": "endpoints"}),
        (RAFDecodingConfig, {"num_composed": 0, "compose_weight": 1.0}),
    ],
    ids=str,
)
def test_combinations_that_are_gone_are_refused(options: type, saved: dict):
    with pytest.raises((TypeError, ValueError), match="|".join(saved)):
        options(**known_options(options, saved))


def test_saved_choices_are_checked():
    @dataclass
    class Options:
        size: Literal["small", "large"] = "small"
        other: str = ""

    check_choices(Options, {"size": "large", "other": "anything"})
    with pytest.raises(ValueError, match="size 'huge': one of small, large"):
        check_choices(Options, {"size": "huge"})
    with pytest.raises(ValueError, match="pointer_copy 'words'"):
        known_options(ConvNARConfig, {"pointer_copy": "words"})


def test_tables_name_no_present_option():
    assert set(get_args(Form)) == set(POINTER_FORMS)
    # Renamed in optimization, gone from decoding.
    assert set(RENAMED) & set(DROPPED) == {"length_weight"}
