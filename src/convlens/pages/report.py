"""Write ``report.html``: a whole run on one self-contained page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from markupsafe import Markup

from convlens.core.command_lines import command_line
from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.draw.jpeg import read_jpeg_size
from convlens.pages.charts import line_chart
from convlens.pages.data_section import describe_data
from convlens.pages.phases import read_phases
from convlens.pages.render import data_uri, render
from convlens.pages.selection import (
    ACTIVATIONS,
    ATTENTION,
    FILMS,
    FILTERS,
    Selection,
    has_prefix,
    select,
)
from convlens.pages.viewer import Viewer, build_viewer, read_viewer_run
from convlens.rundir.read import StoredRun, convert_run_errors, read_run

Chart = Callable[..., Markup]  # ``line_chart`` with the run's marks and epochs

FILE = "report.html"
LIMIT = 3_000_000  # bytes: can be mailed, and opens at once on a phone
OF_MAPS = 2 / 3  # share of the room for data that maps and photographs may take
HEADLINE = ("loss", "accuracy", "balanced_accuracy")  # columns of the table of results
MANY = 20  # with more classes, the tables of classes are folded
LINES = 12  # most lines in a chart of scores; if there are more, it shows the highest ones

# section of the page -> prefixes of its pictures' tags
SECTIONS = {
    "confusion": ("predictions/confusion_matrix",),
    "reliability": ("predictions/reliability",),
    "mistakes": ("predictions/mistakes",),
    "slices": ("predictions/slices",),
    "answers": ("predictions/breakdown", "predictions/random"),
    "diary": (
        "training/mislabelled",
        "training/map",
        "training/hardest",
        "training/forgotten",
        "training/learned_last",
    ),
    "means": ("grad_cam_means",),
    "clusters": ("grad_cam_clusters",),
    "depth": ("layers/depth",),
    "changes": ("layers/changes",),
    "films": FILMS,
    "attention": (ATTENTION, "layers/norms"),
    "activations": (ACTIVATIONS,),
    "filters": (FILTERS,),
    "augmentation": ("training/augmentation",),
}
# scores that share a chart -> its title; every other score has its own chart
TOGETHER = {
    "pointing_game": "evidence on the object",
    "energy_inside": "evidence on the object",
    "object_share": "evidence on the object",
    "peak_row": "peak of the evidence",
    "peak_column": "peak of the evidence",
    "insertion": "insertion and deletion",
    "deletion": "insertion and deletion",
    "average_drop": "faithfulness",
    "average_increase": "faithfulness",
    "adcc": "faithfulness",
}
MEANINGS = {
    "evidence on the object": "energy_inside below object_share means less evidence on the objects "
    "than if it were spread evenly",
    "peak of the evidence": "0 is the top or left edge, 1 the bottom or right one",
    "border_energy": "fraction of the evidence in a frame along the border",
    "same_place": "fraction of a class's images whose peak is in the same place near the border",
    "shortcut": "how much further accuracy falls if the class's place at the edge is covered than "
    "if its mirror image is",
    "low_slices": "fraction of the grouped validation images that are in slices of low accuracy",
    "drift": "correlation of each map with the previous map; 1 means no change",
    "confident_mistakes": "fraction of the validation images that are confidently misclassified",
    "head_entropy": "0: a head looks at one token, 1: at all alike; means over heads and probes",
    "head_diversity": "0: all heads of a layer look alike, 1: no two look at the same token",
    "attention_distance": "how far patches look, as a fraction of the image's diagonal",
    "norm_outliers": "fraction of the background's patches whose token has a far larger norm",
    "token_drift": "1 - cosine of what the classifier reads, against the previous look",
    "cka_before": "1: the layer relates the validation images to each other as at the look before",
    "cka_start": "1: the layer relates the validation images to each other as before training",
    "sparsity": "fraction of a layer's activations that are zero",
    "dead": "fraction of a layer's channels that respond to no probe",
    "randomised": "rank correlation with maps of a network whose layers from the top down to this "
    "one are random",
}


def report(home: Path, *, limit: int = LIMIT) -> Path:
    """Write ``report.html`` into a run folder, completely or not at all.

    An unfinished run is shown up to its last completed epoch. A run need not have explanations.

    Args:
        home: the run folder.
        limit: maximum size of the page in bytes. If maps and pictures need more, the page contains
            fewer or smaller ones and lists what is missing; text and charts are always complete.

    Returns:
        The path of the page.

    Raises:
        UserError: the folder is not a run folder, or a file in it cannot be read.
    """
    with convert_run_errors(home):
        run = read_run(home)
        if not run.rows:
            raise UserError(
                f"{home} has no row in metrics.csv yet: wait until the network before training is "
                f"validated, or continue with `{command_line('resume', run=home)}`"
            )
        page = _fit_page(run, limit)
    write_atomic(home / FILE, page)
    return home / FILE


def _fit_page(run: StoredRun, limit: int) -> str:
    """Return the page with as many maps and pictures as fit."""
    bare, slack = len(_render_page(run, None, Selection({}), limit).encode()), 0
    viewed = read_viewer_run(run)
    while True:
        viewer = build_viewer([viewed], room=int(OF_MAPS * (limit - bare - slack)))
        page = _render_page(run, viewer, Selection({}), limit)
        room = limit - len(page.encode()) - slack
        selection = select(run.pictures, run.probes, run.class_maps, room)
        page = _render_page(run, viewer, selection, limit)
        # the size of captions, and of the lines on what is left out, is known only now
        over = len(page.encode()) - limit
        if over <= 0 or not (viewer or selection.pictures):
            return page
        slack += over


def _render_page(run: StoredRun, viewer: Viewer | None, selection: Selection, limit: int) -> str:
    summary, phases = run.summary or {}, read_phases(run.config, run.rows)
    best = summary.get("best_epoch", run.best_epoch)
    marks = {f"phase {p.number}": p.start for p in phases if 0 < p.start < run.last_epoch}
    chart = partial(line_chart, best=best, phases=marks, span=(0, run.last_epoch))
    results = _list_results(run, best)
    details = summary.get("test_details", {})
    keys = dict.fromkeys(chain(*results.values()))
    classes = [key for key in keys if key.startswith("f1/")]
    more = [key for key in keys if key not in HEADLINE and "/" not in key]
    by_class = {name: row for name, row in results.items() if not row.keys().isdisjoint(classes)}
    return render(
        "report.html",
        resume=command_line("resume", run=run.home),
        find_slices=command_line("shortcuts", run=run.home),
        name=run.config.experiment,
        home=run.home.resolve(),
        began=run.first_started.strftime("%Y-%m-%d %H:%M"),
        finished=run.summary is not None,
        epochs=run.last_epoch,
        planned=run.config.epochs,
        best=best,
        at_best=run.results("val", best) if best is not None else {},
        test=summary.get("test", {}),
        alarms=summary.get("alarms", run.alarms),
        failures=summary.get("failures", []),
        left_out=[*_list_missing_maps(run, viewer), *selection.left_out],
        broken=[*(viewer.broken if viewer else []), *selection.broken],
        megabytes=limit / 1e6,
        curves=_draw_curves(run, chart),
        phases=phases,
        config=run.config,
        config_text=(run.home / "config.yaml").read_text(encoding="utf-8"),
        results=results,
        by_class=by_class,
        more=more,
        classes=classes,
        many=max(len(classes), len(details.get("classes", ()))) > MANY,
        details=details,
        details_columns=_list_columns(details),
        scores=_draw_scores(run, chart),
        measured_once=_list_scores_measured_once(run),
        data=describe_data(run),
        summary=summary,
        cost=_draw_cost(summary),
        viewer=viewer,
        has_maps=bool(run.class_maps),
        **_arrange_pictures(selection),
    )


def _scalars(run: StoredRun, stage: str) -> dict[str, dict[int, float]]:
    """Return the curves ``<stage>/…`` of a run, by tag without the stage."""
    prefix = f"{stage}/"
    tags = dict.fromkeys(tag for row in run.rows for tag in row if tag.startswith(prefix))
    return {tag.removeprefix(prefix): run.curve(tag) for tag in tags}


def _draw_curves(run: StoredRun, chart: Chart) -> list[Markup]:
    """Return the charts of loss, accuracy, other metrics and learning rates."""
    charts = []
    for name in ("loss", "accuracy"):
        parts = {"training": f"train/{name}", "validation": f"val/{name}"}
        charts.append(chart(name, {part: run.curve(tag) for part, tag in parts.items()}))
    for name, points in _scalars(run, "val").items():
        if name not in HEADLINE and "/" not in name:  # what `metrics` names
            charts.append(chart(name.replace("_", " "), {"validation": points}))
    rates = _scalars(run, "lr")
    # a linear axis cannot show rates that differ by powers of ten
    highest = [top for points in rates.values() if (top := max(points.values())) > 0]
    log = bool(highest) and max(highest) >= 10 * min(highest)
    note = "logarithmic; a rate of 0 (not trained) is not drawn" if log else ""
    charts.append(chart("learning rate at the end of each epoch", rates, log=log, note=note))
    return list(filter(None, charts))


def _draw_scores(run: StoredRun, chart: Chart) -> list[Markup]:
    """Return the charts of the explanations' scores."""
    groups: dict[str, dict[str, dict[int, float]]] = {}
    once = _list_scores_measured_once(run)
    for score, points in _scalars(run, "explain").items():
        if score != "seconds" and score not in once:  # the cost has its own chart
            family, _, member = score.partition("/")
            group = family if member else TOGETHER.get(family, family)
            groups.setdefault(group, {})[member or family] = points
    charts = []
    for group, lines in groups.items():
        note = MEANINGS.get(group, "")
        if len(lines) > LINES:
            highest = sorted(lines, key=lambda name: -max(lines[name].values()))[:LINES]
            note = f"the {LINES} highest of {len(lines)}; {note}".rstrip("; ")
            lines = {name: lines[name] for name in lines if name in highest}
        charts.append(chart(group.replace("_", " "), lines, note=note))
    return list(filter(None, charts))


