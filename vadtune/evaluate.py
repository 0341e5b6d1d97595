"""`python -m vadtune.evaluate`: score an exported model at many missing rates."""

import argparse
import time
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from vadtune import cli
from vadtune.errors import ArtifactError
from vadtune.settings import Nested, parse

if TYPE_CHECKING:
    from vadtune.data.tables import FloatArray, Table
    from vadtune.training.artifact import Artifact
    from vadtune.training.rates import RateResult, TestRows

EXAMPLES = """\
  python -m vadtune.evaluate runs/night/best
  python -m vadtune.evaluate runs/night/best --missing-rates 0.1,0.5,0.9 --mechanism mnar
  python -m vadtune.evaluate runs/night/best other.csv --mask fixed --json
  python -m vadtune.evaluate runs/night/best --missing-rates 0 --reference-output clean

Without DATASET the model is scored on the test rows of the table it was trained on, another table on all its rows.
--mask random hides cells of each row anew, fixed the same columns of every row. Rate 0 hides nothing: only observed
cells are scored. --reference-output writes what the VAD paper's code writes: results.json, pred.h5 and
final_latents.h5 (with nothing hidden), missing_pred_MODE.h5 (RATE/pred and RATE/input, NaN where hidden)."""

DEFAULT_RATES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9)
# Of a table with codes: the mean over columns, and its parts.
MIXED = {"mean error": "error", "NRMSE": "nrmse", "error rate": "error_rate"}
COLUMNS = {
    "hidden RMSE": "rmse",
    "min-max RMSE": "rmse_minmax",
    "MAE": "mae",
    "MSE": "mse",
    "observed RMSE": "observed_rmse",
    "all RMSE": "all_rmse",
}


def parser() -> cli.Parser:
    """The command's arguments."""
    made = cli.Parser("evaluate", "Score an exported model at many missing rates, on rows it has not seen.", EXAMPLES)
    made.add_argument("artifact", metavar="ARTIFACT", type=Path, help="folder of an exported model, such as RUN/best")
    made.add_argument("dataset", metavar="DATASET", nargs="?", help="a name or a file (default: the model's own table)")
    made.add_argument(
        "--missing-rates",
        metavar="R,R,…",
        type=cli.rates,
        help="shares of the known cells to hide (default: 0.1 to 0.9, as far as the mechanism can)",
    )
    made.add_argument("--mechanism", choices=cli.MECHANISMS, help="why cells are missing (default: as it was trained)")
    made.add_argument(
        "--mask", choices=("fixed", "random"), default="random", help="the same columns of every row, or row by row"
    )
    made.add_argument("--seed", metavar="N", type=cli.seed, help="of the masks (default: as it was trained)")
    cli.add_data_dir(made)
    made.add_argument("--device", default="auto", help="auto, cpu or cuda:N (default: auto)")
    made.add_argument("--reference-output", metavar="DIR", type=Path, help="also write the files of the paper's code")
    made.add_argument("--json", action="store_true", help="print the result as one JSON document")
    return made


def main(arguments: list[str]) -> int:
    """Run the command; returns its exit code."""
    return evaluate(parser().parse_args(arguments))


def evaluate(args: argparse.Namespace) -> int:
    """Hide, impute, score, print."""
    from vadtune.data.masks import Mechanism
    from vadtune.training.artifact import load_artifact
    from vadtune.training.device import resolve_device
    from vadtune.training.rates import check_scored, choose_rows, over_rates

    began = time.monotonic()
    device, _ = resolve_device(args.device)
    artifact = load_artifact(args.artifact, device)
    table = load_table(args, artifact)
    mechanism = None if args.mechanism is None else parse(Mechanism, {"kind": args.mechanism}, "--mechanism")
    rows = choose_rows(artifact, table, mechanism, args.seed)
    if rows.are_own and artifact.dataset.get("refitted"):
        raise ArtifactError(
            f"{args.artifact}: was refitted on all rows of this table, so that nothing is left to score it on. Its "
            "scores from before are in metrics.json; vadtune.export RUN -o DIR gives the model that they are of."
        )
    missing_rates = args.missing_rates or rows.reachable(DEFAULT_RATES, args.mask)
    cli.say(f"{table.name}: {_which(rows)}, {len(missing_rates)} missing rates")
    column_range = rows.column_range
    results: Iterable[RateResult] = over_rates(artifact, rows, missing_rates, args.mask)
    if args.reference_output:
        results = write_reference(args.reference_output, artifact, rows, args.mask, results)
    scores = [result.scores(column_range) | result.calibration(artifact) for result in results]
    check_scored(scores, table.name)
    document = describe(args, table, rows) | {"rates": scores, "seconds": round(time.monotonic() - began, 1)}
    if args.reference_output:
        from vadtune.training.reference_output import write_results

        write_results(args.reference_output, document)
    if args.json:
        cli.show_json(document)
    else:
        cli.show(_sentences(document))
    return 0


