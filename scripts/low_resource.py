"""The low-resource protocol of Chen et al. 2020 (section 4): train on source domains, fine-tune on a few rows of another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.topv2.reader import corpus_checksum, data_root, split_files
from frames.files import read_json, write_bytes, write_json
from frames.plots import canvas, png
from scripts.trainings import (
    Training,
    check_made_by,
    digest_of,
    done,
    fit_noted,
    is_made_by,
    lacks,
    name_of,
    record,
)


def low_resource(
    config: Path,
    source_training: Path | None,
    fine_tuning: Sequence[Path],
    root: str | None,
    targets: Sequence[str],
    spis: Sequence[int],
    extra: Sequence[str],
) -> Path:
    """Trains the source parser, fine-tunes it for every target domain and number of samples, writes curve and plot.

    The source parser is trained again where its record is there but not its checkpoint, and a point is missing.

    Args:
        config: of the parser.
        source_training: laid over it for the source domains; None trains on them as the config says.
        fine_tuning: laid over it, one over the other, for the target domains.
        root: corpus folder; None reads ``TOPV2_DIR``.
        targets: low-resource domains; all others in the folder are sources, or those of earlier calls.
        spis: samples per intent and slot.
        extra: words for every ``framefill fit``.

    Returns:
        Folder under ``results/`` with the record of every training, and ``curve.json`` and ``curve.png`` of all points that
        are done, those of earlier calls among them.

    Raises:
        CorpusError: a domain or a low-resource split is not there; nothing has been trained then.
        UsageError: the config cannot be read or names no run, a training failed, or one of that name is there that other
            configs, rows or words made.
        BundleError: the curve that is there cannot be read.
    """
    run = f"low_resource/{name_of(config)}"
    folder = data_root(root)
    known = [path.name.removesuffix("_train.tsv") for path in split_files(folder, "train")]
    for samples in spis:
        for split in (f"train_{samples}spis", f"valid_{samples}spis"):
            split_files(folder, split, targets)
    split_files(folder, "eval", targets)
    out = Path("results") / run
    path = out / "curve.json"
    before = read_json(path, "a curve of few rows", "E582") if path.exists() else {}
    sources = before.get("sources", [])
    if not sources or {*sources} & {*targets}:
        sources = [domain for domain in known if domain not in targets]
    shorter = [] if source_training is None else [source_training]
    about = {
        "config": config.name,
        "source_training": None if source_training is None else source_training.name,
        "fine_tuning": [laid.name for laid in fine_tuning],
        "sources": sources,
    }

    def training(name: str, laid: Sequence[Path], data: Sequence[str], made_from: Sequence[str]) -> Training:
        configs = [word for path in (config, *laid) for word in ("--config", str(path))]
        words = [*configs, "--data.root", str(folder), *data]
        return Training(f"{run}/{name}", words, digest_of([config, *laid], [*data, *extra], made_from))

    rows = [corpus_checksum(folder, split, sources) for split in ("train", "eval")]
    source = training("source", shorter, [f"--data.domains={json.dumps(sources)}"], rows)

    def point(target: str, samples: int) -> Training:
        splits = (f"train_{samples}spis", f"valid_{samples}spis", "eval")
        made_from = [source.digest, *(corpus_checksum(folder, split, [target]) for split in splits)]
        data = [f"--data.domains=[{target}]", f"--data.spis={samples}"]
        return training(f"{target}_{samples}", fine_tuning, data, made_from)

    wanted = {(target, samples): point(target, samples) for target in targets for samples in spis}
    curve: dict[str, dict[str, float]] = {}
    made_by: dict[str, str] = {}
    if is_made_by(source, before, about, extra):
        curve |= before["exact_match_by_spis"]
        made_by |= before.get("made_by", {})
    # All points of a curve are made alike, those of earlier calls too.
    earlier = [(target, int(samples)) for target, points in curve.items() for samples in points]
    known_by_digest = [point(*one) for one in earlier if one not in wanted and f"{run}/{one[0]}_{one[1]}" in made_by]
    check_made_by([source, *wanted.values(), *known_by_digest], before, about, extra)

    def write() -> None:
        found = record(source.run)["exact_match"] if done(source.run) else None
        write_json(path, {**about, "exact_match_by_spis": curve, "source": found, "made_by": made_by})

    best = fit_noted(source, extra, made_by, write, needed=any(lacks(one.run) for one in wanted.values()))
    for (target, samples), one in wanted.items():
        fit_noted(one, [f"--data.init_from={best}", *extra], made_by, write)
        points = {**curve.get(target, {}), str(samples): record(one.run)["exact_match"]}
        curve[target] = dict(sorted(points.items(), key=lambda point: int(point[0])))
        write()
    write_bytes(out / "curve.png", plot(curve))
    return out


def plot(curve: Mapping[str, Mapping[str, float]]) -> bytes:
    """Exact match against samples per intent and slot, a line for each domain, as PNG."""
    figure, axes = canvas(6, 3.6)
    for domain, points in curve.items():
        axes.plot([int(spis) for spis in points], list(points.values()), marker="o", label=domain)
    axes.set(xscale="log", xlabel="samples per intent and slot", ylabel="exact match on eval, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)
