"""How many options a user meets, and that configs name options that exist."""

from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonargparse import Namespace

from lightning_modules.cli import fit, tell_of_unvalidated_end
from lightning_modules.datamodule import TOPv2DataModule
from lightning_modules.kinds import KINDS, module_class
from lightning_modules.raf import RAFModule
from parsers.aliases import options_of
from parsers.bounds import BOUNDS

ROOT = Path(__file__).resolve().parent.parent
CONFIGS = sorted((ROOT / "configs").rglob("*.yaml"))
#: Groups of options of a parser's module, and its attributes that hold their classes.
GROUPS = {"model": "config_class", "decoding": "decoding_class", "optimization": "optimization_class"}


def test_raf_and_its_data_have_fewer_than_sixty_options():
    classes = [*(getattr(RAFModule, attribute) for attribute in GROUPS.values()), TOPv2DataModule]
    by_class = {chosen.__name__: options_of(chosen) for chosen in classes}
    assert {name: len(options) for name, options in by_class.items()} == {
        "RAFConfig": 20, "RAFDecodingConfig": 11, "RAFOptimizationConfig": 14, "TOPv2DataModule": 14
    }  # fmt: skip
    assert sum(map(len, by_class.values())) < 60


def modules(config: dict[str, Any]) -> list[Any]:
    """The module that a config names; those of all kinds for one that is laid over another."""
    path = config.get("model", {}).get("class_path")
    if path is None:
        return [module_class(kind) for kind in KINDS]
    where, _, name = path.rpartition(".")
    return [getattr(import_module(where), name)]


def loaded(path: Path) -> dict[str, Any]:
    """What a config says."""
    return yaml.safe_load(path.read_text(encoding="utf-8"))


@pytest.mark.parametrize("path", CONFIGS, ids=attrgetter("stem"))
def test_configs_name_options_that_exist(path: Path):
    config = loaded(path)
    assert config.get("data", {}).keys() <= set(options_of(TOPv2DataModule))
    groups = config.get("model", {}).get("init_args", {})
    assert groups.keys() <= GROUPS.keys()
    for group, given in groups.items():
        known = {name for module in modules(config) for name in options_of(getattr(module, GROUPS[group]))}
        assert given.keys() <= known, f"{group} has no {sorted(given.keys() - known)}"


def whole(path: Path) -> bool:
    """Whether ``framefill fit`` needs no other config: it is neither laid over one nor that of a study."""
    config = loaded(path)
    return "class_path" in config.get("model", {}) and "study" not in config


@pytest.mark.parametrize("path", filter(whole, CONFIGS), ids=attrgetter("stem"))
def test_whole_configs_are_accepted_as_they_stand(path: Path, capsys: pytest.CaptureFixture[str]):
    with pytest.raises(SystemExit) as ended:
        fit(["--config", str(path), "--print_config"])
    assert not ended.value.code
    assert "strategy:" in capsys.readouterr().out


def test_bounds_are_of_options_that_exist():
    known = {
        name
        for kind in KINDS
        for attribute in GROUPS.values()
        for name in options_of(getattr(module_class(kind), attribute))
    }
    assert BOUNDS.keys() <= known


@pytest.mark.parametrize("name", sorted(BOUNDS))
def test_every_bound_is_kept(name: str):
    least, most = BOUNDS[name]
    kept = 0
    for kind in KINDS:
        for attribute in GROUPS.values():
            options = getattr(module_class(kind), attribute)
            if name in options_of(options):
                kept += 1
                for wrong in (least - 1, float("nan"), *([most + 1] if most < float("inf") else [])):
                    with pytest.raises(ValueError, match=f"^{name} "):
                        options(**{name: wrong})
    assert kept


@pytest.mark.parametrize(
    ("epochs", "every", "kept"), [(12, 8, "epoch 8"), (12, 4, ""), (4, 8, ""), (12, None, ""), (None, 8, "")]
)
def test_a_last_epoch_that_no_validation_follows_is_told(epochs, every, kept, capsys: pytest.CaptureFixture[str]):
    tell_of_unvalidated_end(Namespace(max_epochs=epochs, check_val_every_n_epoch=every))
    said = capsys.readouterr().err
    assert kept in said and bool(said) == bool(kept)