def load_table(args: argparse.Namespace, artifact: "Artifact") -> "Table":
    """The table to score: the one given, or the model's own, which must be the one it was trained on.

    Raises:
        ArtifactError: It is not, or is gone.
        DataError: Another one lacks columns of the model; those that were left out in training may be missing.
    """
    from vadtune.data.datasets import load, table_file
    from vadtune.data.declared import Declared
    from vadtune.data.files import read_known
    from vadtune.errors import ConfigError, DataError

    if args.dataset is not None:
        file = table_file(args.dataset, args.data_dir)
        if file is not None and file.is_file():
            return read_known(file, artifact)
        return load(args.dataset, data_dir=args.data_dir)
    declared = parse(Declared, artifact.dataset.get("hidden", {}).get("columns", {}), "config.json: columns")
    name = artifact.dataset.get("hidden", {}).get("dataset")
    if name is None:
        raise ArtifactError(f"{args.artifact}: does not say what it was trained on. Give a DATASET.")
    try:
        table = load(name, data_dir=args.data_dir, declared=declared)
    except (DataError, ConfigError) as error:
        raise ArtifactError(f"{args.artifact}: its table cannot be loaded ({error}) Give a DATASET.") from None
    if table.sha256 != artifact.dataset["sha256"]:
        found, expected = table.sha256[:12], artifact.dataset["sha256"][:12]
        raise ArtifactError(
            f"{args.artifact}: {table.source} is not the table it was trained on any more (sha256 {found}…, expected "
            f"{expected}…). Give --data-dir, or a DATASET to score all its rows."
        )
    return table


def write_reference(
    folder: Path, artifact: "Artifact", rows: "TestRows", mode: str, results: Iterable["RateResult"]
) -> list["RateResult"]:
    """Write the predictions in the columns' own units, and those of the complete rows; hand the results on."""
    from vadtune.training.rates import over_rates
    from vadtune.training.reference_output import write_missing_predictions, write_predictions

    kept, inverse = list(results), artifact.scaler.inverse
    arrays: dict[str, FloatArray] = {}
    for result in kept:
        arrays[f"{result.missing_rate:g}/pred"] = inverse(result.x_hat)
        arrays[f"{result.missing_rate:g}/input"] = inverse(result.holdout.rows.x)
    write_missing_predictions(folder, mode, arrays)
    (clean,) = over_rates(artifact, rows, [0.0], "random")
    write_predictions(folder, inverse(clean.x_hat), {"latents": clean.latents})
    return kept


def describe(args: argparse.Namespace, table: "Table", rows: "TestRows") -> Nested:
    """What was scored, as far as it is the same for all rates."""
    return {
        "artifact": str(args.artifact),
        "dataset": {
            "name": table.name,
            "sha256": table.sha256,
            "n_rows": table.n_rows,
            "n_features": rows.table.n_features,
        },
        "rows": "test" if rows.are_own else "all",
        "n_scored_rows": int(rows.rows.size),
        "unit": table.unit,
        "mechanism": rows.config.mechanism.kind,
        "mask": args.mask,
        "seed": rows.config.seed,
    }


def _which(rows: "TestRows") -> str:
    if rows.are_own:
        return f"{rows.rows.size:,} test rows of the table the model was trained on"
    return f"all {rows.rows.size:,} rows of another table"


def _sentences(document: Nested) -> str:
    """The scores as a table."""
    titles = (MIXED if document["unit"] == "mixed" else {}) | COLUMNS
    unit = "pixels in [0, 1]" if document["unit"] == "pixel" else "standard deviations of the training columns"
    lines = [
        f"{document['dataset']['name']}, {document['mechanism']}, {document['mask']} mask; errors in {unit}",
        "",
        "  ".join(["rate", *(title.rjust(6) for title in titles)]),
    ]
    for scores in document["rates"]:
        cells = (_number(scores[key]).rjust(max(6, len(title))) for title, key in titles.items())
        lines.append("  ".join([f"{scores['missing_rate']:<4g}", *cells]))
    return "\n".join(cli.printable(line) for line in lines)


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"


if __name__ == "__main__":
    cli.run(main)
