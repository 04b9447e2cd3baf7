"""The command `ecg-jepa`. Exit codes: 0 good, 1 error, 2 usage, 3 done in part (records were left out), 4 findings."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer.core import TyperGroup

from ..errors_ecg_jepa import EcgJepaError
from .columns import COLUMNS

# Each command imports what it needs when it runs, so that help comes at once.
if TYPE_CHECKING:
    from .convert import Conversion
    from .embed import EmbeddingSummary

ERROR, IN_PART, FINDINGS = 1, 3, 4


RecordsAndFolders = Annotated[
    list[str],
    typer.Argument(
        metavar="RECORD_OR_FOLDER",
        help="WFDB records, with or without .hea or .dat, and folders, searched for .hea files",
    ),
]


class _Commands(TyperGroup):
    """Shows the errors a user can mend as one message; all others keep their traceback."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except EcgJepaError as error:
            typer.echo(f"Error: {error}", err=True)
            raise typer.Exit(ERROR) from error


def _with_dashes(option: str) -> str:
    return option.replace("_", "-")


app = typer.Typer(
    cls=_Commands,
    help="ECG-JEPA checkpoints: convert the authors' weights, verify, describe, and embed ECG records with them. "
    "MODEL is a folder or a name on the Hugging Face Hub. Research use only: nothing here is a diagnosis.",
    epilog="Exit codes: 0 good, 1 error, 2 usage, 3 done in part (some records were left out), "
    "4 findings (leakage). Options may be spelt with dashes or underscores.",
    context_settings={"token_normalize_func": _with_dashes, "help_option_names": ["-h", "--help"]},
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="markdown",
)


def _version(wanted: bool) -> None:
    if wanted:
        from .. import __version__

        typer.echo(f"ecg-jepa {__version__}")
        raise typer.Exit


@app.callback()
def main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _without_loading_bars() -> None:
    """Loading and saving take a moment and need no progress bar; downloads keep theirs."""
    from huggingface_hub.utils import enable_progress_bars
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    enable_progress_bars()


@app.command(
    epilog="Examples:\n\n"
    "`ecg-jepa convert multiblock_epoch100.pth runs/ecg-jepa-base`\n\n"
    "`ecg-jepa convert runs/ecg-jepa-base encoder.pth --to-authors`"
)
def convert(
    source: Annotated[Path, typer.Argument(metavar="CKPT.pth", help="the authors' checkpoint; or our folder")],
    target: Annotated[Path, typer.Argument(metavar="OUT_DIR", help="folder to make; or the authors' file")],
    num_attention_heads: Annotated[
        int, typer.Option(min=1, help="heads of the encoder, which the authors' file does not tell")
    ] = 16,
    leads: Annotated[
        str | None, typer.Option(help="lead names in the order of training, if not the 8 or 12 standard ones: I,II,V1")
    ] = None,
    to_authors: Annotated[
        bool, typer.Option("--to-authors", help="the way back: from our folder to a file that their scripts load")
    ] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier conversion")] = False,
) -> None:
    """Make a checkpoint that AutoModel loads of the authors' PyTorch file, or the reverse.

    The file is read as data, never as code. Every key, shape and number is checked, and the stored positions are
    compared with ours. The result is written whole or not at all, with a verification.json for `ecg-jepa verify`.
    """
    from .convert import convert_from_authors, convert_to_authors

    _without_loading_bars()
    if to_authors:
        if leads is not None:
            raise typer.BadParameter("--leads is for checkpoints of the authors; ours know their leads.")
        _show_conversion(convert_to_authors(source, target, overwrite))
        typer.echo("Their scripts have to be told the number of heads and the leads; the file does not hold them.")
    else:
        conversion = convert_from_authors(source, target, num_attention_heads, _names(leads), overwrite)
        _show_conversion(conversion, heads=" (as you say: the file does not hold their number)")
        typer.echo(f"Try it: ecg-jepa verify {target}")


