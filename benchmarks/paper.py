"""VAD against VAE over missing rates, as in the VAD paper: both tuned by the same search, on the same rows and masks.

    python benchmarks/paper.py                    all of it, resumable: about an hour and a half on two cores
    python benchmarks/paper.py --datasets mnist --rates 0.5,0.7,0.9 --seeds 1
    python benchmarks/paper.py --show             table and figures of what was run
    python benchmarks/paper.py --quick            one small case of each kind, a minute

For each dataset and model one `vadtune.search` at 50% missing chooses settings, by validation rows, and another one at
90%. With those of the first the model is trained at every rate and with every seed (which draws rows, masks and weights
anew), from 70% on with those of the second, too: the training with the lower error on validation rows counts, and is
scored on the hidden cells of test rows. `shifted` models are trained on complete rows and tested at all rates. Results
go to one JSON file, case by case; what is in it is not run again. A table in Markdown goes to stdout, a figure beside
the JSON (by `--show` as PNG, too, which needs kaleido and a Chromium). Seeds that one of the two models lacks yet are
left out.

Source: Zadeh, Lim, Liang, Morency (2019), Variational Auto-Decoder, arXiv:1903.00840, section 5.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from math import isnan, nan
from pathlib import Path
from statistics import fmean
from typing import Any

import plotly.graph_objects as go
from plotly.subplots import make_subplots

from vadtune.data.metrics import rmse
from vadtune.data.problem import Problem, load_problem
from vadtune.data.splits import DataConfig
from vadtune.models.objective import as_tensor
from vadtune.settings import parse
from vadtune.training.config import TrialConfig
from vadtune.training.evaluation import complete, hide
from vadtune.training.inference import infer
from vadtune.training.run import TrialRun
from vadtune.tuning.schedulers import report_epochs

RESULTS = Path(__file__).with_name("paper.json")
MODELS = ("vad", "vae")
# Of 16 columns few are left to tell 4 latent dimensions by where most cells are missing: the wide table has 100.
DATASETS = ["synthetic", "synthetic:n_features=100", "landmarks", "mnist"]
MECHANISMS = {"landmarks": "landmark"}
# Missing rates of the searches, and the rates from which on their settings are tried.
TUNED_AT = {0.5: 0.0, 0.9: 0.7}
# Blue and vermilion of Okabe and Ito (2008): told apart by colour-blind readers.
COLORS = {"vad": "#0072B2", "vae": "#D55E00"}


@dataclass(frozen=True)
class Case:
    """One training: a model on a dataset; `missing_rate` None is on complete rows, to be tested at all rates.

    `tuned_at` is the missing rate of the search that found its settings.
    """

    dataset: str
    model: str
    seed: int
    missing_rate: float | None
    tuned_at: float


def tuned(dataset: str, model: str, rate: float, args: argparse.Namespace) -> dict[str, Any]:
    """The winner's settings of one search, and the command that found them."""
    words = ["-m", "vadtune.search", dataset, "--model", model, "--mechanism", mechanism_of(dataset)]
    words += ["--missing-rate", str(rate), "--trials", str(args.trials), "--seed", "0", "--json"]
    words += ["--max-epochs", str(args.max_epochs)] if args.max_epochs else []
    with tempfile.TemporaryDirectory() as runs:
        command = [sys.executable, *words, "--runs", runs]
        result = json.loads(subprocess.run(command, stdout=subprocess.PIPE, check=True).stdout)
        header = json.loads((Path(result["best"]["artifact"]) / "config.json").read_text())
    return {"config": header["trial"], "command": " ".join(["python", *words]), "seconds": result["seconds"]}


def train(case: Case, config: TrialConfig, rates: list[float]) -> list[dict[str, Any]]:
    """Train one model; its mean squared error over hidden cells of test rows, at its own rate or at all rates."""
    rate = case.missing_rate
    data = {"dataset": case.dataset, "mechanism": {"kind": mechanism_of(case.dataset)}, "seed": case.seed}
    data |= {"missing_rate": 0.0, "test_missing_rate": case.tuned_at} if rate is None else {"missing_rate": rate}
    problem = load_problem(parse(DataConfig, data, "benchmark"), Path("data"))
    config = config.model_copy(update={"seed": case.seed})
    run = TrialRun(config, problem.splits.train.rows, problem.splits.validation)
    n_epochs = config.train.n_epochs
    for epoch in report_epochs((), n_epochs):
        run.advance(epoch)
    validation = run.finish()
    model = run.best_model().eval()
    errors = []
    for tested in rates if rate is None else [rate]:
        test = problem.splits.test if rate is not None else hidden_again(problem, tested)
        posterior = infer(model, model.batch(as_tensor(test.rows.x)), config.infer)
        x_hat = model.estimate(posterior.mean).detach().numpy()
        scores = {"mse": rmse(x_hat, test.truth) ** 2, "validation": validation}
        errors.append({**asdict(case), "tested_at": tested, **scores})
    return errors


def done_already(case: Case, results: dict[str, Any]) -> list[dict[str, Any]]:
    """What the same training gave with the settings of another search, where both searches found the same."""
    configs = {at: results["tuned"].get(f"{case.dataset} {case.model} {at}", {}).get("config") for at in TUNED_AT}
    twins = [asdict(replace(case, tuned_at=at)) for at in TUNED_AT if configs[at] == configs[case.tuned_at]]
    found = [error for error in results["errors"] if any(twin.items() <= error.items() for twin in twins)]
    return [error | {"tuned_at": case.tuned_at} for error in found]


def hidden_again(problem: Problem, rate: float) -> Any:
    """The test rows with another share of their cells hidden."""
    return hide(complete(problem.splits.test), problem.config.mechanism, rate, problem.config.seed)


