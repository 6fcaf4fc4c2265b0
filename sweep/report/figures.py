"""Figures of a sweep, each as HTML that works offline and as PNG."""

from __future__ import annotations

import itertools
import json
import logging
import math
import warnings
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import optuna
from optuna.trial import TrialState

from paraphrase.core.files import write_atomically
from paraphrase.core.pictures.drawing import pyplot, save
from paraphrase.sweep.settings.space import short_names

IMPORTANCES = "importance.json"
"""File of a sweep's report: objective -> hyperparameter -> share."""

LEAST_TRIALS = 4
"""Fewer complete trials than this say nothing of what a hyperparameter is worth."""

ACROSS = 3
"""Pairs of objectives side by side; more go below."""

LABEL = 8
"""Size of the names beside marks, in points."""
LABEL_PLACES = ((1, 1), (1, -1), (-1, 1), (-1, -1), (0, 1), (0, -1), (1, 0), (-1, 0))
"""Where a name may be: right of its mark, above it."""

ALL, FRONT, PERFORMER = "#9aa0a6", "#d1495b", "#30638e"


def plain_copy(study: optuna.Study, trials: list[optuna.trial.FrozenTrial]) -> optuna.Study:
    """The complete ones of these trials in memory, with short parameter names, for drawing."""
    copy = optuna.create_study(directions=study.directions)
    copy.set_metric_names(study.metric_names or [])
    complete = [t for t in trials if t.state == TrialState.COMPLETE]
    names = short_names(sorted({path for t in complete for path in t.params}))
    for trial in complete:
        copy.add_trial(
            optuna.trial.create_trial(
                params={names[k]: v for k, v in trial.params.items()},
                distributions={names[k]: d for k, d in trial.distributions.items()},
                values=trial.values,
                user_attrs={"number": trial.number},
            )
        )
    return copy


def importances(study: optuna.Study) -> dict[str, dict[str, float]]:
    """PED-ANOVA importances: objective -> hyperparameter -> share, largest first; empty with too few trials.

    The importance is of reaching the best tenth of an objective. The evaluator takes low for good whatever the study's
    direction, so maximised objectives are negated.
    """
    complete = [t for t in study.trials if t.state == TrialState.COMPLETE]
    if len(complete) < LEAST_TRIALS:
        return {}
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances  # takes seconds

    shares: dict[str, dict[str, float]] = {}
    for i, metric in enumerate(study.metric_names or []):
        sign = -1.0 if study.directions[i] == optuna.study.StudyDirection.MAXIMIZE else 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            shares[metric] = get_param_importances(
                study,
                evaluator=PedAnovaImportanceEvaluator(target_quantile=max(0.1, 2 / len(complete))),
                target=_value_of(i, sign),
            )
    return shares


def draw_figures(study: optuna.Study, front: set[int], performer: Mapping[str, float], folder: Path) -> list[Path]:
    """Draw everything into a folder, and write the importances; returns the files.

    Args:
        study: from `plain_copy`.
        front: numbers of the Pareto-optimal trials.
        performer: its metrics, drawn as a line where it has the objective's.
    """
    pyplot()  # before optuna, which would look for a screen
    optuna.logging.set_verbosity(optuna.logging.ERROR)  # it says of each study in memory that it is made
    logging.getLogger("matplotlib").setLevel(logging.ERROR)
    folder.mkdir(parents=True, exist_ok=True)
    shares = importances(study)
    files = _draw_pareto(study, front, performer, folder)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        for kind in KINDS:
            files += kind.draw(study, folder)
    if shares:
        files += _draw_importances(shares, folder)
    write_atomically(folder / IMPORTANCES, json.dumps(shares, indent=2))
    return [*files, folder / IMPORTANCES]


class Kind(NamedTuple):
    """A kind of figure with a section of its own in the report, one for each objective."""

    name: str
    """Of its files: `<name>_<objective>.png`, and `<name>.html` if it has one."""
    title: str
    """Of the section."""
    shows: str
    """What is seen, in words."""
    draw: Callable[[optuna.Study, Path], list[Path]]
    """Draws it of the complete trials, in memory and with short parameter names, into a folder; returns the files."""


def _write_html(figures: list[Any], file: Path) -> Path:
    """One page with several plotly figures, and plotly itself in it once; its title is the file's name in words."""
    parts = [f.to_html(full_html=False, include_plotlyjs=i == 0) for i, f in enumerate(figures)]
    title = file.stem.replace("_", " ").capitalize()
    file.write_text(
        f"<html><head><meta charset='utf-8'><title>{title}</title></head><body>{''.join(parts)}</body></html>", encoding="utf-8"
    )
    return file


def _of_optuna(kind: str) -> Callable[[optuna.Study, Path], list[Path]]:
    """One of Optuna's own plots, `plot_<kind>`."""
    return lambda study, folder: _draw_by_objective(study, kind, folder)