def _show_conversion(conversion: "Conversion", heads: str = "") -> None:
    config = conversion.config
    epoch = "" if conversion.epoch is None else f", epoch {conversion.epoch}"
    typer.echo(f"from     {conversion.source}{epoch}\n         SHA-256 {conversion.source_sha256}")
    typer.echo(
        f"sizes    hidden {config.hidden_size}, {config.num_hidden_layers} layers, "
        f"{config.num_attention_heads} heads{heads}, {config.num_patches} patches of {config.patch_size} samples\n"
        f"         {len(config.leads)} leads: {', '.join(config.leads)}"
    )
    typer.echo(f"written  {conversion.result}\n         SHA-256 {conversion.result_sha256}")


def _names(leads: str | None) -> list[str] | None:
    return None if leads is None else [name.strip() for name in leads.split(",") if name.strip()]


@app.command(epilog="Example:\n\n`ecg-jepa verify runs/ecg-jepa-base`")
def verify(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="folder or name on the Hub")],
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda")] = "cpu",
    write: Annotated[
        bool, typer.Option("--write", help="store what the model computes now instead, for others to compare with")
    ] = False,
) -> None:
    """Check that a checkpoint computes what it did when it was exported.

    A built-in input is embedded and compared with the embedding stored beside the weights, and the files are compared
    with their hashes. Exit code 1 if anything differs: a damaged download, another configuration, a faulty library.
    """
    from .checkpoint import choose_device
    from .verify import verify as verify_model
    from .verify import write_verification

    _without_loading_bars()
    if write:
        typer.echo(f"written  {write_verification(model)}")
        return
    checks = verify_model(model, choose_device(device))
    for check in checks:
        typer.echo(f"{'ok    ' if check.passed else 'FAILED'}  {check.text}")
    if not all(check.passed for check in checks):
        typer.echo(f"Error: {model} is not what was exported. Fetch or copy it again.", err=True)
        raise typer.Exit(ERROR)
    typer.echo(f"{model} computes what it did when it was exported.")


