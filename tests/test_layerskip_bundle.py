"""LayerSkip in a bundle, and language models that are adapted by LoRA."""

import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import torch

from assistants import runtime
from assistants.export import export
from assistants.rounding import rounded
from data.synthetic import generate
from frames.errors import UsageError
from frames.ontology import Ontology
from frames.tokenization import PieceTokenizer
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets
from lightning_modules.layerskip import LayerSkipModule
from parsers.layerskip.decoding import Decoder, LayerSkipDecodingConfig
from parsers.layerskip.model import LayerSkipConfig
from scripts.cli import main
from tests.training import environment, fit

ROWS = generate(train=200, evaluation=20, test=20)["train"]
UTTERANCES = [row.utterance for row in ROWS[:30]]
TOKENIZER = PieceTokenizer.train_sentencepiece([row.utterance for row in ROWS], 200)
ASSETS = Assets(TOKENIZER, Ontology.from_frames([row.frame.decoupled() for row in ROWS]), "copy")


def write_checkpoint(path: Path, config: LayerSkipConfig, sharp: float = 6.0) -> Path:
    """A parser with random weights, so wide that drafts of early layers are often refused."""
    torch.manual_seed(0)
    decoding = LayerSkipDecodingConfig(exit_layer=1, drafts=3)
    module = LayerSkipModule(config, decoding)
    module.build(ASSETS)
    with torch.no_grad():
        for parameter in module.net.parameters():
            if parameter.ndim > 1:
                parameter.copy_(torch.randn_like(parameter) * 0.02 * sharp)
    metadata = {
        "kind": "layerskip", "assets": ASSETS.to_dict(), "model": asdict(module.config), "decoding": asdict(decoding),
        "optimization": asdict(module.optimization), "data": {},
    }  # fmt: skip
    parameters = {f"model.{name}": value for name, value in module.net.state_dict().items()}
    torch.save({"framefill": metadata, "state_dict": parameters}, path)
    return path


SIZES = {"width": 32, "layers": 3, "heads": 2, "feed_forward": 48}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    config = LayerSkipConfig(**SIZES, read_both_ways=True, lora_rank=2)
    return write_checkpoint(tmp_path_factory.mktemp("layerskip") / "x.ckpt", config)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Path:
    return export(checkpoint, tmp_path_factory.mktemp("exported") / "layerskip")


def test_an_exit_that_the_model_does_not_have(checkpoint: Path, corpus: Path, tmp_path: Path, capsys):
    for words in (
        ["export", "--out", str(tmp_path / "out")],
        ["evaluate", "--data-root", str(corpus), "--json", str(tmp_path / "out.json")],
    ):
        assert main([*words, "--checkpoint", str(checkpoint), "--decoding", "exit_layer=99"]) == 2
        assert "E486" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_a_language_model_is_not_exported_in_four_bits(checkpoint: Path, tmp_path: Path):
    with pytest.raises(UsageError, match="E435"):
        export(checkpoint, tmp_path / "int4", ["int4"])
    assert not (tmp_path / "int4").exists()


def test_the_bundle_of_an_adapted_model_parses_what_its_checkpoint_parses(bundle: Path, checkpoint: Path):
    """The adapters of LoRA are saved, loaded and, in the bundle, merged into the matrices."""
    module, _ = load_module(checkpoint)
    assert any("lora_" in name for name, _ in module.net.named_parameters())
    for n_best in (1, 3):
        wanted, found = (
            module.parser().parse(UTTERANCES, n_best),
            runtime.load(bundle, "fp32").parse(UTTERANCES, n_best),
        )
        for one, other in zip(wanted, found, strict=True):
            assert [h.frame for h in one] == [h.frame for h in other]
            assert [h.score for h in one] == pytest.approx([h.score for h in other], abs=1e-3)


