from pathlib import Path

import pytest
import torch

from data.topv2.reader import read_split
from data.training.batches import EncodedCorpus
from frames.errors import UsageError
from frames.linearization import POINTER_FORMS, TargetIds
from frames.tokenization import PieceTokenizer
from lightning_modules import nar
from lightning_modules.checkpoints import load_module
from lightning_modules.datamodule import Assets, TOPv2DataModule
from lightning_modules.distillation import Teacher


@pytest.fixture(autouse=True)
def teacher_alone(monkeypatch: pytest.MonkeyPatch):
    """The loss is the divergence from the teacher."""
    monkeypatch.setattr(nar, "TEACHER_SHARE", 1.0)


@pytest.fixture
def batch(checkpoint: Path, corpus: Path):
    assets = load_module(checkpoint)[0].assets
    assert assets is not None
    rows = read_split(corpus, "train")[:24]
    sources, ids = assets.tokenizer.batch([row.utterance for row in rows]), TargetIds(assets.ontology)
    form = POINTER_FORMS[assets.form]()
    targets = [ids.encode(form.encode(r.frame.decoupled(), s)) for r, s in zip(rows, sources, strict=True)]
    return EncodedCorpus([s.ids for s in sources], targets, assets.tokenizer.pad_id).batch(torch.arange(24).numpy())


def test_a_student_that_is_its_teacher_has_nothing_to_learn(checkpoint: Path, batch):
    student = load_module(checkpoint)[0]
    student.optimization.teacher = str(checkpoint)
    assert student.losses(batch)["loss"].item() == pytest.approx(0.0, abs=1e-5)


def test_a_student_comes_nearer_to_its_teacher(checkpoint: Path, batch):
    student = load_module(checkpoint)[0]
    student.optimization.teacher = str(checkpoint)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in student.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    optimizer = torch.optim.AdamW(student.parameters(), lr=2e-3)
    apart = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = student.losses(batch)["loss"]
        loss.backward()
        optimizer.step()
        apart.append(loss.item())
    assert apart[-1] < 0.5 * apart[0]
    assert not any("taught" in name for name in student.state_dict())


def test_teachers_of_another_kind_of_pupil_are_refused(checkpoint: Path):
    module, _ = load_module(checkpoint)
    assets, longest = module.built, module.config.max_length
    for other, reason in (
        (Assets(PieceTokenizer.train_sentencepiece(["a b"], 10), assets.ontology, assets.form), "tokenizer"),
        (Assets(assets.tokenizer, assets.ontology, "index"), "form"),
        (Assets(assets.tokenizer, type(assets.ontology).from_frames([]), assets.form), "labels"),
    ):
        with pytest.raises(UsageError, match=f"E42[56].*{reason}"):
            Teacher(str(checkpoint), other, longest, torch.device("cpu"))
    with pytest.raises(UsageError, match=r"E425.*another model\.max_length"):
        Teacher(str(checkpoint), assets, 40, torch.device("cpu"))


def test_pieces_that_were_trained_on_the_same_rows_are_the_teachers(checkpoint: Path, corpus: Path):
    module, metadata = load_module(checkpoint)
    data = TOPv2DataModule(str(corpus), form=module.built.form, vocabulary=metadata["data"]["vocabulary"])
    data.setup("fit")
    assert data.assets is not None
    Teacher(str(checkpoint), data.assets, module.config.max_length, torch.device("cpu"))
