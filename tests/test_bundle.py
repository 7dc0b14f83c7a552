import json
import math
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

from assistants import runtime
from assistants.bundle import most_accurate, write_in_parts
from assistants.export import bundle_size, export
from data.topv2.reader import read_split
from frames.errors import BundleError, MachineError, UsageError
from frames.folders import write_manifest
from lightning_modules.checkpoints import load_module
from parsers.nar_model import NARModel
from tests.training import environment


def test_the_bundle_parses_what_the_checkpoint_parses(bundle: Path, checkpoint: Path, corpus: Path):
    utterances = [example.utterance for split in ("eval", "train") for example in read_split(corpus, split)[:200]]
    module, _ = load_module(checkpoint)
    expected, found = module.parser().parse(utterances), runtime.load(bundle, "fp32").parse(utterances)
    for one, other in zip(expected, found, strict=True):
        assert one[0].frame == other[0].frame
        assert one[0].score == pytest.approx(other[0].score, abs=1e-3)


def test_batches_and_single_utterances_agree(bundle: Path, corpus: Path):
    parser = runtime.load(bundle, "fp32")
    utterances = [example.utterance for example in read_split(corpus, "eval")][:40]
    alone = [parser.parse([utterance])[0][0].frame for utterance in utterances]
    assert alone == [hypotheses[0].frame for hypotheses in parser.parse(utterances)]


def test_every_frame_is_well_formed_and_n_best_is_ordered(bundle: Path, corpus: Path):
    parser = runtime.load(bundle)
    assert parser.precision == "int8"
    for hypotheses in parser.parse([example.utterance for example in read_split(corpus, "eval")], n_best=3):
        # The first is the one that is given alone, which int8 graphs score a little otherwise in another batch.
        scores = [h.score for h in hypotheses[1:]]
        assert scores == sorted(scores, reverse=True) and hypotheses[0].score > scores[0] - 0.5
        assert len({h.frame for h in hypotheses}) == len(hypotheses)
        assert all(parser.ontology.valid(h.frame) for h in hypotheses)