def test_int8_drafts_change_nothing(bundle: Path):
    parser = runtime.load(bundle)
    assert parser.precision == "int8"
    tokens = {}
    for name, options in {
        "token by token": {"exit_layer": 0, "copies": 0, "skip_forced": False, "group": 1},
        "drafted": {"exit_layer": 1, "drafts": 4},
        "alone": {"exit_layer": 1, "drafts": 2, "group": 1},
        "whole vocabulary": {"exit_layer": 1, "score_candidates": False},
    }.items():
        parser.config = LayerSkipDecodingConfig(**options)
        parser.decoder = Decoder(parser.backend, parser.config)
        found = parser.parse(UTTERANCES)
        tokens[name] = [[token["token"] for token in h[0].trace["tokens"]] for h in found]
        if name == "drafted":
            assert 0 < parser.decoder.counts.accepted < parser.decoder.counts.drafted
    assert all(written == tokens["token by token"] for written in tokens.values())


def test_threads_change_no_frame(bundle: Path):
    found = []
    for threads in (1, 3):
        parser = runtime.load(bundle, threads=threads)
        parser.config = replace(parser.config, group=5)
        found.append([h[0].frame for h in parser.parse(UTTERANCES)])
    assert found[0] == found[1]


def test_a_language_model_in_a_bundle_needs_no_torch(bundle: Path, repository: Path):
    absent = ("torch", "transformers", "pytorch_lightning", "onnx", "peft", "data", "lightning_modules", "faiss")
    code = (
        f"import sys; sys.modules.update(dict.fromkeys({absent}))\n"
        f"from assistants import runtime; print(runtime.load({str(bundle)!r}).parse(['wake me at 6'])[0][0].frame)\n"
    )
    words = [sys.executable, "-c", code]
    done = subprocess.run(words, cwd=repository, env=environment(repository), capture_output=True, text=True)
    assert done.stdout.startswith("[IN:"), done.stderr


def test_rounded_weights_are_within_half_a_step():
    weights = np.random.default_rng(0).standard_normal((6, 9)).astype(np.float32)
    weights[:, 4] = 0
    for axis in (0, 1):
        values, scales = rounded(weights, axis)
        assert values.dtype == np.int8
        assert (np.abs(values * scales - weights) <= scales / 2 + 1e-6).all()


def test_lora_and_gradient_checkpointing_train_save_and_load(tmp_path: Path, corpus: Path, repository: Path):
    """On a tiny Llama with random weights, from a local folder, as one of the hub would be loaded."""
    folder = save_llama(tmp_path / "llama")
    words = [
        "--run=lora", f"--model.model.language_model={folder}", f"--data.pretrained={folder}",
        "--model.model.lora_rank=2", "--model.model.checkpoint_layers=true", "--model.decoding.exit_layer=1",
        "--trainer.max_steps=3", "--data.batch_size=8", "--trainer.limit_val_batches=1", "--data.validation_rows=8",
        "--trainer.precision=bf16-mixed",
    ]  # fmt: skip
    said = fit(tmp_path, corpus, repository, *words, config=repository / "configs" / "layerskip_smollm2.yaml")
    assert "on_before_batch_transfer" not in said
    module, metadata = load_module(tmp_path / "runs" / "lora" / "best.ckpt")
    assert metadata["model"]["lora_rank"] == 2
    pairs = {name: value for name, value in module.net.named_parameters() if "lora_B" in name}
    assert any(value.abs().max() > 0 for value in pairs.values()), "no adapter was fitted"
    merged = module.net.merged()
    assert not any("lora_" in name for name, _ in merged.named_parameters())
    tokens = torch.randint(0, 100, (2, 7))
    states = module.net(tokens, None, [None] * module.net.depth, [module.net.depth - 1])[0]
    assert torch.allclose(states, merged(tokens, None, [None] * merged.depth, [merged.depth - 1])[0], atol=1e-4)


def save_llama(folder: Path) -> Path:
    """A language model with random weights and a tokenizer of its own, as the hub stores them."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=400, initial_alphabet=alphabet, special_tokens=["<s>"], show_progress=False
    )
    backend.train_from_iterator([row.utterance for row in ROWS], trainer)
    PreTrainedTokenizerFast(tokenizer_object=backend, bos_token="<s>", pad_token="<s>").save_pretrained(folder)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 3, "num_attention_heads": 2}
    torch.manual_seed(0)
    LlamaForCausalLM(LlamaConfig(vocab_size=backend.get_vocab_size(), **sizes)).save_pretrained(folder)
    return folder