def _list_scores_measured_once(run: StoredRun) -> dict[str, float]:
    """Return the scores that only the look at the end of training has measured, for a table."""
    if run.summary is None or not run.last_epoch:
        return {}
    curves = _scalars(run, "explain")
    # before metrics.csv had them, only the summary did
    scores = {**run.summary.get("scores", {}), **run.results("explain", run.last_epoch)}
    return {
        score: value for score, value in scores.items()
        if score != "seconds" and curves.get(score, {}).keys() <= {run.last_epoch}
    }  # fmt: skip


def _list_results(run: StoredRun, best: int | None) -> dict[str, dict[str, float]]:
    """Return the rows of the results table: split and epoch to metrics."""
    last, summary = run.last_epoch, run.summary or {}
    rows = {f"training, epoch {last} (last)": run.results("train", last)}
    if best is not None:
        rows[f"validation, epoch {best} (best)"] = run.results("val", best)
    rows[f"validation, epoch {last} (last)"] = run.results("val", last)
    rows[f"test, epoch {best} (best)"] = summary.get("test", {})
    for checkpoint, evaluation in summary.get("evaluations", {}).items():
        row = f"test of {checkpoint}, epoch {evaluation['epoch']} (eval)"
        rows[row] = evaluation["test"]
    return {name: values for name, values in rows.items() if values}