def test_lazy_lengths_give_the_best_of_the_whole_beam(bundle: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("parsers.constrained.MAX_STEPS", 100_000)
    parser = runtime.load(bundle, "fp32")
    utterances = [example.utterance for example in read_split(corpus, "eval")]
    for lazy, wide in zip(parser.parse(utterances), parser.parse(utterances, n_best=2), strict=True):
        assert lazy[0].score + 1e-4 >= max(hypothesis.score for hypothesis in wide)


def test_threads_change_nothing(bundle: Path, corpus: Path):
    utterances = [example.utterance for example in read_split(corpus, "eval")] * 2
    assert runtime.load(bundle, threads=3).parse(utterances) == runtime.load(bundle).parse(utterances)


def test_the_first_of_several_is_the_one_that_is_given_alone(bundle: Path, corpus: Path):
    parser = runtime.load(bundle)
    utterances = [example.utterance for example in read_split(corpus, "eval")]
    for (alone,), several in zip(parser.parse(utterances), parser.parse(utterances, 3), strict=True):
        assert several[0].frame == alone.frame
        assert len({str(hypothesis.frame) for hypothesis in several}) == len(several) == 3


def test_the_runtime_needs_numpy_onnxruntime_and_tokenizers_alone(bundle: Path, repository: Path):
    code = (
        "import sys\n"
        "for name in ('torch', 'transformers', 'pytorch_lightning', 'faiss', 'safetensors'): sys.modules[name] = None\n"
        "from assistants import runtime\n"
        f"print(runtime.load({str(bundle)!r}).parse(['wake me at 6'])[0][0].frame)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], env=environment(repository), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("[IN:")


def test_bundles_tell_nothing_of_the_machine_that_made_them(bundle: Path, repository: Path):
    for path in bundle.iterdir():
        content = path.read_bytes()
        assert str(repository).encode() not in content and b".py" not in content, path.name


def test_odd_utterances_are_parsed_or_refused(bundle: Path):
    parser = runtime.load(bundle)
    for text in ("😀", "ذكرني غدا في السادسة", "wake\x00me", "]", "x"):
        frame = parser.parse([text])[0][0].frame
        assert frame is not None
        assert frame.utterance == text
    for text, code in (("", "E410"), ("  ", "E410"), ("wake me at 6 " * 800, "E411")):
        with pytest.raises(UsageError, match=code):
            parser.parse([text])


def test_a_flipped_byte_in_any_file_is_noticed(bundle: Path, tmp_path: Path):
    manifest = json.loads((bundle / "manifest.json").read_text())
    for name in manifest["files"]:
        copy = tmp_path / "copy"
        shutil.copytree(bundle, copy)
        content = bytearray((copy / name).read_bytes())
        content[len(content) // 2] ^= 1
        (copy / name).write_bytes(content)
        precision = "int8" if ".int8." in name else "fp32"
        with pytest.raises(BundleError, match=f"{name}.*checksum"):
            runtime.load(copy, precision)
        shutil.rmtree(copy)


def test_graphs_in_parts_are_read_as_one(bundle: Path, tmp_path: Path):
    copy = Path(shutil.copytree(bundle, tmp_path / "copy"))
    whole = copy / "encoder.int8.onnx"
    content = whole.read_bytes()
    whole.unlink()
    write_in_parts(whole, content, len(content) // 2)
    parts = sorted(path.name for path in copy.glob("encoder.int8.onnx.part*"))
    assert parts == [f"encoder.int8.onnx.part{k}" for k in (1, 2, 3)[: len(parts)]] and len(parts) >= 2
    manifest = json.loads((copy / "manifest.json").read_text())
    write_manifest(copy, manifest)
    texts = ["wake me at 6", "stop the timer"]
    assert runtime.load(copy).parse(texts) == runtime.load(bundle).parse(texts)
    damaged = copy / parts[-1]
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"x")
    with pytest.raises(BundleError, match=rf"{parts[-1]}.*checksum"):
        runtime.load(copy)
    damaged.unlink()
    with pytest.raises(BundleError, match="E326"):
        runtime.load(copy)
    write_in_parts(tmp_path / "small", b"abc", 3)
    assert (tmp_path / "small").read_bytes() == b"abc"


def test_bundles_that_are_not(bundle: Path, tmp_path: Path):
    with pytest.raises(BundleError, match="E320"):
        runtime.load(tmp_path / "none")
    (tmp_path / "empty").mkdir()
    with pytest.raises(BundleError) as caught:
        runtime.load(tmp_path / "empty")
    assert caught.value.code == "E326"
    (tmp_path / "x.zip").write_bytes(b"no zip")
    with pytest.raises(BundleError, match="E321"):
        runtime.load(tmp_path / "x.zip")
    newer = tmp_path / "newer"
    shutil.copytree(bundle, newer)
    manifest = json.loads((newer / "manifest.json").read_text())
    (newer / "manifest.json").write_text(json.dumps({**manifest, "format": 99}))
    with pytest.raises(BundleError, match="E323"):
        runtime.load(newer)
    (newer / "manifest.json").write_text("{")
    with pytest.raises(BundleError, match="E322"):
        runtime.load(newer)
    with pytest.raises(BundleError, match="E327"):
        runtime.load(bundle, "fp16")


def test_the_most_accurate_bundle_is_found(bundle: Path, tmp_path: Path):
    assert most_accurate(tmp_path) is None
    for name, figures in (("a", {}), ("b", {"exact_match": 71.5}), ("c", {"exact_match": 8.0})):
        shutil.copytree(bundle, tmp_path / name)
        manifest = json.loads((bundle / "manifest.json").read_text())
        (tmp_path / name / "manifest.json").write_text(json.dumps({**manifest, "metrics": figures}))
    assert most_accurate(tmp_path) == tmp_path / "b"


def test_zip_int8_only_and_its_size(bundle: Path, checkpoint: Path, tmp_path: Path):
    out = export(checkpoint, tmp_path / "tiny.zip", ["int8"])
    assert [entry.name for entry in tmp_path.iterdir()] == ["tiny.zip"]
    content = out.read_bytes()
    for place in range(0, len(content), len(content) // 30):
        damaged = tmp_path / "damaged.zip"
        damaged.write_bytes(content[:place] + bytes([content[place] ^ 0x55]) + content[place + 1 :])
        try:
            runtime.load(damaged)  # some bytes of a zip mean nothing
        except BundleError:
            continue
    assert bundle_size(out) < bundle_size(bundle)
    with zipfile.ZipFile(out) as archive:
        assert "encoder.onnx" not in archive.namelist()
    assert runtime.load(out).parse(["wake me at 6"]) == runtime.load(bundle, "int8").parse(["wake me at 6"])
    with pytest.raises(BundleError, match="E324"):
        runtime.load(out, "fp32")
    with pytest.raises(UsageError, match="E430"):
        export(checkpoint, tmp_path / "x", ["fp16"])
    with pytest.raises(UsageError, match="E436"):
        export(checkpoint, tmp_path / "x", ["int4"], block_size=48)
    assert [entry.name for entry in tmp_path.iterdir() if entry.name == "x"] == []


def test_what_decoding_leaves_out_is_not_in_a_bundle(raf_checkpoint: Path, raf_bundle: Path, tmp_path: Path):
    out = export(raf_checkpoint, tmp_path / "plain", ["int8"], decoding={"num_rescored": 0})
    files, before = ({path.name for path in folder.glob("*.int8.onnx")} for folder in (out, raf_bundle))
    assert before - files == {"rescorer.int8.onnx"}
    assert all(found for found in runtime.load(out).parse(["wake me at 6"]))


def test_a_full_disk_leaves_the_old_bundle(checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch):
    kept = tmp_path / "kept"
    shutil.copytree(bundle, kept)
    before = (kept / "manifest.json").read_bytes()

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("assistants.export.quantize_graph", full)
    with pytest.raises(MachineError, match="No space left"):
        export(checkpoint, kept)
    assert (kept / "manifest.json").read_bytes() == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["kept"]


def test_graphs_that_differ_from_torch_are_refused(checkpoint: Path, bundle: Path, tmp_path: Path, monkeypatch):
    encode = NARModel.encode

    def wrong(self, pieces, mask, noise=0.0):
        memory, lengths = encode(self, pieces, mask, noise)
        return memory, lengths * math.nan

    monkeypatch.setattr(NARModel, "encode", wrong)
    with pytest.raises(BundleError, match="E330"):
        export(checkpoint, tmp_path / "x", ["fp32"])
    assert not list(tmp_path.iterdir())


def test_truncated_and_foreign_checkpoints(checkpoint: Path, tmp_path: Path):
    with pytest.raises(BundleError, match="E301"):
        load_module(tmp_path / "none.ckpt")
    (tmp_path / "cut.ckpt").write_bytes(checkpoint.read_bytes()[:5000])
    with pytest.raises(BundleError, match="E302"):
        load_module(tmp_path / "cut.ckpt")
    torch.save({"state_dict": {}}, tmp_path / "foreign.ckpt")
    with pytest.raises(BundleError, match="E303"):
        load_module(tmp_path / "foreign.ckpt")
    made = torch.load(checkpoint, weights_only=True)
    torch.save({**made, "framefill": {**made["framefill"], "kind": "other"}}, tmp_path / "kind.ckpt")
    with pytest.raises(BundleError, match="E304"):
        load_module(tmp_path / "kind.ckpt")


def test_a_checkpoint_with_other_bytes_is_noticed(checkpoint: Path, tmp_path: Path):
    content = bytearray(checkpoint.read_bytes())
    with zipfile.ZipFile(checkpoint) as archive:
        largest = max(archive.infolist(), key=lambda entry: entry.file_size)
    # Beyond the names and times before it, these are bytes of a tensor.
    content[largest.header_offset + largest.file_size // 2] ^= 1
    (tmp_path / "flipped.ckpt").write_bytes(content)
    with pytest.raises(BundleError, match="E302.*not what was written"):
        load_module(tmp_path / "flipped.ckpt")


@pytest.mark.parametrize(
    ("part", "value", "code"),
    [
        ("framefill", 3, "E303"),
        ("state_dict", ["a"], "E303"),
        ("state_dict", {"model.other": torch.zeros(1)}, "E305"),
        ("kind", ["conv_nar"], "E304"),
        ("assets", {}, "E305"),
        ("assets", None, "E303"),
        ("model", [1], "E303"),
        ("model", {"width": "wide"}, "E305.*width 'wide'"),
        ("decoding", {"length_beam": 2.5}, "E305.*length_beam 2.5"),
        ("form", "spiral", "E305.*spiral"),
        ("ontology", "none", "E31"),
    ],
)
def test_checkpoints_whose_values_are_of_no_use(checkpoint: Path, tmp_path: Path, part: str, value: object, code: str):
    made = torch.load(checkpoint, weights_only=True)
    metadata = made["framefill"]
    holder = made if part in made else metadata if part in metadata else metadata["assets"]
    holder[part] = value
    torch.save(made, tmp_path / "x.ckpt")
    with pytest.raises(BundleError, match=code) as caught:
        load_module(tmp_path / "x.ckpt")
    assert len(str(caught.value)) < 500 and "\n" not in str(caught.value)
    with pytest.raises(BundleError):
        export(tmp_path / "x.ckpt", tmp_path / "x.bundle")
    assert not (tmp_path / "x.bundle").exists()


def test_a_folder_is_no_checkpoint(bundle: Path):
    with pytest.raises(BundleError, match="E301.*a folder"):
        load_module(bundle)


def test_options_of_training_that_are_gone_do_not_matter_to_use(checkpoint: Path, tmp_path: Path):
    made = torch.load(checkpoint, weights_only=True)
    for part in ("optimization", "model"):
        old = {**made["framefill"], part: {**made["framefill"][part], "gone": 1}}
        torch.save({**made, "framefill": old}, tmp_path / f"{part}.ckpt")
    assert load_module(tmp_path / "optimization.ckpt")[1]["kind"] == "conv_nar"
    with pytest.raises(BundleError, match="E305"):
        load_module(tmp_path / "model.ckpt")
