"""Pretrained models are trained in single precision, whatever precision their files have."""

import shutil
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel

from data.topv2.reader import read_split
from data.training.batches import BatchStream
from frames.errors import UsageError
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.span_pointer import SpanPointerModule
from parsers.pretrained import build_transformer, load_pretrained, load_transformer, position_limit
from parsers.span_pointer.model import SpanPointerConfig
from tests.encoders import save_encoder


@pytest.fixture(scope="module")
def utterances(corpus: Path) -> list[str]:
    return [example.utterance for example in read_split(corpus, "train", ["weather"])]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("family", ["bert", "roberta"])
def test_an_encoder_in_half_precision_is_trained(
    dtype: torch.dtype, family: str, utterances: list[str], corpus: Path, tmp_path: Path
):
    folder = save_encoder(tmp_path / "encoder", family, utterances)
    AutoModel.from_pretrained(folder).to(dtype).save_pretrained(folder)
    assert AutoModel.from_pretrained(folder).dtype == dtype, "the file must be in half precision for this test to test"
    data = TOPv2DataModule(str(corpus), ["weather"], pretrained=str(folder), batch_size=8)
    data.setup("fit")
    assert data.assets is not None and data.train_corpus is not None
    config = SpanPointerConfig(
        encoder=str(folder), width=16, decoder_layers=1, decoder_heads=2, decoder_feed_forward=16
    )
    module = SpanPointerModule(config)
    module.build(data.assets)
    assert {parameter.dtype for parameter in module.parameters()} == {torch.float32}
    optimizer = torch.optim.AdamW(module.parameters(), lr=1e-3)
    before = module.net.encoder.transformer.get_input_embeddings().weight.clone()
    module.losses(next(iter(BatchStream(data.train_corpus, 8))))["loss"].backward()
    optimizer.step()
    assert not torch.equal(before, module.net.encoder.transformer.get_input_embeddings().weight)
    # A checkpoint is loaded into an encoder that is built from the configuration alone.
    assert build_transformer(module.encoder_config).dtype == torch.float32


def test_a_causal_model_loads_in_single_precision(tmp_path: Path):
    GPT2LMHeadModel(GPT2Config(vocab_size=40, n_positions=16, n_embd=8, n_layer=1, n_head=2)).to(
        torch.bfloat16
    ).save_pretrained(tmp_path)
    model = load_pretrained(AutoModelForCausalLM, str(tmp_path))
    assert isinstance(model, GPT2LMHeadModel) and {p.dtype for p in model.parameters()} == {torch.float32}
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(UsageError, match="E424"):
        load_pretrained(AutoModelForCausalLM, str(tmp_path))


@pytest.mark.parametrize("family, limit", [("bert", 300), ("roberta", 298)])
def test_rows_that_an_encoder_has_no_positions_for_are_named(
    family: str, limit: int, utterances: list[str], corpus: Path, tmp_path: Path
):
    folder = save_encoder(tmp_path / "encoder", family, utterances)
    transformer = load_transformer(str(folder))
    assert position_limit(transformer) == limit
    ids = torch.ones(1, limit, dtype=torch.long) * 7
    transformer(input_ids=ids)
    with pytest.raises((IndexError, RuntimeError, ValueError)):
        transformer(input_ids=torch.cat((ids, ids[:, :1]), dim=1))
    root = tmp_path / "corpus"
    root.mkdir()
    for split in ("train", "eval"):
        shutil.copy(corpus / f"weather_{split}.tsv", root)
    lines = (root / "weather_eval.tsv").read_text().splitlines()
    words = " 7" * (limit - 3)
    (root / "weather_eval.tsv").write_text("\n".join([*lines, f"weather\tsnow{words}\t[IN:GET_WEATHER snow{words} ]"]))
    data = TOPv2DataModule(str(root), pretrained=str(folder))
    data.setup("fit")
    assert data.assets is not None
    config = SpanPointerConfig(
        encoder=str(folder), width=16, decoder_layers=1, decoder_heads=2, decoder_feed_forward=16
    )
    module = SpanPointerModule(config)
    module.build(data.assets)
    longest = max(length for length, _ in data._longest)
    assert module.longest_utterance == limit - 2
    data.check_lengths(longest)
    with pytest.raises(UsageError, match=rf"E461.*weather_eval\.tsv:{len(lines) + 1}"):
        data.check_lengths(longest - 1)