def mechanism_of(dataset: str) -> str:
    return MECHANISMS.get(dataset.partition(":")[0], "mcar")


def cases(args: argparse.Namespace) -> Iterator[Case]:
    """Seed by seed, so that whatever is done when it is stopped is balanced."""
    for seed in range(args.seeds):
        for dataset in args.datasets:
            for rate in [*args.rates, *([None] if args.shifted else [])]:
                for model in MODELS:
                    for tuned_at, lowest in TUNED_AT.items():
                        if (rate or 0.0) >= lowest:
                            yield Case(dataset, model, seed, rate, tuned_at)


def means(errors: list[dict[str, Any]], dataset: str, tested_at: float, *, shifted: bool) -> tuple[list[float], int]:
    """Mean squared errors of both models over the seeds that both were run with, and how many those are."""
    found: dict[str, dict[int, float]] = {model: {} for model in MODELS}
    # The lowest error on validation rows comes last, and stays; None is where there was nothing to choose.
    for error in sorted(errors, key=lambda error: -(error["validation"] or 0.0)):
        if (error["dataset"], error["tested_at"], error["missing_rate"] is None) == (dataset, tested_at, shifted):
            found[error["model"]][error["seed"]] = error["mse"]
    seeds = set.intersection(*(set(by_seed) for by_seed in found.values()))
    return [fmean([by_seed[seed] for seed in seeds]) if seeds else nan for by_seed in found.values()], len(seeds)


def table(errors: list[dict[str, Any]], args: argparse.Namespace) -> str:
    """Mean squared errors over seeds, VAD beside VAE."""
    head = "| data | missing | seeds | VAD | VAE | VAE / VAD | VAD shifted | VAE shifted |"
    rows = [head, "|---|---|---|---|---|---|---|---|"]
    for dataset in args.datasets:
        for rate in args.rates:
            plain, n_seeds = means(errors, dataset, rate, shifted=False)
            if not n_seeds:
                continue
            shifted, _ = means(errors, dataset, rate, shifted=True)
            cells = [f"{value:.5f}" for value in plain] + [f"{plain[1] / plain[0]:.2f}"]
            cells += ["–" if isnan(value) else f"{value:.5f}" for value in shifted]
            rows.append(f"| {dataset} | {rate:.0%} | {n_seeds} | {' | '.join(cells)} |")
    return "\n".join(rows)


def figure(errors: list[dict[str, Any]], args: argparse.Namespace) -> go.Figure:
    """Mean squared error over missing rate, one panel a dataset; dashed: trained on complete rows."""
    made = make_subplots(1, len(args.datasets), subplot_titles=args.datasets, horizontal_spacing=0.08)
    for column, dataset in enumerate(args.datasets, start=1):
        for place, model in enumerate(MODELS):
            for shifted in [False, True] if args.shifted else [False]:
                y = [means(errors, dataset, rate, shifted=shifted)[0][place] for rate in args.rates]
                name = f"{model.upper()}, trained complete" if shifted else model.upper()
                line = {"color": COLORS[model], "dash": "dash" if shifted else "solid"}
                trace = go.Scatter(x=args.rates, y=y, name=name, line=line, legendgroup=name, showlegend=column == 1)
                made.add_trace(trace, 1, column)
    made.update_xaxes(title_text="missing rate", tickformat=".0%")
    made.update_yaxes(type="log", exponentformat="power", dtick=1)
    made.update_yaxes(title_text="MSE over hidden cells", col=1)
    made.update_layout(
        template="simple_white",
        width=400 * len(args.datasets),
        height=420,
        legend={"orientation": "h", "y": -0.25},
        margin={"t": 40, "r": 20},
    )
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--datasets", type=lambda text: text.split(","), default=DATASETS)
    rates = [round(0.1 * step, 1) for step in range(1, 10)]
    parser.add_argument("--rates", type=lambda text: [float(rate) for rate in text.split(",")], default=rates)
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--trials", type=int, default=12, help="of the search for each dataset and model")
    parser.add_argument("--max-epochs", type=int)
    parser.add_argument("--shifted", action=argparse.BooleanOptionalAction, default=True)
    parser.add_argument("--show", action="store_true", help="run nothing")
    parser.add_argument("--quick", action="store_true", help="one small dataset, two rates, two trials, few epochs")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS)
    args = parser.parse_args()
    if args.quick:
        args.datasets, args.rates, args.seeds = ["synthetic:n_rows=300"], [0.3, 0.6], 1
        args.trials, args.max_epochs = 2, 20
    results = json.loads(args.output.read_text()) if args.output.exists() else {"tuned": {}, "errors": []}
    if args.show:
        args.datasets = [name for name in args.datasets if any(error["dataset"] == name for error in results["errors"])]
    for case in [] if args.show else cases(args):
        known = {**asdict(case)}
        if any(known.items() <= error.items() for error in results["errors"]):
            continue
        print(case, file=sys.stderr)
        key = f"{case.dataset} {case.model} {case.tuned_at}"
        if key not in results["tuned"]:
            results["tuned"][key] = tuned(case.dataset, case.model, case.tuned_at, args)
        config = parse(TrialConfig, results["tuned"][key]["config"], key)
        results["errors"] += done_already(case, results) or train(case, config, args.rates)
        args.output.write_text(json.dumps(results, indent=1) + "\n")
    print(table(results["errors"], args))
    made = figure(results["errors"], args)
    made.write_html(args.output.with_suffix(".html"), include_plotlyjs="cdn")
    if args.show:
        made.write_image(args.output.with_suffix(".png"), scale=2)


if __name__ == "__main__":
    main()