def _draw_by_objective(study: optuna.Study, kind: str, folder: Path) -> list[Path]:
    import optuna.visualization as interactive
    import optuna.visualization.matplotlib as still

    plt = pyplot()
    figures: list[Any] = []
    files: list[Path] = []
    for i, metric in enumerate(study.metric_names or []):
        alone = _one_objective(study, i)
        figures.append(_visible(getattr(interactive, f"plot_{kind}")(alone, target_name=metric)))
        with plt.rc_context():  # optuna sets a style of its own
            getattr(still, f"plot_{kind}")(alone, target_name=metric)
            figure = plt.gcf()
            if kind != "slice":
                figure.set_size_inches(9, 5)
            _plain_ticks(figure)
            for drawn in (c for axes in figure.axes for c in axes.collections if c.get_array() is not None):
                drawn.set_cmap(_blues(drawn.get_cmap().name.endswith("_r")))
            files.append(folder / f"{kind}_{metric}.png")
            save(figure, files[-1], bbox_inches="tight")
    return [_write_html(figures, folder / f"{kind}.html"), *files]


BLUES = ("#a6cbe3", "#08306b")
"""Of the least and the greatest value; Optuna's own begin with white."""


def _blues(downwards: bool) -> Any:
    """A colour map for matplotlib."""
    from matplotlib.colors import LinearSegmentedColormap

    named = ("blues_r", BLUES[::-1]) if downwards else ("blues", BLUES)  # a colour bar follows its lines, and is seen again
    return LinearSegmentedColormap.from_list(*named)


def _visible(figure: Any) -> Any:
    """A plotly figure of Optuna's, in colours that are seen on white."""
    for trace in figure.data:
        for part in (getattr(trace, "line", None), getattr(trace, "marker", None)):
            if part is not None and getattr(part, "colorscale", None):
                part.colorscale = [[0, BLUES[0]], [1, BLUES[1]]]
    return figure


def _one_objective(study: optuna.Study, index: int) -> optuna.Study:
    """A study of one objective alone, so that Optuna's plots know which direction is better."""
    alone = optuna.create_study(direction=study.directions[index])
    for trial in study.trials:
        alone.add_trial(
            optuna.trial.create_trial(
                params=trial.params, distributions=trial.distributions, value=trial.values[index], user_attrs=trial.user_attrs
            )
        )
    return alone


def _plain_ticks(figure: Any) -> None:
    """Few and plain numbers on logarithmic axes, where matplotlib writes powers of ten over each other."""
    from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

    few = 2 if len(figure.axes) > ACROSS else 4  # beside many others an axis is narrow
    for axes in figure.axes:
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                low, high = sorted(axis.get_view_interval())
                axis.set_major_locator(MaxNLocator(few) if high < 10 * low else LogLocator(numticks=few + 1))
                axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
                axis.set_minor_formatter(NullFormatter())


def _value_of(index: int, sign: float = 1.0) -> Callable[[optuna.trial.FrozenTrial], float]:
    return lambda trial: sign * trial.values[index]


def _draw_importances(shares: Mapping[str, Mapping[str, float]], folder: Path) -> list[Path]:
    import plotly.graph_objects as go

    plt = pyplot()
    names = sorted({n for s in shares.values() for n in s}, key=lambda n: sum(s.get(n, 0) for s in shares.values()))
    title = "What each hyperparameter is worth (PED-ANOVA)"
    figure = go.Figure(layout={"title": title, "barmode": "group", "xaxis": {"title": "importance"}})
    for metric, share in shares.items():
        figure.add_bar(name=metric, y=names, x=[share.get(n, 0) for n in names], orientation="h")
    still, axes = plt.subplots(figsize=(8, 1.5 + 0.45 * len(names)))
    height = 0.8 / len(shares)
    for i, (metric, share) in enumerate(shares.items()):
        axes.barh([j + i * height for j in range(len(names))], [share.get(n, 0) for n in names], height, label=metric)
    axes.set_yticks([j + 0.4 - height / 2 for j in range(len(names))], names)
    axes.set(title=title, xlabel="importance")
    axes.legend()
    save(still, folder / "importance.png", bbox_inches="tight")
    return [_write_html([figure], folder / "importance.html"), folder / "importance.png"]


