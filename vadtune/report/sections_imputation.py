"""The sections on what the winner fills in, and on its latent space."""

import pandas as pd

from vadtune.report import figures_gallery as gallery
from vadtune.report import figures_imputation as figures
from vadtune.report import figures_latent as latent
from vadtune.report.blocks import Block, Chart, Grid, Section, nothing
from vadtune.report.evaluation import Cells
from vadtune.report.run import Run
from vadtune.report.trials import score

TITLE = "What it fills in"


def imputation_section(run: Run) -> Section:
    """A gallery for images, columns and cells for tables; then errors over the missing rate and by mechanism."""
    found = run.evaluation
    if figures.evaluation_is_empty(found):
        why = (
            "The winner is scored on test rows when the search is over."
            if run.is_running
            else "The winner was not evaluated."
        )
        return Section("imputation", "Imputation", TITLE, (nothing(why),))
    is_image = run.settings.dataset.image_shape is not None
    blocks = [*(_images(run) if is_image else _columns(run)), *_certainty(run), *_conditions(run)]
    return Section("imputation", "Imputation", TITLE, tuple(blocks), rests_on(run))


def rests_on(run: Run) -> str:
    """How many cells the score rests on, and what it cannot know."""
    dataset, summary, data = run.settings.dataset, run.summary, run.settings.data
    if summary.scored_cells is None:
        return ""
    said = (
        f"The score rests on {summary.scored_cells:,} cells of {data.get('n_test', 0):,} test rows, hidden on purpose."
    )
    if dataset.n_unknown:
        mechanism = data.get("mechanism")
        kind = mechanism.get("kind") if isinstance(mechanism, dict) else mechanism
        said += (
            f" All of them were observed. About the {dataset.n_unknown:,} cells that are really unknown it cannot "
            f"know: if they are missing for another reason than the hidden ones ({kind}), the error may be another."
        )
    if summary.best is not None and summary.best.further_fits:
        said += " Some of the models that are averaged were fitted with the validation rows, none with a test row."
    if summary.best is not None and summary.best.refitted:
        said += " The exported model was then trained again on all rows; the score is of the one before."
    return said


def _certainty(run: Run) -> list[Block]:
    """Whether the model is as sure as it should be."""
    found = run.summary.best.calibration if run.summary.best is not None else None
    if found is None:
        return []
    frame = figures.coverage_frame(found)
    if frame.empty:
        return []
    said = []
    if found.crps is not None:
        said.append(f"The mean CRPS of {found.n_numbers:,} hidden numbers is {score(found.crps)}.")
    note = "On the line, an interval of 80% holds 80% of the hidden values; below it the model is too sure. "
    return [Chart("coverage", "How sure it may be", figures.draw_coverage(frame), frame, note + " ".join(said))]


def latent_section(run: Run) -> Section | None:
    """The posteriors in two dimensions, by label and by error; left out where there are none."""
    found = run.evaluation.latent
    if found is None:
        return None
    frame = latent.latent_frame(found)
    charts = []
    if (frame["label"] >= 0).any():
        charts.append(
            Chart("latent-label", "By label", latent.draw_labels(frame), note="The model never saw the labels.")
        )
    if frame["error"].notna().any():
        note = "The rows that stand out are the ones it gets most wrong."
        charts.append(Chart("latent-error", "By error", latent.draw_errors(frame), note=note))
    if not charts:
        charts.append(Chart("latent-label", "Posteriors", latent.draw_labels(frame)))
    lead = f"Posterior means of {len(frame):,} unseen rows in two dimensions: what lies together is alike to the model."
    return Section("latent", "Latent space", "Latent space", (Grid(tuple(charts), 2, numbers=frame),), lead)