@app.command(
    epilog="Examples:\n\n"
    "`ecg-jepa embed records/ --model runs/ecg-jepa-base --output embeddings.parquet`\n\n"
    "`ecg-jepa embed holter.hea --model runs/ecg-jepa-base --output windows.parquet --window-seconds 10 "
    "--stride-seconds 5`\n\n"
    "`ecg-jepa embed prepared/code15 --model runs/ecg-jepa-base --output-dir embeddings/code15`\n\n"
    "Four processes: `accelerate launch --num_processes 4 -m modeling_ecg_jepa.tools.cli embed prepared/code15 ...`; "
    "on CPUs `torchrun --nproc_per_node 4 -m modeling_ecg_jepa.tools.cli embed ...`, since accelerate starts one "
    "there\n\n"
    "An array of 8 jobs: `ecg-jepa embed prepared/code15 ... --shard $SLURM_ARRAY_TASK_ID/8`\n\n"
    "Columns:\n\n" + "\n".join(f"- `{name}`: {text}" for name, text in COLUMNS.items())
)
def embed(
    records: Annotated[
        list[str],
        typer.Argument(
            metavar="RECORD_OR_FOLDER",
            help="WFDB records, with or without .hea or .dat; folders, searched for .hea files; prepared corpora, "
            "folders of `ecg-jepa prepare` or Parquet files of them",
        ),
    ],
    model: Annotated[str, typer.Option(help="folder of a checkpoint or its name on the Hub")],
    output: Annotated[Path | None, typer.Option(help="Parquet file to write; replaced if it is there")] = None,
    output_dir: Annotated[
        Path | None,
        typer.Option(help="instead: folder of Parquet shards, for many records; what is there already is kept"),
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="make only the I-th part of N of the shards, as one job of an array")
    ] = "1/1",
    shard_records: Annotated[int, typer.Option(min=1, help="records a shard; the same for all jobs")] = 1024,
    batch_size: Annotated[int, typer.Option(min=1, help="windows a forward pass")] = 32,
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda")] = "auto",
    window_seconds: Annotated[
        float | None, typer.Option(help="embed each record in whole windows of this length; else its first 10 s")
    ] = None,
    stride_seconds: Annotated[
        float | None, typer.Option(help="from one window's start to the next's; the window if not given")
    ] = None,
    leads: Annotated[str | None, typer.Option(help="use only these leads of the model's, e.g. II,V1")] = None,
    progress: Annotated[bool, typer.Option(help="show a progress bar")] = True,
) -> None:
    """Embed ECG records into a Parquet file, or a folder of shards, with a row for each record or window.

    Records that cannot be used are counted, listed with the reason and left out (exit code 3; under a launcher, which
    takes it for a crash, 0). A file appears only when it is whole. With `--output-dir` the processes of a launcher and
    the jobs of an array share the work; the rows are the same, in the same order, however many there are. A run that
    was killed makes what is missing when it is started again; shards of other records, models or options are refused.
    """
    from .embed import embed_to_parquet
    from .embed_shards import embed_to_shards, launcher_warning, parse_part, process_count

    if (output is None) == (output_dir is None):
        raise typer.BadParameter("pass either --output FILE.parquet or --output-dir FOLDER.")
    if stride_seconds is not None and window_seconds is None:
        raise typer.BadParameter("--stride-seconds needs --window-seconds as well.")
    part = parse_part(shard)
    if output is not None and (part.of > 1 or process_count() > 1):
        raise typer.BadParameter("several jobs or processes share a folder: pass --output-dir instead of --output.")
    _without_loading_bars()
    options: dict[str, Any] = {
        "device": device,
        "batch_size": batch_size,
        "window_seconds": window_seconds,
        "stride_seconds": stride_seconds,
        "leads": _names(leads),
        "progress": progress,
    }
    if output is not None:
        _show_embedded(embed_to_parquet(records, model, output, **options))
        return
    if warning := launcher_warning():
        typer.echo(warning, err=True)
    assert output_dir is not None  # one of the two, as checked above
    summary = embed_to_shards(records, model, output_dir, part=part, shard_records=shard_records, **options)
    if summary is not None:
        _show_embedded(summary)


def _show_embedded(summary: "EmbeddingSummary") -> None:
    from dataset_scripts.skipped import list_skipped

    from .embed_shards import process_count

    typer.echo("\n".join(summary.in_words()))
    if summary.left_out:
        typer.echo(f"{len(summary.left_out):,} left out:")
        typer.echo("\n".join(list_skipped(summary.left_out)))
        if process_count() == 1:
            raise typer.Exit(IN_PART)


@app.command(
    epilog="Examples:\n\n"
    "`ecg-jepa predict records/ --model runs/superclasses --output predictions.csv`\n\n"
    "`ecg-jepa predict holter.hea --model runs/superclasses --window-seconds 10 --aggregation any --output holter.json`"
)
def predict(
    records: RecordsAndFolders,
    model: Annotated[str, typer.Option(help="folder of a fine-tuned checkpoint or its name on the Hub")],
    output: Annotated[
        Path | None,
        typer.Option(
            help="file to write: .json with every window, or .csv with a row for each record; replaced if it is there"
        ),
    ] = None,
    aggregation: Annotated[
        str,
        typer.Option(
            help="what a record gets of its windows: mean, max, or any (a label holds that holds in any window)"
        ),
    ] = "mean",
    window_seconds: Annotated[
        float | None,
        typer.Option(help="look at every whole window of this length; else as the checkpoint says, its first 10 s"),
    ] = None,
    stride_seconds: Annotated[
        float | None, typer.Option(help="from one window's start to the next's; the window if not given")
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="windows a forward pass")] = 8,
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda")] = "auto",
    progress: Annotated[bool, typer.Option(help="show a progress bar")] = True,
) -> None:
    """Say which labels hold for ECG records, or what is measured on them, by a checkpoint with such a head.

    A label holds from the checkpoint's own threshold on, or 0.5 where it has none. Records and windows that cannot be
    used are counted, listed with the reason and left out (exit code 3). For research use. Not a medical device.
    """
    from tqdm import tqdm

    from dataset_scripts.skipped import list_skipped

    from .predict import NOT_A_DEVICE
    from .predict import predict as predict_records

    if stride_seconds is not None and window_seconds is None:
        raise typer.BadParameter("--stride-seconds needs --window-seconds as well.")
    _without_loading_bars()
    options = {"aggregation": aggregation, "window_seconds": window_seconds, "stride_seconds": stride_seconds}
    summary = predict_records(
        records, model, output, device=device, show=tqdm.write, batch_size=batch_size, progress=progress, **options
    )
    typer.echo(f"{summary.records:,} records{'' if output is None else f': {output}'}\n{NOT_A_DEVICE}")
    if summary.left_out:
        typer.echo(f"{len(summary.left_out):,} left out:")
        typer.echo("\n".join(list_skipped(summary.left_out)))
        raise typer.Exit(IN_PART)