def _draw_pareto(study: optuna.Study, front: set[int], performer: Mapping[str, float], folder: Path) -> list[Path]:
    """Every pair of objectives: all complete trials, the front, and the performer's own value."""
    from plotly.subplots import make_subplots

    plt = pyplot()
    metrics = list(study.metric_names or [])
    trials = study.trials
    groups = [("other trials", ALL, False), ("front", FRONT, True)]
    pairs = list(itertools.combinations(range(len(metrics)), 2)) or [(0, 0)]
    across = min(ACROSS, len(pairs))
    down = math.ceil(len(pairs) / across)
    figure = make_subplots(down, across, horizontal_spacing=0.08, vertical_spacing=0.25 / down)
    still, grid = plt.subplots(down, across, figsize=(5.2 * across, 4.4 * down), squeeze=False)
    for empty in grid.flat[len(pairs) :]:
        empty.set_axis_off()
    for k, (i, j) in enumerate(pairs):
        axes, place_of = grid.flat[k], {"row": k // across + 1, "col": k % across + 1}
        for label, colour, on_front in groups:
            some = [t for t in trials if (t.user_attrs["number"] in front) == on_front]
            x, y = [t.values[i] for t in some], [t.values[j] for t in some]
            hover = [_describe(t) for t in some]
            style: dict[str, Any] = {"color": colour, "size": 10 if on_front else 7}
            figure.add_scatter(
                x=x,
                y=y,
                mode="markers+text" if on_front else "markers",
                marker=style,
                text=[str(t.user_attrs["number"]) for t in some] if on_front else None,
                textposition="top center",
                textfont={"size": LABEL + 2},
                hovertext=hover,
                name=label,
                showlegend=k == 0,
                **place_of,
            )
            axes.scatter(x, y, c=colour, s=45 if on_front else 22, label=label, zorder=3)
        for index, name, line, still_line in ((i, "x", figure.add_vline, axes.axvline), (j, "y", figure.add_hline, axes.axhline)):
            if (value := performer.get(metrics[index])) is not None:
                line(**{name: value}, line_dash="dot", line_color=PERFORMER, **place_of)
                still_line(value, ls=":", c=PERFORMER, label="performer" if name == "x" else None)
        figure.update_xaxes(title=_title(study, i), **place_of)
        figure.update_yaxes(title=_title(study, j), **place_of)
        axes.set(xlabel=_title(study, i), ylabel=_title(study, j))
        axes.margins(0.1)
        axes.locator_params(nbins=5)
    grid[0][0].legend(fontsize=8)
    figure.update_layout(title="Pareto front", height=520 * down)
    still.tight_layout()
    for axes, (i, j) in zip(grid.flat, pairs, strict=False):
        places = {t.user_attrs["number"]: (t.values[i], t.values[j]) for t in trials}
        _label(axes, {str(n): place for n, place in places.items() if n in front}, list(places.values()))
    save(still, folder / "pareto_front.png")
    return [_write_html([figure], folder / "pareto_front.html"), folder / "pareto_front.png"]


def _label(axes: Any, names: Mapping[str, tuple[float, float]], marks: Sequence[tuple[float, float]]) -> None:
    """Write names beside their marks, each at the first of eight places where it covers no mark and no other name.

    Args:
        axes: whose limits and place in the figure are final.
    """
    points = 72 / axes.figure.dpi
    taken = [(x - 3, y - 3, x + 3, y + 3) for x, y in axes.transData.transform(list(marks)) * points]
    for name, place in names.items():
        x, y = axes.transData.transform(place) * points
        wide, high = 0.6 * LABEL * len(name), 0.75 * LABEL
        boxes = []
        for right, up in LABEL_PLACES:
            left, low = x + right * (4 + wide / 2) - wide / 2, y + up * (4 + high / 2) - high / 2
            boxes.append((left, low, left + wide, low + high))
        left, low, *_ = box = min(boxes, key=lambda b: sum(_overlap(b, t) for t in taken))
        taken.append(box)
        axes.annotate(name, place, (left - x, low - y), textcoords="offset points", fontsize=LABEL, zorder=4)


def _overlap(a: Sequence[float], b: Sequence[float]) -> float:
    """Area that two boxes (left, low, right, high) have in common."""
    return max(0.0, min(a[2], b[2]) - max(a[0], b[0])) * max(0.0, min(a[3], b[3]) - max(a[1], b[1]))


def _title(study: optuna.Study, index: int) -> str:
    direction = study.directions[index]
    better = "higher is better" if direction == optuna.study.StudyDirection.MAXIMIZE else "lower is better"
    return f"{(study.metric_names or [])[index].replace('_', ' ')} ({better})"


def _describe(trial: optuna.trial.FrozenTrial) -> str:
    """A trial's number and parameters as hover text."""
    values = [f"{k} = {v:.4g}" if isinstance(v, float) else f"{k} = {v}" for k, v in trial.params.items()]
    return "<br>".join([f"trial {trial.user_attrs['number']}", *values])


KINDS = (
    Kind(
        "optimization_history",
        "How the search went",
        "value of each complete trial, in the order of trials",
        _of_optuna("optimization_history"),
    ),
    Kind("slice", "Slices", "value of each complete trial over each hyperparameter; darker is later", _of_optuna("slice")),
    Kind(
        "parallel_coordinate",
        "Parallel coordinates",
        "a line for each complete trial, through its values",
        _of_optuna("parallel_coordinate"),
    ),
)
"""Figures of a search beside its front, importances and learning curves; a new one is one function and one entry here."""
