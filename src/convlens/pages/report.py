"""``report.html``: a whole run on one page that opens anywhere, with nothing beside it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from itertools import chain
from pathlib import Path

from markupsafe import Markup

from convlens.core.errors import UserError
from convlens.core.files import write_atomic
from convlens.draw.jpeg import read_jpeg_size
from convlens.pages.charts import line_chart
from convlens.pages.phases import read_phases
from convlens.pages.render import data_uri, render
from convlens.pages.selection import ACTIVATIONS, Selection, has_prefix, select
from convlens.rundir.read import StoredRun, convert_run_errors, read_run

Chart = Callable[..., Markup]  # a line chart with the run's marks and epochs

FILE = "report.html"
LIMIT = 15_000_000  # bytes of a page: a mail takes it, a phone opens it
MANY = 20  # classes, above which their table is folded
LINES = 12  # of a chart of scores; of more the highest are shown

# the page's sections of pictures, by the beginnings of their tags
SECTIONS = {
    "confusion": ("confusion_matrix",),
    "mistakes": ("predictions/mistakes",),
    "answers": ("predictions/breakdown", "predictions/random"),
    "means": ("class_means",),
    "depth": ("depth",),
    "filters": ("filters",),
    "augmentation": ("augmentation",),
}
# scores that are read together share a chart, the others have their own
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
    "evidence on the object": "energy_inside below object_share: the evidence avoids the objects",
    "peak of the evidence": "0 is the top or left edge, 1 the bottom or right one",
    "border_energy": "share of the evidence in a frame along the border",
    "same_place": "share of a class's pictures with their peak in one and the same border place",
    "drift": "correlation of each map with that of the look before; 1: nothing changed",
    "confident_mistakes": "share of the validation pictures",
    "sparsity": "share of a layer's activations that are zero",
    "dead": "share of a layer's channels that answer none of the probes",
    "randomised": "rank correlation with maps of a network that is random from the top down to "
    "this layer",
}


def report(home: Path, *, limit: int = LIMIT) -> Path:
    """Write ``report.html`` into a run folder, whole or not at all.

    Works on a run that is not finished, as far as it went, and on one without explanations.

    Args:
        home: the run folder.
        limit: bytes that the page may have. Where a run has more pictures, the page holds fewer of
            them, or smaller ones, and says so; its text and charts are always there.

    Returns:
        The file.

    Raises:
        UserError: the folder holds no run, or a file in it cannot be read.
    """
    with convert_run_errors(home):
        run = read_run(home)
        if not run.rows:
            raise UserError(
                f"{home} has no row in metrics.csv yet: the network before training comes first; "
                f"wait for it, or start again with `make resume run={home}`"
            )
        page = _fitted(run, limit)
    write_atomic(home / FILE, page)
    return home / FILE


def _fitted(run: StoredRun, limit: int) -> str:
    """The page with as many pictures as it has room for."""
    page = _page(run, Selection({}), limit)
    room = limit - len(page.encode())
    while True:
        selection = select(run.pictures, run.probes, room)
        page = _page(run, selection, limit)
        # headings and lines that stand around the pictures are known only now
        over = len(page.encode()) - limit
        if over <= 0 or not selection.pictures:
            break
        room -= over
    return page


def _page(run: StoredRun, selection: Selection, limit: int) -> str:
    summary, phases = run.summary or {}, read_phases(run.config, run.rows)
    best = summary.get("best_epoch", run.best_epoch)
    marks = {f"phase {p.number}": p.start for p in phases if 0 < p.start < run.last_epoch}
    chart = partial(line_chart, best=best, phases=marks, span=(0, run.last_epoch))
    results = _results(run, best)
    keys = dict.fromkeys(chain(*results.values()))
    classes = [key for key in keys if key.startswith("f1/")]
    graded = {name: row for name, row in results.items() if not row.keys().isdisjoint(classes)}
    return render(
        "report.html",
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
        left_out=selection.left_out,
        broken=selection.broken,
        megabytes=limit / 1e6,
        curves=_curves(run, chart),
        phases=phases,
        config=run.config,
        config_text=(run.home / "config.yaml").read_text(encoding="utf-8"),
        results=results,
        graded=graded,
        classes=classes,
        many=len(classes) > MANY,
        scores=_scores(run, chart),
        summary=summary,
        cost=_cost(summary),
        last=max((epoch for looks in run.pictures.values() for epoch in looks), default=None),
        **_pictures(run, selection),
    )


def _scalars(run: StoredRun, stage: str) -> dict[str, dict[int, float]]:
    """The curves ``<stage>/…`` of a run by the rest of their tags."""
    start = f"{stage}/"
    tags = dict.fromkeys(tag for row in run.rows for tag in row if tag.startswith(start))
    return {tag.removeprefix(start): run.curve(tag) for tag in tags}


def _curves(run: StoredRun, chart: Chart) -> list[Markup]:
    charts = []
    for name in ("loss", "accuracy"):
        parts = {"training": f"train/{name}", "validation": f"val/{name}"}
        charts.append(chart(name, {part: run.curve(tag) for part, tag in parts.items()}))
    rates = _scalars(run, "lr")
    # groups that differ by powers of ten are told apart only where ratios are distances
    highest = [top for points in rates.values() if (top := max(points.values())) > 0]
    log = bool(highest) and max(highest) >= 10 * min(highest)
    note = "logarithmic; a rate of 0 (at rest) is not drawn" if log else ""
    charts.append(chart("learning rate at the end of each epoch", rates, log=log, note=note))
    return list(filter(None, charts))


def _scores(run: StoredRun, chart: Chart) -> list[Markup]:
    groups: dict[str, dict[str, dict[int, float]]] = {}
    for score, points in _scalars(run, "explain").items():
        if score != "seconds":  # what looking cost has its own chart
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


def _results(run: StoredRun, best: int | None) -> dict[str, dict[str, float]]:
    """Rows of the results table: what was measured, where, after which epoch."""
    last, summary = run.last_epoch, run.summary or {}
    rows = {f"training, epoch {last} (last)": run.results("train", last)}
    if best is not None:
        rows[f"validation, epoch {best} (best)"] = run.results("val", best)
    rows[f"validation, epoch {last} (last)"] = run.results("val", last)
    rows[f"test, epoch {best} (best)"] = summary.get("test", {})
    for checkpoint, found in summary.get("evaluations", {}).items():
        rows[f"test of {checkpoint}, epoch {found['epoch']} (make eval)"] = found["test"]
    return {name: values for name, values in rows.items() if values}


def _cost(summary: Mapping) -> Markup:
    looks = summary.get("looking", {}).get("by_epoch", [])
    lines = {
        "training and validation": {look["epoch"]: look["seconds"] for look in looks},
        "looking": {look["epoch"]: look["looking"] for look in looks},
    }
    return line_chart("seconds of each epoch", lines)


def _pictures(run: StoredRun, selection: Selection) -> dict[str, object]:
    """The pictures as the template shows them: by section, each with its frames."""
    shown = {tag: _frames(tag, looks) for tag, looks in selection.pictures.items()}
    probes = []
    for name, source in run.probes.items():
        own = [tag for tag in shown if tag.rpartition("/")[2] == name]
        maps = [tag for tag in own if not has_prefix(tag, (ACTIVATIONS, "augmentation"))]
        # Grad-CAM first, where there is room beside it occlusion and what else was asked for
        maps.sort(key=lambda tag: (not has_prefix(tag, ("grad_cam",)), tag))
        folded = [shown[tag] for tag in own if has_prefix(tag, (ACTIVATIONS,))]
        if own:
            found = {"maps": [shown[tag] for tag in maps], "activations": folded}
            probes.append({"name": name, "source": source, **found})
    sections = {
        section: [shown[tag] for start in beginnings for tag in shown if has_prefix(tag, (start,))]
        for section, beginnings in SECTIONS.items()
    }
    return {"probes": probes, **sections}


def _frames(tag: str, looks: Mapping[int, bytes]) -> dict[str, object]:
    frames = []
    for epoch, encoded in looks.items():
        width, height = read_jpeg_size(encoded)
        frames.append({"epoch": epoch, "uri": data_uri(encoded), "width": width, "height": height})
    return {"tag": tag, "frames": frames}