def _list_columns(details: Mapping) -> list[str]:
    """Return the columns of the table of classes, in the order in which the details have them."""
    rows = details.get("classes", {}).values()
    return list(dict.fromkeys(chain.from_iterable(rows)))


def _draw_cost(summary: Mapping) -> Markup:
    """Return the chart of the seconds that training and explanations took."""
    looks = summary.get("looking", {}).get("by_epoch", [])
    lines = {
        "training and validation": {look["epoch"]: look["seconds"] for look in looks},
        "explanations": {look["epoch"]: look["looking"] for look in looks},
    }
    return line_chart("seconds per epoch", lines)


def _list_missing_maps(run: StoredRun, viewer: Viewer | None) -> list[str]:
    """Return one line about each thing that the viewer lacks, to keep the page small."""
    if viewer is None and run.class_maps:
        return [f"all maps: {', '.join(run.class_maps)}"]
    return [*viewer.left_out] if viewer else []


def _arrange_pictures(selection: Selection) -> dict[str, list]:
    """Return the template's values for the pictures, by section."""
    figures = {tag: _figure(tag, looks) for tag, looks in selection.pictures.items()}
    sections: dict[str, list] = {section: [] for section in (*SECTIONS, "others")}
    for tag, figure in figures.items():
        fitting = (name for name, prefixes in SECTIONS.items() if has_prefix(tag, prefixes))
        sections[next(fitting, "others")].append(figure)
    return sections


def _figure(tag: str, looks: Mapping[int, bytes]) -> dict[str, object]:
    """Return the template's values for a tag's pictures: one frame per epoch."""
    frames = []
    for epoch, encoded in looks.items():
        width, height = read_jpeg_size(encoded)
        frames.append({"epoch": epoch, "uri": data_uri(encoded), "width": width, "height": height})
    return {"tag": tag, "frames": frames}
