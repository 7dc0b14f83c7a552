"""The installed command ``framefill``.

Imports stay inside the subcommands: ``framefill parse --bundle`` must answer without waiting for torch.
"""

from __future__ import annotations

import argparse
import io
import json
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from frames.errors import FramefillError, UsageError

#: Where the bundles lie that came with the packages; the most accurate is used when none is named.
MODELS = Path(__file__).resolve().parent.parent / "models"


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a command line; the exit status is 0, or 2 after an error that is told on standard error."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    try:
        if words[:1] == ["fit"]:
            # LightningCLI owns this command line; `framefill fit --help` explains it.
            from lightning_modules.cli import fit

            fit(words[1:])
            return 0
        options = _parser().parse_args(words)
        options.run(options)
    except FramefillError as error:
        print(f"framefill: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        sys.stderr.close()
    except KeyboardInterrupt:
        return 130
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="framefill",
        description="Semantic parsing for task-oriented dialogue: train on TOPv2, evaluate exact match, export parsers.",
        epilog='Start with `framefill parse "wake me at 6" --tree`, then `framefill fit --config configs/conv_nar.yaml`.',
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    commands.add_parser("fit", help="train a parser (LightningCLI; `framefill fit --help`)", add_help=False)

    evaluate = _command(commands, "evaluate", _evaluate, "score a parser by exact match on a split",
                        "framefill evaluate --bundle models/conv-nar-topv2 --data-root $TOPV2_DIR --split eval")  # fmt: skip
    _add_model(evaluate)
    evaluate.add_argument("--data-root", help="folder of <domain>_<split>.tsv files (default: the variable TOPV2_DIR)")
    evaluate.add_argument("--split", default="eval", help="split to score (default: %(default)s)")
    evaluate.add_argument("--domains", nargs="+", help="only these domains")
    evaluate.add_argument(
        "--keep", action="store_true",
        help="keep the figures in the bundle's manifest, by which `framefill parse` finds the most accurate",
    )  # fmt: skip
    evaluate.add_argument("--json", type=Path, metavar="FILE", help="write all figures and their provenance here")
    evaluate.add_argument(
        "--predictions", type=Path, metavar="FILE.tsv", help="write every row's gold and predicted frame here"
    )

    parse = _command(commands, "parse", _parse, "parse utterances (arguments, or standard input, one a line)",
                     'framefill parse "remind me to call mum at 6" --tree')  # fmt: skip
    _add_model(parse)
    parse.add_argument("utterances", nargs="*", help="utterances; none reads standard input")
    parse.add_argument("--n-best", type=int, default=1, help="readings of each utterance, best first")
    shape = parse.add_mutually_exclusive_group()
    shape.add_argument("--json", action="store_true", help="one JSON object a line")
    shape.add_argument("--tree", action="store_true", help="indented trees")

    export = _command(commands, "export", _export, "turn a checkpoint into a bundle that needs no torch",
                      "framefill export --checkpoint runs/conv_nar/best.ckpt --out alarm.bundle")  # fmt: skip
    export.add_argument("--checkpoint", required=True, type=Path, help="written by `framefill fit`")
    export.add_argument("--out", required=True, type=Path, help="folder to write, or a name ending in .zip")
    export.add_argument(
        "--precision", nargs="+", default=["fp32", "int8"], choices=["fp32", "int8"], help="graphs to include"
    )
    export.add_argument("--metrics", type=Path, help="metrics.json to carry in the manifest")

    weights = _command(
        commands, "weights", _weights, "pack a checkpoint's parameters, to fine-tune from or to teach with",
        "framefill weights --checkpoint runs/span_pointer_minilm/best.ckpt --out span-pointer.safetensors",
    )  # fmt: skip
    weights.add_argument("--checkpoint", required=True, type=Path, help="written by `framefill fit`")
    weights.add_argument(
        "--out",
        required=True,
        type=Path,
        help="file to write, ending in .safetensors; serves wherever a checkpoint does",
    )
    weights.add_argument(
        "--towards", type=Path, help="average with this one, from which the checkpoint's training went on"
    )
    weights.add_argument("--share", type=float, default=0.5, help="of --towards in the average")

    calibrate = _command(
        commands, "calibrate", _calibrate,
        "learn from eval rows how a RAF checkpoint weighs its modules and when it leaves the bank",
        "framefill calibrate --checkpoint runs/raf_last_stage/best.ckpt --json results/raf_last_stage/calibration.json",
    )  # fmt: skip
    calibrate.add_argument(
        "--checkpoint", required=True, type=Path, help="of kind raf; the weights are written into it"
    )
    calibrate.add_argument("--data-root", help="corpus folder (default: the variable TOPV2_DIR)")
    calibrate.add_argument("--split", default="eval", help="every other row is fitted on, the rest reported on")
    calibrate.add_argument("--domains", nargs="+", help="use these domains only")
    calibrate.add_argument("--json", type=Path, metavar="FILE", help="write the figures here")
    _add_device(calibrate)

    for command in (evaluate, export, calibrate):
        command.add_argument(
            "--decoding",
            nargs="+",
            default=[],
            metavar="OPTION=VALUE",
            help="decode a checkpoint otherwise, e.g. rescoring_margin=2.0",
        )

    bank = commands.add_parser("bank", help="list, add or remove the scenarios that a RAF bundle retrieves")
    changes = bank.add_subparsers(title="actions", metavar="ACTION", required=True)
    listing = _command(changes, "list", _bank_list, "print scenarios with the training rows that have them",
                       "framefill bank list --bundle raf.bundle")  # fmt: skip
    adding = _command(changes, "add", _bank_add, "make scenarios known without training",
                      'framefill bank add --bundle raf.bundle "[IN:BREW_COFFEE [SL:AMOUNT ] [SL:DATE_TIME ] ]"')  # fmt: skip
    removing = _command(changes, "remove", _bank_remove, "make scenarios unknown",
                        'framefill bank remove --bundle raf.bundle "[IN:BREW_COFFEE [SL:AMOUNT ] ]"')  # fmt: skip
    for action in (listing, adding, removing):
        action.add_argument("--bundle", type=Path, required=True, help="folder written by `framefill export`")
    for action in (adding, removing):
        action.add_argument("scenarios", nargs="+", help="brackets without words; a childless slot holds text")

    bench = commands.add_parser("bench", help="longer experiments: the low-resource protocol, ablations")
    protocols = bench.add_subparsers(title="experiments", metavar="EXPERIMENT", required=True)
    low = _command(protocols, "low-resource", _low_resource,
                   "train on source domains, fine-tune on a few rows of the others, plot the curve (Chen et al. 2020)",
                   "framefill bench low-resource --config configs/conv_nar.yaml")  # fmt: skip
    ablations = _command(protocols, "ablations", _ablations,
                         "train a parser as it is and with one thing changed at a time, compare exact match",
                         "framefill bench ablations --config configs/span_pointer_minilm.yaml "
                         "--changes configs/ablations/no_*.yaml")  # fmt: skip
    ablations.add_argument(
        "--trial", type=Path, default=Path("configs/ablations/quarter.yaml"),
        help="config laid over the parser's, to make the trainings short (default: %(default)s)",
    )  # fmt: skip
    ablations.add_argument(
        "--changes", nargs="+", type=Path, required=True, help="configs, each laid over both, or a whole one"
    )
    for experiment in (low, ablations):
        experiment.add_argument("--config", type=Path, required=True, help="the parser's config")
        experiment.add_argument("--data-root", help="corpus folder (default: the variable TOPV2_DIR)")
        experiment.add_argument(
            "--fit", nargs=argparse.REMAINDER, default=[], help="last: options for every `framefill fit`"
        )
    low.add_argument(
        "--source-training", type=Path,
        help="config laid over it for the source domains, as configs/low_resource_source.yaml (default: none)",
    )  # fmt: skip
    low.add_argument(
        "--fine-tuning", nargs="+", type=Path, default=[Path("configs/low_resource.yaml")],
        help="configs laid over it for the target domains (default: configs/low_resource.yaml)",
    )  # fmt: skip
    low.add_argument("--targets", nargs="+", default=["reminder", "weather"], help="domains (default: %(default)s)")
    low.add_argument(
        "--spis", nargs="+", type=int, default=[10, 25, 50, 100, 250, 500, 1000],
        help="samples per intent and slot (default: %(default)s)",
    )  # fmt: skip

    data = commands.add_parser("data", help="verify, describe, sample, download, convert or synthesise a corpus")
    actions = data.add_subparsers(title="actions", metavar="ACTION", required=True)
    verify = _command(
        actions, "verify", _verify, "compare a folder with the official TOPv2 1.1", "framefill data verify"
    )
    describe = _command(
        actions, "describe", _describe, "write an HTML report of a corpus", "framefill data describe --out report.html"
    )
    sample = _command(actions, "sample", _sample, "draw a low-resource sample (SPIS)",
                      "framefill data sample --domain weather --spis 25 --out weather_train.tsv")  # fmt: skip
    for action in (verify, describe, sample):
        action.add_argument("--data-root", help="corpus folder (default: the variable TOPV2_DIR)")
    describe.add_argument("--out", type=Path, required=True, help="HTML file to write")
    sample.add_argument("--domain", required=True)
    sample.add_argument("--split", default="train")
    sample.add_argument("--spis", type=int, required=True, help="samples per intent and slot")
    sample.add_argument("--seed", type=int, default=0)
    sample.add_argument("--out", type=Path, required=True, help="TSV file to write")
    download = _command(
        actions, "download", _download, "fetch and verify the official TOPv2", "framefill data download --out topv2"
    )
    synthetic = _command(
        actions,
        "synthetic",
        _synthetic,
        "write the embedded corpus",
        "framefill data synthetic --out corpora/synthetic",
    )
    mtop = _command(
        actions, "mtop", _mtop, "write one language of MTOP in the layout of TOPv2",
        "framefill data mtop --root mtop --locale de --out corpora/mtop/de",
    )  # fmt: skip
    mtop.add_argument("--root", type=Path, required=True, help="the unpacked MTOP, a folder for each locale")
    mtop.add_argument("--locale", required=True, help="en, es, fr, de, hi or th")
    for action in (download, synthetic, mtop):
        action.add_argument("--out", type=Path, required=True, help="folder to write")
    synthetic.add_argument("--seed", type=int, default=0)
    return parser


def _command(
    commands: Any, name: str, run: Callable[[Any], None], summary: str, example: str
) -> argparse.ArgumentParser:
    parser = commands.add_parser(
        name, help=summary, description=summary[0].upper() + summary[1:] + ".", epilog=f"Example: {example}"
    )
    parser.set_defaults(run=run)
    return parser


def _add_model(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group()
    which.add_argument("--checkpoint", type=Path, help="written by `framefill fit`")
    which.add_argument(
        "--bundle",
        type=Path,
        help="written by `framefill export` (default: the most accurate of those that are included)",
    )
    parser.add_argument(
        "--precision", choices=["int8", "fp32"], help="graphs of the bundle to use (default: int8 if there)"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads that parse with a bundle, 0 for one a core")
    _add_device(parser)


def _add_device(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", default="cpu", help="where a checkpoint works: cpu, cuda (default: %(default)s)")


def _load(options: Any, decoding: Sequence[str] = ()) -> tuple[Any, dict[str, Any]]:
    """A parser and how it was made."""
    if options.checkpoint is not None:
        from lightning_modules.checkpoints import load_module

        module, made = load_module(options.checkpoint, _changes(decoding), options.device)
        return module.parser(), {**made, "checkpoint": str(options.checkpoint)}
    if decoding:
        raise UsageError(
            "E447", "a bundle decodes as it was exported.", remedy="Export it again with --decoding, or name a --checkpoint."
        )  # fmt: skip
    if options.device != "cpu":
        raise UsageError("E439", "bundles work on the processor.", remedy="Leave --device out, or name a --checkpoint.")
    from assistants import runtime
    from assistants.bundle import most_accurate

    path = options.bundle
    if path is None:
        path = most_accurate(MODELS)
        if path is None:
            raise UsageError(
                "E401",
                "no parser is named and no default bundle is installed.",
                remedy="Pass --bundle or --checkpoint.",
            )
        print(f"using the bundle {path.name}", file=sys.stderr)
    parser = runtime.load(path, options.precision, options.threads)
    manifest = {key: value for key, value in parser.manifest.items() if key not in ("files", "metrics")}
    return parser, {"bundle": path.name, "precision": parser.precision, **manifest}


def _evaluate(options: Any) -> None:
    from rich.progress import Progress

    from data.topv2.reader import corpus_checksum, data_root, read_split
    from lightning_modules.evaluation import evaluate, table, write_record

    if options.keep:
        from assistants.bundle import changeable, keep_metrics

        if options.bundle is None:
            raise UsageError("E415", "--keep needs --bundle: figures are kept in its manifest.")
        if options.domains or options.split != "eval":
            raise UsageError(
                "E415", "--keep is for the figures of all domains on eval, for those of other rows compare with no other's.",
                remedy="Leave --domains and --split out, or --keep.",
            )  # fmt: skip
        kept_in = changeable(options.bundle)
    root = data_root(options.data_root)
    examples = read_split(root, options.split, options.domains)
    parser, made = _load(options, options.decoding)
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("parsing", total=len(examples))
        metrics = evaluate(
            parser, examples, parser.ontology.valid, predictions=options.predictions,
            progress=lambda done: bar.advance(task, done),
        )  # fmt: skip
    table(metrics)
    if options.json is not None:
        checksum = corpus_checksum(root, options.split, options.domains)
        write_record(options.json, metrics, {**made, "split": options.split, "evaluated_on": checksum})
    if options.keep:
        keep_metrics(kept_in, metrics)


def _parse(options: Any) -> None:
    if options.n_best < 1:
        raise UsageError("E402", f"--n-best {options.n_best} must be at least 1.")
    parser, _ = _load(options)
    refused = 0
    for number, utterance in enumerate(options.utterances or _lines(), start=1):
        try:
            hypotheses = parser.parse([utterance], options.n_best)[0]
        except UsageError as error:
            refused += 1
            print(f"framefill: {error.at(f'utterance {number}')}", file=sys.stderr)
            continue
        for hypothesis in hypotheses:
            frame = hypothesis.frame
            if options.json:
                value = frame.to_dict() if frame else {"utterance": utterance, "frame": None}
                print(
                    json.dumps({**value, "text": str(frame), "score": round(hypothesis.score, 4)}, ensure_ascii=False),
                    flush=True,
                )
            elif options.tree and frame:
                print(f"{utterance}\n{frame.tree()}\n", flush=True)
            else:
                print(frame if options.n_best == 1 else f"{hypothesis.score:.3f}\t{frame}", flush=True)
    if refused:
        raise UsageError("E408", f"{refused} utterance(s) were not parsed.", remedy="See above; all others were.")


def _lines() -> Iterator[str]:
    """Lines of standard input; bytes that are no text stay in them, to be refused like any other bad utterance."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    for line in sys.stdin:
        yield line.rstrip("\n")


def _changes(words: Sequence[str]) -> dict[str, Any]:
    """What words like ``rescored=4`` say."""
    changes: dict[str, Any] = {}
    for word in words:
        name, _, value = word.partition("=")
        if not value:
            raise UsageError(
                "E406", f"{word!r} cannot be read.", remedy="Write OPTION=VALUE, e.g. rescored=4 or index=sq8."
            )
        try:
            changes[name] = json.loads(value)
        except ValueError:
            changes[name] = value  # a name
    return changes


def _export(options: Any) -> None:
    from assistants.export import export, size
    from frames.files import read_json

    metrics = None
    if options.metrics is not None:
        metrics = {
            key: value
            for key, value in read_json(options.metrics, "a record of figures", "E409").items()
            if key not in ("made", "environment")
        }
    out = export(options.checkpoint, options.out, options.precision, metrics, decoding=_changes(options.decoding))
    print(f"{out} ({size(out) / 1e6:.1f} MB)")


def _weights(options: Any) -> None:
    from lightning_modules.weights import pack

    size = pack(options.checkpoint, options.out)
    print(f"{options.out} ({size / 1e6:.1f} MB)")


def _calibrate(options: Any) -> None:
    from rich.progress import Progress

    from data.topv2.reader import corpus_checksum, data_root, read_split
    from frames.files import write_json
    from lightning_modules.calibration import calibrate_checkpoint
    from lightning_modules.evaluation import environment

    root = data_root(options.data_root)
    examples = read_split(root, options.split, options.domains)
    with Progress(transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task("finding candidates", total=len(examples))
        figures = calibrate_checkpoint(
            options.checkpoint, examples, _changes(options.decoding),
            lambda done: bar.advance(task, done), options.device,
        )  # fmt: skip
    print(json.dumps(figures, indent=2))
    if options.json is not None:
        made = {
            "split": options.split, "domains": options.domains,
            "evaluated_on": corpus_checksum(root, options.split, options.domains),
        }  # fmt: skip
        write_json(options.json, {**figures, **made, "environment": environment()})


def _bank_list(options: Any) -> None:
    from assistants import banks
    from assistants.bundle import Bundle

    bank = banks.read(Bundle(options.bundle)).bank
    for scenario in bank:
        print(f"{bank.count(scenario)}\t{scenario}")


def _bank_add(options: Any) -> None:
    from assistants import banks, runtime
    from assistants.raf import RAFBundleParser
    from retrieval.scenario import Scenario

    parser = runtime.load(options.bundle)

    def edit(table: Any) -> Any:
        assert isinstance(parser, RAFBundleParser)
        parser.add([Scenario.parse(text) for text in options.scenarios])
        return parser.table

    banks.change(options.bundle, edit)


def _bank_remove(options: Any) -> None:
    from assistants import banks
    from retrieval.scenario import Scenario

    def edit(table: Any) -> Any:
        for text in options.scenarios:
            table = table.removed(Scenario.parse(text))
        return table

    banks.change(options.bundle, edit)


def _low_resource(options: Any) -> None:
    from scripts.low_resource import low_resource

    out = low_resource(
        options.config,
        options.source_training,
        options.fine_tuning,
        options.data_root,
        options.targets,
        options.spis,
        options.fit,
    )
    print(f"curve: {out / 'curve.json'}\nplot: {out / 'curve.png'}")


def _ablations(options: Any) -> None:
    from scripts.ablations import ablations

    out = ablations(options.config, options.trial, options.changes, options.data_root, options.fit)
    print(f"table: {out / 'table.json'}\nplot: {out / 'table.png'}")


def _verify(options: Any) -> None:
    from data.topv2.reader import data_root
    from data.topv2.verify import verify
    from frames.errors import CorpusError

    root = data_root(options.data_root)
    checks = verify(root)
    for check in checks:
        print(f"{check.status:8} {check.name}")
    changed = [check.name for check in checks if check.status == "changed"]
    if changed or all(check.status == "missing" for check in checks):
        what = (
            f"{len(changed)} file(s) are not the official ones." if changed else "none of the official files is here."
        )
        raise CorpusError("E220", what, where=str(root), remedy="Fetch them with `framefill data download`.")


def _describe(options: Any) -> None:
    from data.topv2.describe import describe
    from data.topv2.reader import data_root

    print(describe(data_root(options.data_root), options.out))


def _sample(options: Any) -> None:
    from data.topv2.reader import data_root, read_split, write_file
    from data.topv2.spis import sample

    if options.spis < 1:
        raise UsageError("E403", f"--spis {options.spis} must be at least 1.")
    rows = sample(read_split(data_root(options.data_root), options.split, [options.domain]), options.spis, options.seed)
    write_file(options.out, rows)
    print(f"{options.out}: {len(rows)} rows")


def _download(options: Any) -> None:
    from rich.progress import Progress

    from data.topv2.download import download

    with Progress(transient=True) as bar:
        task = bar.add_task("downloading", total=None)
        print(download(options.out, progress=lambda done, total: bar.update(task, completed=done, total=total)))


def _mtop(options: Any) -> None:
    from data.mtop.reader import convert

    rows = convert(options.root, options.locale, options.out)
    print(f"{options.out}: {', '.join(f'{count} {split}' for split, count in rows.items())} rows")


def _synthetic(options: Any) -> None:
    from data.synthetic import write_corpus

    print(write_corpus(options.out, options.seed))


if __name__ == "__main__":
    sys.exit(main())