@app.command(
    epilog="Examples:\n\n"
    "`ecg-jepa plot-embeddings embeddings.parquet --output map.png`\n\n"
    "`ecg-jepa plot-embeddings embeddings/code15 --labels split --method tsne --output split.png`\n\n"
    "`ecg-jepa plot-embeddings embeddings.parquet --labels diagnoses.csv --output diagnoses.png`, with the table\n\n"
    "`record,label`\n\n`ptb-xl/00001_hr,AF;MI`\n\nor a column of 0 and 1 for each label"
)
def plot_embeddings(
    embeddings: Annotated[
        Path, typer.Argument(metavar="EMBEDDINGS", help="what `ecg-jepa embed` wrote, a file or a folder of shards")
    ],
    output: Annotated[Path, typer.Option(help="picture to write (.png); replaced if it is there")],
    labels: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN_OR_CSV",
            help="colour by this column (labels, split, ...), or by a CSV table with a column `record`; the column "
            "`labels` if not given",
        ),
    ] = None,
    method: Annotated[str, typer.Option(help="umap or tsne; umap compiles itself for half a minute first")] = "umap",
    neighbors: Annotated[
        int,
        typer.Option(min=2, help="neighbours that place a point (t-SNE: perplexity); few show detail, many the whole"),
    ] = 30,
    points: Annotated[int, typer.Option(min=3, help="draw at most so many, chosen by lot")] = 10_000,
    seed: Annotated[int, typer.Option(min=0, help="the same seed gives the same picture")] = 0,
) -> None:
    """Draw embeddings as a map, coloured by label: records that the model takes for alike lie together.

    Where records have several labels each label gets a panel of its own. Look for groups; distances between groups, and
    their sizes, mean nothing. Whether a label can be read off the embeddings, `train.linear_probe` says with numbers.
    """
    from .embedding_plot import plot_embeddings as plot

    summary = plot(embeddings, output, method=method, labels=labels, neighbors=neighbors, points=points, seed=seed)
    typer.echo("\n".join(summary.in_words()))