def _images(run: Run) -> list[Block]:
    found, shape = run.evaluation, run.settings.dataset.image_shape
    if shape is None or shape[0] * shape[1] != run.settings.dataset.n_features:
        return []
    blocks: list[Block] = []
    for i, montage in enumerate(gallery.montages(found.gallery, shape) if found.gallery is not None else []):
        note = f"RMSE over the hidden pixels of these images: {score(montage.rmse)}."
        if i == 0:
            note += " Tinted pixels are hidden from the model; the deeper the orange, the less sure it is."
        blocks.append(
            Chart(
                f"gallery-{i}",
                f"{montage.rate:.0%} of the pixels hidden",
                gallery.draw_gallery(montage),
                None,
                note,
                wide=True,
            )
        )
    pair = []
    if found.columns is not None:
        figure = figures.draw_pixels(found.columns.rmse, shape)
        pair.append(Chart("pixels", "Where the errors are", figure, pd.DataFrame(found.columns.rmse.reshape(shape))))
    if found.cells is not None:
        frame = figures.cells_frame(found.cells)
        note = "Stronger squares hold more pixels; on the line, imputed equals true."
        pair.append(Chart("cells", "True against imputed", figures.draw_cell_density(frame), frame, note))
    return [*blocks, Grid(tuple(pair))] if pair else blocks


def _columns(run: Run) -> list[Block]:
    found = run.evaluation
    frame = figures.columns_frame(run)
    blocks: list[Block] = []
    if len(frame):
        numbers = frame.drop(columns="number").dropna(axis=1, how="all")
        note = "1 is as bad as filling in the column’s mean. The table has every column’s errors in its own units."
        blocks.append(Chart("columns", "Error by column", figures.draw_columns(frame), numbers, note))
    if found.cells is None:
        return blocks
    chosen = figures.example_columns(frame, found.cells) if len(frame) else sorted(set(found.cells.column.tolist()))[:6]
    blocks.append(_truth(run, found.cells, chosen))
    if found.observed is not None:
        blocks.append(_distributions(run, found.cells, chosen))
    return blocks


def _truth(run: Run, cells: Cells, chosen: list[int]) -> Grid:
    frames = {j: figures.cells_frame(cells, j) for j in chosen}
    charts = [Chart(f"cells-{j}", run.column_name(j), figures.draw_cells(frame)) for j, frame in frames.items()]
    note = f"Hidden test cells in original units; {len(chosen)} columns, the easiest first. On the line they are equal."
    named = [frame.assign(column=run.column_name(j)) for j, frame in frames.items()]
    return Grid(tuple(charts), 3, "True against imputed", note, pd.concat(named, ignore_index=True))


def _distributions(run: Run, cells: Cells, chosen: list[int]) -> Grid:
    observed = run.evaluation.observed
    assert observed is not None
    frames = {j: figures.distribution_frame(observed[:, j], cells.imputed[cells.column == j]) for j in chosen}
    charts = [Chart(f"values-{j}", run.column_name(j), figures.draw_distribution(frame)) for j, frame in frames.items()]
    note = "Observed values as an area, imputed ones as a line, which is expected to be narrower."
    named = [frame.assign(column=run.column_name(j)) for j, frame in frames.items()]
    return Grid(tuple(charts), 3, "Observed and imputed values", note, pd.concat(named, ignore_index=True))


def _conditions(run: Run) -> list[Block]:
    found, data = run.evaluation, run.settings.data
    charts = []
    if found.rates is not None:
        frame = figures.rates_frame(found.rates)
        rate = data.get("missing_rate")
        figure = figures.draw_rates(frame, float(rate) if isinstance(rate, int | float) else None)
        charts.append(Chart("rates", "Over the missing rate", figure, frame))
    if found.mechanisms is not None:
        frame = figures.mechanisms_frame(found.mechanisms)
        mechanism = data.get("mechanism")
        kind = mechanism.get("kind") if isinstance(mechanism, dict) else mechanism
        charts.append(Chart("mechanisms", "By mechanism", figures.draw_mechanisms(frame, str(kind)), frame))
    note = "The same winner, not trained again, on the same test rows with other cells hidden."
    return [Grid(tuple(charts), 2, "Other conditions", note)] if charts else []
