"""A corpus in one HTML page: what is in it, how deep, how long, how often, and how far training covers eval."""

from __future__ import annotations

import base64
from collections import Counter
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from data.topv2.contradictions import contradictory, counted
from data.topv2.reader import SPLITS, Example, read_split
from data.topv2.spis import labels
from frames.files import write_text
from frames.outputs import HTML_MARK
from frames.plots import canvas, png

_STYLE = (
    "body{font:15px/1.5 system-ui,sans-serif;max-width:980px;margin:2em auto;padding:0 1em;color:#1c2430}"
    "table{border-collapse:collapse;margin:1em 0}td,th{padding:.25em .8em;border-bottom:1px solid #dde3ec;text-align:right}"
    "td:first-child,th:first-child{text-align:left}img{max-width:100%}h2{margin-top:2em}"
)


def describe(root: Path | str, out: Path | str) -> Path:
    """Writes the report; it holds counts and label names, no rows.

    Args:
        root: corpus folder.
        out: HTML file.

    Raises:
        CorpusError: the folder has no train split.
    """
    splits = {"train": read_split(root, "train")}
    splits |= {name: read_split(root, name) for name in SPLITS[1:] if list(Path(root).glob(f"[!.]*_{name}.tsv"))}
    body = [f"<h1>{escape(Path(root).name)}</h1>", _counts(splits)]
    train = splits["train"]
    body += [
        _figure(*_histogram("Intents on the longest path", {n: [e.frame.depth for e in s] for n, s in splits.items()}))
    ]
    body += [
        _figure(
            *_histogram("Words in the utterance", {n: [len(e.utterance.split()) for e in s] for n, s in splits.items()})
        )
    ]
    body += [
        _figure(
            *_histogram(
                "Slots in the frame", {n: [sum(1 for _ in e.frame.slots()) for e in s] for n, s in splits.items()}
            )
        )
    ]
    body += [_figure(*_frequencies(train))]
    if "eval" in splits:
        body += [_coverage(train, splits["eval"])]
    page = f'<!doctype html><html lang="en"><meta charset="utf-8">{HTML_MARK}<title>{escape(Path(root).name)}</title><style>{_STYLE}</style>{"".join(body)}</html>'
    write_text(out, page)
    return Path(out)


def _counts(splits: dict[str, list[Example]]) -> str:
    names = sorted({example.domain for rows in splits.values() for example in rows})
    by = {split: Counter(example.domain for example in rows) for split, rows in splits.items()}
    head = "".join(f"<th>{split}</th>" for split in splits)
    lines = "".join(
        f"<tr><td>{escape(name)}</td>{''.join(f'<td>{by[s][name]:,}</td>' for s in splits)}</tr>" for name in names
    )
    total = "".join(f"<td><b>{len(rows):,}</b></td>" for rows in splits.values())
    found: Counter[str] = sum((labels(example.frame) for example in splits["train"]), Counter())
    intents = sum(label.startswith("IN:") for label in found)
    return (
        f"<h2>Rows</h2><table><tr><th>domain</th>{head}</tr>{lines}<tr><td><b>all</b></td>{total}</tr></table>"
        f"<p>{intents} intents and {len(found) - intents} slots in train; "
        f"{len({e.frame.scenario() for e in splits['train']}):,} scenarios.</p>"
        f"<p>Utterances that rows of a split have with different frames: "
        f"{', '.join(f'{counted(contradictory(rows))} in {split}' for split, rows in splits.items())}.</p>"
    )


def _axes(title: str) -> tuple[Any, Any]:
    figure, axes = canvas(9, 3.2)
    axes.set_title(title)
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _figure(figure: Any, caption: str) -> str:
    code = base64.b64encode(png(figure)).decode()
    return f'<figure><img alt="{escape(caption)}" src="data:image/png;base64,{code}"></figure>'


def _histogram(title: str, values: dict[str, list[int]]) -> tuple[Any, str]:
    figure, axes = _axes(title)
    top = max(max(column) for column in values.values())
    for i, (split, column) in enumerate(values.items()):
        counts = Counter(column)
        shares = [100 * counts[n] / len(column) for n in range(top + 1)]
        axes.bar(
            [n + (i - len(values) / 2 + 0.5) * 0.8 / len(values) for n in range(top + 1)],
            shares,
            0.8 / len(values),
            label=split,
        )
    axes.set_ylabel("% of rows")
    axes.legend(frameon=False)
    return figure, title


def _frequencies(train: Sequence[Example]) -> tuple[Any, str]:
    found: Counter[str] = sum((labels(example.frame) for example in train), Counter())
    figure, axes = _axes("The 30 most frequent labels, and the tail")
    top = found.most_common(30)
    rest = found.total() - sum(count for _, count in top)
    axes.bar([label for label, _ in top] + [f"{len(found) - len(top)} others"], [count for _, count in top] + [rest])
    axes.set_yscale("log")
    axes.tick_params(axis="x", rotation=90, labelsize=7)
    return figure, "Label frequencies"


def _coverage(train: Sequence[Example], evaluation: Sequence[Example]) -> str:
    bank = Counter(example.frame.scenario() for example in train)
    wanted = Counter(example.frame.scenario() for example in evaluation)
    covered, curve = 0, [0.0]
    for scenario, _ in bank.most_common():
        covered += wanted[scenario]
        curve.append(100 * covered / len(evaluation))
    figure, axes = _axes("Eval frames whose scenario is among the n most frequent of train")
    axes.plot(range(len(curve)), curve)
    axes.set_xscale("symlog")
    axes.set_xlabel("n scenarios")
    axes.set_ylabel("% of eval frames")
    known = {(example.domain, example.utterance) for example in train}
    repeated = sum((example.domain, example.utterance) in known for example in evaluation)
    return (
        f"<h2>Training against eval</h2><p>{len(bank):,} scenarios in train cover {curve[-1]:.2f}% of the eval frames; "
        f"{100 * repeated / len(evaluation):.2f}% of the eval utterances repeat one of train in the same domain.</p>"
        + _figure(figure, "Scenario coverage")
    )
