"""The low-resource protocol of Chen et al. 2020 (section 4): train on source domains, fine-tune on a few rows of another."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from data.topv2.reader import data_root, split_files
from frames.files import write_bytes, write_json
from frames.plots import canvas, png
from scripts.trainings import done, fit, name_of, record, recorded


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
        targets: low-resource domains; all others in the folder are sources.
        spis: samples per intent and slot.
        extra: words for every ``framefill fit``.

    Returns:
        Folder under ``results/`` with the record of every training, and ``curve.json`` and ``curve.png`` of all points that
        are done, those of earlier calls among them.

    Raises:
        CorpusError: a domain or a low-resource split is not there; nothing has been trained then.
        UsageError: the config cannot be read or names no run, or a training failed.
    """
    run = f"low_resource/{name_of(config)}"
    folder = data_root(root)
    known = [path.name.removesuffix("_train.tsv") for path in split_files(folder, "train")]
    for samples in spis:
        for split in (f"train_{samples}spis", f"valid_{samples}spis"):
            split_files(folder, split, targets)
    split_files(folder, "eval", targets)
    sources = [domain for domain in known if domain not in targets]
    common = ("--config", str(config), "--data.root", str(folder))
    shorter = [] if source_training is None else ["--config", str(source_training)]
    missing = [(target, samples) for target in targets for samples in spis if not done(f"{run}/{target}_{samples}")]
    source = fit(
        f"{run}/source", [*common, *shorter, f"--data.domains={json.dumps(sources)}", *extra], needed=bool(missing)
    )
    tuned = [word for path in fine_tuning for word in ("--config", str(path))]
    for target, samples in missing:
        words = [
            *common, *tuned, f"--data.domains=[{target}]", f"--data.spis={samples}",
            f"--data.init_from={source}", *extra,
        ]  # fmt: skip
        fit(f"{run}/{target}_{samples}", words)
    out = Path("results") / run
    curve = {target: curve_of(run, target) for target in targets}
    write_json(out / "curve.json", {"exact_match_by_spis": curve, "source": record(f"{run}/source")["exact_match"]})
    write_bytes(out / "curve.png", plot(curve))
    return out


def curve_of(run: str, target: str) -> dict[str, float]:
    """Exact match by samples per intent and slot, the fewest first, of all trainings for a domain that are done."""
    done = {int(name.removeprefix(f"{target}_")): name for name in recorded(run, f"{target}_*")}
    return {str(samples): record(f"{run}/{done[samples]}")["exact_match"] for samples in sorted(done)}


def plot(curve: Mapping[str, Mapping[str, float]]) -> bytes:
    """Exact match against samples per intent and slot, a line for each domain, as PNG."""
    figure, axes = canvas(6, 3.6)
    for domain, points in curve.items():
        axes.plot([int(spis) for spis in points], list(points.values()), marker="o", label=domain)
    axes.set(xscale="log", xlabel="samples per intent and slot", ylabel="exact match on eval, %")
    axes.grid(alpha=0.3)
    axes.legend()
    return png(figure)