@app.command(
    epilog="Examples:\n\n"
    "`ecg-jepa similar records/00001_hr --index embeddings.parquet`\n\n"
    "`ecg-jepa similar records/00001_hr --index embeddings/code15 --model runs/ecg-jepa-base --neighbors 5 --json`"
)
def similar(
    record: Annotated[str, typer.Argument(metavar="RECORD", help="a WFDB record, with or without .hea or .dat")],
    index: Annotated[
        Path,
        typer.Option(metavar="EMBEDDINGS", help="what `ecg-jepa embed` wrote, a file or a folder of shards"),
    ],
    model: Annotated[
        str | None, typer.Option(help="the index's model; from where the index says it was if not given")
    ] = None,
    neighbors: Annotated[int, typer.Option(min=1, help="how many")] = 10,
    device: Annotated[str, typer.Option(help="auto (a GPU where there is one), cpu, cuda")] = "auto",
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Find the records of an index that are most like a record, by the cosine between their embeddings.

    The record is embedded just as the index was, with the same windows and leads; another model than the index's is
    refused. A distance is 1 minus the cosine: 0 is the same. A record that is in the index finds itself first.
    """
    import json

    from .similar import as_json as objects
    from .similar import find_similar, in_words

    _without_loading_bars()
    found = find_similar(record, index, model=model, count=neighbors, device=device)
    typer.echo(json.dumps(objects(found), indent=2) if as_json else "\n".join(in_words(found)))


@app.command(epilog="Examples:\n\n`ecg-jepa info runs/ecg-jepa-base`\n\n`ecg-jepa info runs/ecg-jepa-base --json`")
def info(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="folder or name on the Hub")],
    as_json: Annotated[bool, typer.Option("--json", help="as JSON, for programs")] = False,
) -> None:
    """Say what a checkpoint is: sizes, parameters, leads, rate, labels, training, file hashes."""
    import json

    from .info import describe, in_words

    description = describe(model)
    typer.echo(json.dumps(description, indent=2) if as_json else "\n".join(in_words(description)))


@app.command(
    epilog="Examples:\n\n`ecg-jepa card runs/tiny --results runs/probe/probe.json`\n\n"
    "`ecg-jepa card runs/tiny --results cv/probe.json --results final/probe.json --compared decisions/probe.json "
    "--notes notes.md`"
)
def card(
    model: Annotated[Path, typer.Argument(metavar="MODEL", help="folder of a checkpoint")],
    results: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE.json",
            help="`probe.json` of `train.linear_probe` or `results.json` of `train.benchmark` on these very weights; "
            "may be repeated",
        ),
    ] = None,
    compared: Annotated[
        list[Path] | None,
        typer.Option(metavar="PROBE.json", help="of several variants, compared with the first; may be repeated"),
    ] = None,
    notes: Annotated[
        Path | None,
        typer.Option(
            help="Markdown to take over; a number in it that stands in no JSON is refused (a guard against "
            "slips, no proof)"
        ),
    ] = None,
    output: Annotated[Path | None, typer.Option(help="file to write; README.md in the folder if not given")] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="replace also a file that this command did not write")
    ] = False,
) -> None:
    """Write the model card: what a checkpoint is, what it was trained on, and what was measured.

    Every figure comes from a JSON that a command left: the run's own files, and those that you name. Results of other
    weights are refused. Without results the card says that nothing is known.
    """
    from .card import write_model_card

    _without_loading_bars()
    path = write_model_card(
        model, results or [], compared=compared or [], notes=notes, output=output, overwrite=overwrite
    )
    typer.echo(f"written  {path}")


@app.command(epilog="Example:\n\n`ecg-jepa labels ptb-xl/1.0.3`")
def labels(
    data_dir: Annotated[Path, typer.Argument(metavar="DATA_DIR", help="folder of PTB-XL, with ptbxl_database.csv")],
    min_likelihood: Annotated[
        float | None, typer.Option(help="count only statements of at least this likelihood, in percent")
    ] = None,
) -> None:
    """Count records and classes of PTB-XL's six label sets, and of the five superclasses in each fold.

    Where the table has all 21,799 records the counts are compared with the published ones; exit code 1 if any differs.
    The signals need not be there.
    """
    from .labels import WHOLE, count_labels, differences, in_words

    rows, counts = count_labels(data_dir, min_likelihood)
    typer.echo("\n".join([f"{rows:,} records in the table", "", *in_words(counts), ""]))
    if rows != WHOLE or min_likelihood is not None:
        typer.echo(f"Not compared with the published numbers: those are for all {WHOLE:,} records and any likelihood.")
        return
    differing = differences(counts)
    if differing:
        typer.echo("\n".join(["Error: this is not the table of PTB-XL 1.0.3; fetch it again.", *differing]), err=True)
        raise typer.Exit(ERROR)
    typer.echo("These are the published numbers.")


@app.command(
    epilog="Examples:\n\n"
    "`ecg-jepa prepare ptb_xl --data-dir ptb-xl/ --output-dir prepared/ptb-xl --label-set superdiagnostic`\n\n"
    "`ecg-jepa prepare wfdb_folder --data-dir records/ --output-dir prepared/ours --sampling-rate 250 --seconds 10 "
    "--leads I,II,V1,V2,V3,V4,V5,V6 --option table=ours.csv --option label_columns=AF,MI`\n\n"
    "Then, with no code of ours: `datasets.load_dataset('prepared/ours')`"
)
def prepare(
    corpus: Annotated[str, typer.Argument(metavar="CORPUS", help="ptb_xl, code15, wfdb_folder, ...")],
    output_dir: Annotated[Path, typer.Option(help="folder to make")],
    data_dir: Annotated[Path | None, typer.Option(help="where the corpus lies; without it, it is downloaded")] = None,
    sampling_rate: Annotated[
        float | None, typer.Option(help="resample to this rate in Hz; else the files' own")
    ] = None,
    leads: Annotated[str | None, typer.Option(help="keep these leads, in this order: I,II,V1; else all")] = None,
    seconds: Annotated[
        float | None, typer.Option(help="keep the first seconds, and no shorter records; else all of each")
    ] = None,
    label_set: Annotated[str | None, typer.Option(help="which labels; the corpus's own default if not given")] = None,
    config_name: Annotated[str | None, typer.Option(help="a named configuration of the corpus")] = None,
    option: Annotated[
        list[str] | None, typer.Option(metavar="NAME=VALUE", help="any other option of the corpus; may be repeated")
    ] = None,
    on_error: Annotated[
        str, typer.Option(help="skip: leave faulty records out, list them; raise: stop at one")
    ] = "skip",
    num_proc: Annotated[int, typer.Option(min=1, help="processes; each writes shards of its own")] = 1,
    max_shard_size: Annotated[str, typer.Option(help="size of a Parquet file before compression")] = "200MB",
    cache_dir: Annotated[Path | None, typer.Option(help="where downloads are kept")] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="USER/NAME", help="upload the finished folder as this dataset")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="replace an earlier result")] = False,
    progress: Annotated[bool, typer.Option(help="show a progress bar")] = True,
) -> None:
    """Write a corpus of ECGs as Parquet files with a dataset card, which plain `datasets.load_dataset` reads.

    With a rate, leads and seconds all rows have signals of one size, ready for a model. Records that cannot be used
    are counted, listed with the reason and left out (exit code 3); the folder appears only when it is whole.
    """
    import datasets

    from dataset_scripts.skipped import list_skipped

    from .prepare import check_can_push, parse_options, push
    from .prepare import prepare as prepare_corpus

    if push_to_hub is not None:
        check_can_push(push_to_hub)
    if not progress:
        datasets.disable_progress_bars()
    given = {
        "data_dir": data_dir,
        "sampling_rate": sampling_rate,
        "leads": _names(leads),
        "seconds": seconds,
        "label_set": label_set,
        "config_name": config_name,
        "cache_dir": None if cache_dir is None else str(cache_dir),
    }
    prepared = prepare_corpus(
        corpus,
        output_dir,
        num_proc=num_proc,
        max_shard_size=max_shard_size,
        overwrite=overwrite,
        on_error=on_error,
        **{name: value for name, value in given.items() if value is not None},
        **parse_options(corpus, option or []),
    )
    for split, statistics in prepared.splits.items():
        typer.echo(f"{statistics.records:8,} records  {split}")
    typer.echo(f"written  {output_dir}")
    if push_to_hub is not None:
        typer.echo(f"pushed   {push(output_dir, push_to_hub)}")
    if prepared.left_out:
        typer.echo(f"{len(prepared.left_out):,} left out:")
        typer.echo("\n".join(list_skipped(prepared.left_out, most=20)))
    if any(not record.by_choice for record in prepared.left_out):
        raise typer.Exit(IN_PART)


@app.command(
    epilog="Examples:\n\n`ecg-jepa quality records/`\n\n`ecg-jepa quality ptb-xl/records500 --output ptb-xl.html`"
)
def quality(
    records: RecordsAndFolders,
    output: Annotated[
        Path, typer.Option(help="overview to write, a page (.html) or a picture (.png); replaced if it is there")
    ] = Path("quality.html"),
    progress: Annotated[bool, typer.Option(help="show a progress bar")] = True,
) -> None:
    """Say what is to be known of records before they are used, and write an overview to look at.

    Leads that are missing, flat, clipped or over 10 mV, broken limb equations, noise, baseline wander, rates, lengths,
    leads; and the worst record of each kind on ECG paper. Records that cannot be read are counted and listed (exit
    code 3).
    """
    from dataset_scripts.skipped import list_skipped

    from .quality import in_words, survey_quality
    from .quality_page import check_output, write_overview

    check_output(output)
    survey = survey_quality(records, progress=progress)
    write_overview(survey, output)
    typer.echo("\n".join(in_words(survey)))
    typer.echo(f"\noverview: {output}")
    if survey.left_out:
        typer.echo(f"{len(survey.left_out):,} left out:")
        typer.echo("\n".join(list_skipped(survey.left_out)))
        raise typer.Exit(IN_PART)


@app.command(
    epilog="Examples:\n\n"
    "`ecg-jepa check-leakage ptb-xl/`\n\n"
    "`ecg-jepa check-leakage prepared/code15 prepared/ptb_xl georgia/ --num-proc 8 --output leakage.json`\n\n"
    "Exit codes: 4 findings, also where records were left out; 3 none, but records were left out, so it is not sure; "
    "0 none among all records; 1 error."
)
def check_leakage(
    folders: Annotated[
        list[Path],
        typer.Argument(
            metavar="FOLDER",
            help="WFDB records; or a prepared dataset: Parquet shards as of `ecg-jepa prepare`, or what `save_to_disk` "
            "wrote. Each folder is a corpus. PTB-XL's layout is recognised: the two files of an ecg_id are one "
            "recording, and folds 1-8, 9 and 10 are train, validation and test",
        ),
    ],
    output: Annotated[Path | None, typer.Option(help="JSON file to write with all findings, or none")] = None,
    num_proc: Annotated[int, typer.Option(min=1, help="processes that read records")] = 1,
    same_patients: Annotated[
        bool, typer.Option("--same-patients", help="a patient id means the same person in all folders")
    ] = False,
    progress: Annotated[bool, typer.Option(help="show a progress bar")] = True,
) -> None:
    """Find the same signal under two ids, and patients in several splits, within and across corpora.

    A model that was tested on what it was trained on looks better than it is. Copies are found although they were
    resampled, filtered, scaled, shifted, or are 10 s out of a longer record; each is a line `corpus:id = corpus:id`.
    Not found are pieces shorter than 10 s of longer records, exchanged or inverted leads, and anything after the first
    5 minutes. Two recordings of one patient are no duplicates: they count where they lie in different splits.
    """
    from dataset_scripts.leakage import check_leakage as check
    from dataset_scripts.recordings import find_recordings

    from .leakage import in_words, write_json

    recordings = find_recordings(folders)
    report = check(recordings, num_proc=num_proc, same_patients=same_patients, progress=progress)
    typer.echo("\n".join(in_words(report)))
    if output is not None:
        write_json(report, output)
        typer.echo(f"written  {output}")
    if report.pairs or report.patients:
        raise typer.Exit(FINDINGS)
    if report.left_out:
        raise typer.Exit(IN_PART)


if __name__ == "__main__":
    app()
