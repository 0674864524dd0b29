#!/usr/bin/env python3
"""Draws the plots of a report from the numbers that `sage2-eval report` wrote (schema "sage2-plots/1").

    plot_report.py plots.json OUT_DIR [--format svg,pdf,png] [--only NAME]

Computes nothing of its own; the same numbers give the same bytes. Needs matplotlib.
"""

import argparse
import concurrent.futures
import json
import math
import os
import pathlib
import sys

os.environ.setdefault("SOURCE_DATE_EPOCH", "0")

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt  # noqa: E402
import numpy as np  # noqa: E402
from matplotlib.colors import LogNorm, Normalize  # noqa: E402
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, NullLocator, PercentFormatter  # noqa: E402

SCHEMA = "sage2-plots/1"
PANEL_COLUMNS = 3
MAP = "cividis"  # its lightness rises steadily, so it reads the same in grey
MARKERS = "osD^vP*X<>hp"
DASHES = ["-", "--", "-.", ":"]
HATCHES = ["", "///", "...", "xxx", "\\\\\\", "ooo"]

plt.rcParams.update(
    {
        "svg.hashsalt": "sage2-eval",  # ids in the file depend on its contents only
        "svg.fonttype": "path",
        "pdf.fonttype": 42,
        "font.family": "DejaVu Sans",
        "font.size": 8,
        "axes.titlesize": 8,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.grid": True,
        "axes.axisbelow": True,
        "grid.color": "0.88",
        "grid.linewidth": 0.6,
        "legend.frameon": False,
        "figure.constrained_layout.use": True,
    }
)


def numbers(values):
    """Nested lists with null for missing, as an array with NaN."""
    return np.array(values, dtype=float)


def styles(count):
    """Colours from dark to light, with markers and dashes that tell lines apart without colour."""
    colours = plt.get_cmap("viridis")(np.linspace(0, 0.85, max(count, 2)))
    return [
        {"color": colours[i], "marker": MARKERS[i % len(MARKERS)], "linestyle": DASHES[i % len(DASHES)]}
        for i in range(count)
    ]


def log_norm(values):
    """Logarithmic colour scale; linear where the values leave no choice."""
    positive = values[np.isfinite(values) & (values > 0)]
    if positive.size == 0 or positive.min() == positive.max():
        top = positive.max() if positive.size else 1.0
        return Normalize(0, top)
    return LogNorm(positive.min(), positive.max())


def plain_log(axis, low, high):
    """Decimal tick labels on a logarithmic axis, between the decades too where there are few of them."""
    decades = math.log10(high / low) if 0 < low < high else 1
    subs = [1, 1.5, 2, 3, 5, 7] if decades < 1 else [1, 2, 5] if decades < 2.5 else [1]
    axis.set_major_locator(LogLocator(subs=subs, numticks=20))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}" if 1e-4 < value < 1e4 else f"{value:.0e}"))


def bars(ax, at, low, high, **style):
    """Vertical bars where both ends are known."""
    known = np.isfinite(low) & np.isfinite(high)
    if known.any():
        ax.vlines(at[known], low[known], high[known], **style)


def legend_below(fig, handles, labels):
    """One legend for all axes of a figure, in a strip of its own below them."""
    columns = max(1, min(len(labels), int(fig.get_figwidth() / (0.5 + 0.075 * max(map(len, labels))))))
    height = fig.get_figheight()
    strip = 0.17 * math.ceil(len(labels) / columns) + 0.12
    fig.set_figheight(height + strip)
    fig.get_layout_engine().set(rect=(0, strip / (height + strip), 1, height / (height + strip)))
    fig.legend(handles, labels, loc="lower center", ncol=columns)


def tick_some(axis, values, most=12):
    step = math.ceil(len(values) / most)
    axis.set_ticks(range(0, len(values), step))
    axis.set_ticklabels([str(values[i]) for i in range(0, len(values), step)])


def draw_grid(ax, values, x, y, norm, cmap=MAP):
    shown = np.clip(values, norm.vmin, norm.vmax)  # zero has no logarithm: it takes the darkest colour
    image = ax.imshow(shown, norm=norm, cmap=cmap, aspect="auto", origin="upper", interpolation="nearest")
    for row, column in np.argwhere(~np.isfinite(values)):
        ax.plot(column, row, "x", color="black", markersize=4)
    tick_some(ax.xaxis, x["values"])
    tick_some(ax.yaxis, y["values"], 24)
    ax.grid(False)
    ax.spines[["top", "right"]].set_visible(True)
    return image


def write_values(ax, values, norm, cmap=MAP):
    """Prints the numbers into the cells where there is room for them."""
    if values.shape[0] > 12 or values.shape[1] > 10:
        return
    for (row, column), value in np.ndenumerate(values):
        if not np.isfinite(value):
            continue
        red, green, blue, _ = plt.get_cmap(cmap)(norm(np.clip(value, norm.vmin, norm.vmax)))
        dark = 0.3 * red + 0.59 * green + 0.11 * blue < 0.5
        ax.text(column, row, f"{value:.2g}", ha="center", va="center", fontsize=6, color="white" if dark else "black")


def draw_heatmaps(figure):
    panels = figure["panels"]
    grids = [numbers(p["values"]) for p in panels]
    norm = log_norm(np.concatenate([g.ravel() for g in grids]))
    columns = min(PANEL_COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = 6.9 if columns > 1 or grids[0].shape[1] > 10 else 4.6
    height = rows * min(3.2, max(1.5, 0.19 * grids[0].shape[0] + 0.6))
    fig, axes = plt.subplots(rows, columns, figsize=(width, height + 0.5), sharex=True, sharey=True, squeeze=False)
    for ax in axes.flat[len(panels):]:
        ax.set_visible(False)
    image = None
    for i, (ax, panel, grid) in enumerate(zip(axes.flat, panels, grids)):
        image = draw_grid(ax, grid, figure["x"], figure["y"], norm)
        if columns * grid.shape[1] <= 18:
            write_values(ax, grid, norm)
        ax.set_title(panel["label"])
        if i + columns >= len(panels):  # the lowest panel of its column
            ax.set_xlabel(figure["x"]["label"])
            ax.tick_params(labelbottom=True)
        if i % columns == 0:
            ax.set_ylabel(figure["y"]["label"])
    bar = fig.colorbar(image, ax=axes, label=figure["metric"]["label"], shrink=min(1.0, 0.5 + 0.5 / rows), aspect=12 + 6 * rows)
    if isinstance(norm, LogNorm):
        plain_log(bar.ax.yaxis, norm.vmin, norm.vmax)
    return fig


def draw_difference(figure):
    values = numbers(figure["values"])
    finite = values[np.isfinite(values)]
    low, high = min(0.0, finite.min(initial=0)), max(0.0, finite.max(initial=0))
    if low < 0 < high:  # both signs: zero in the middle
        low, high = -max(-low, high), max(-low, high)
    norm = Normalize(low, high if high > low else low + 1)
    fig, ax = plt.subplots(figsize=(4.6, min(7.0, max(2.0, 0.2 * values.shape[0] + 1.2))))
    image = draw_grid(ax, values, figure["x"], figure["y"], norm)
    write_values(ax, values, norm)
    ax.set_title(figure["title"])
    ax.set_xlabel(figure["x"]["label"])
    ax.set_ylabel(figure["y"]["label"])
    fig.colorbar(image, ax=ax, label="difference of " + figure["metric"]["label"])
    return fig


def draw_profile(figure):
    axes_data = figure["axes"]
    fig, axes = plt.subplots(1, len(axes_data), figsize=(3.45 * len(axes_data), 3.1), sharey=True, squeeze=False)
    for ax, data in zip(axes.flat, axes_data):
        x = np.arange(len(data["values"]), dtype=float)
        count = len(data["series"])
        for i, (series, style) in enumerate(zip(data["series"], styles(count))):
            at = x + 0.5 * ((i + 0.5) / count - 0.5)  # side by side, so that bars do not hide each other
            mean = numbers(series["mean"])
            bars(ax, at, numbers(series["head_low"]), numbers(series["head_high"]), color=style["color"], linewidth=0.7)
            bars(ax, at, numbers(series["sample_low"]), numbers(series["sample_high"]), color=style["color"], linewidth=2.2)
            ax.plot(at, mean, label=series["label"], markersize=3.5, linewidth=1, **style)
        ax.set_yscale("log")
        tick_some(ax.xaxis, data["values"])
        ax.set_xlabel(data["label"])
    plain_log(axes[0, 0].yaxis, *axes[0, 0].get_ylim())
    axes[0, 0].set_ylabel(figure["metric"]["label"])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend_below(fig, handles, labels)
    return fig


def draw_distribution(figure):
    rows = figure["rows"]
    fig, (left, right) = plt.subplots(
        1, 2, figsize=(6.9, max(2.0, 0.33 * len(rows) + 1.0)), sharey=True, gridspec_kw={"width_ratios": [1.25, 1]}
    )
    tails = ["50%", "90%", "99%", "99.9%", "max"]
    shades = plt.get_cmap("viridis")(np.linspace(0.85, 0, len(tails)))
    for i, row in enumerate(rows):
        values = numbers(row["values"])
        low, median, high = (float("nan") if q is None else q for q in row["quartiles"])
        left.barh(i, high - low, left=low, height=0.62, color="0.85", edgecolor="0.4", linewidth=0.6)
        left.vlines(median, i - 0.31, i + 0.31, color="black", linewidth=1.4)
        jitter = 0.22 * (np.arange(values.size) * 0.618 % 1 - 0.5)  # fixed, so that the file is reproducible
        left.plot(values, i + jitter, ".", color=plt.get_cmap(MAP)(0.1), markersize=2.5, alpha=0.55)
        worst = row["worst"]
        if worst["value"] is not None:
            left.annotate(worst["name"], (worst["value"], i), xytext=(4, 0), textcoords="offset points", va="center", fontsize=6.5)
        tail = numbers(row["tail"])
        right.plot(tail, np.full(tail.size, i), color="0.6", linewidth=0.8, zorder=1)
        for value, shade, marker in zip(tail, shades, MARKERS):
            right.plot(value, i, marker=marker, color=shade, markersize=4, zorder=2)
    left.set_yticks(range(len(rows)), [row["label"] for row in rows])
    left.invert_yaxis()
    for ax in (left, right):
        ax.set_xscale("log")
        ax.margins(x=0.12)
        plain_log(ax.xaxis, *ax.get_xlim())
    left.set_xlabel(figure["metric"]["label"] + " of a cell")
    right.set_xlabel("|O - O'| in the worst cell")
    for name, shade, marker in zip(tails, shades, MARKERS):
        right.plot([], [], marker=marker, color=shade, linestyle="none", markersize=4, label=name)
    legend_below(fig, *right.get_legend_handles_labels())
    return fig


def draw_pareto(figure):
    curve = figure["curve"]
    timed = all(p["ms"] is not None for p in curve)
    fig, axes = plt.subplots(1, 1 + timed, figsize=(3.45 * (1 + timed), 2.9), sharey=True, squeeze=False)
    for ax, key in zip(axes.flat, ["share", "ms"]):
        x = numbers([p[key] for p in curve])
        ax.plot(x, numbers([p["error"] for p in curve]), color="black", linewidth=1.4, label="mean over cells")
        ax.plot(x, numbers([p["worst"] for p in curve]), color="0.5", linewidth=1.2, linestyle="--", label="worst cell")
        chosen = figure["map"]
        if chosen is not None and chosen[key] is not None:
            for value in ("error", "worst"):
                ax.plot(chosen[key], numbers(chosen[value]), "X", color=plt.get_cmap(MAP)(0.85), markeredgecolor="black", markersize=8,
                        label="map" if value == "error" else None)
        ax.set_yscale("log")
        if key == "share":
            ax.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
            ax.set_xlabel(f"cells in {figure['fallback']}")
        else:
            ax.set_xlabel("milliseconds for one call of every cell")
    plain_log(axes[0, 0].yaxis, *axes[0, 0].get_ylim())
    axes[0, 0].set_ylabel(figure["metric"]["label"])
    handles, labels = axes[0, 0].get_legend_handles_labels()
    legend_below(fig, handles, labels)
    return fig


def draw_stages(figure):
    stages, bars = figure["stages"], figure["bars"]
    fig, ax = plt.subplots(figsize=(min(6.9, 2.4 + 0.42 * len(bars)), 3.1))
    shares = numbers([bar["shares"] for bar in bars])
    # A gap sets the whole apart from the layers.
    x = np.array([0.0] + [1.6 + i for i in range(len(bars) - 1)])
    colours = plt.get_cmap(MAP)(np.linspace(0.05, 0.95, len(stages)))
    bottom = np.zeros(len(bars))
    for i, stage in enumerate(stages):
        ax.bar(x, shares[:, i], bottom=bottom, width=0.78, color=colours[i], edgecolor="white", linewidth=0.4,
               hatch=HATCHES[i % len(HATCHES)], label=stage)
        bottom += shares[:, i]
    ax.axhline(1, color="black", linestyle="--", linewidth=1)
    step = math.ceil(len(bars) / 24)
    shown = [0] + list(range(1, len(bars), step))
    ax.set_xticks(x[shown], [bars[i]["name"].replace("all cells", "all").replace("layer ", "L") for i in shown])
    ax.set_ylim(0, max(1.1, 1.08 * bottom.max()))
    ax.yaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))
    ax.set_ylabel("share of the squared error")
    ax.grid(axis="x", visible=False)
    legend_below(fig, *ax.get_legend_handles_labels())
    return fig


def draw_speed(figure):
    panels = figure["panels"]
    columns = min(2, len(panels))
    rows = math.ceil(len(panels) / columns)
    labels = sorted({s["label"] for p in panels for s in p["series"]})
    style = dict(zip(labels, styles(len(labels))))
    fig, axes = plt.subplots(rows, columns, figsize=(3.45 * columns, 2.6 * rows + 0.5), sharey=True, squeeze=False)
    for ax in axes.flat[len(panels):]:
        ax.set_visible(False)
    handles = {}
    for i, (ax, panel) in enumerate(zip(axes.flat, panels)):
        for series in panel["series"]:
            (handles[series["label"]],) = ax.plot(series["x"], series["y"], markersize=4, linewidth=1.1, **style[series["label"]])
        ticks = sorted({x for s in panel["series"] for x in s["x"]})
        ax.set_xscale("log", base=2)
        ax.set_xticks(ticks, [f"{t // 1024}K" if t % 1024 == 0 else str(t) for t in ticks])
        ax.xaxis.set_minor_formatter(NullFormatter())
        ax.yaxis.set_major_locator(MaxNLocator(6))
        ax.set_title(panel["title"])
        ax.set_xlabel("keys (sequence length)")
        if i % columns == 0:
            ax.set_ylabel("TOPS ($10^{12}$ operations/s)")
    axes[0, 0].set_ylim(0, 1.05 * max(y for p in panels for s in p["series"] for y in s["y"]))
    legend_below(fig, [handles[k] for k in sorted(handles)], sorted(handles))
    return fig


DRAW = {
    "heatmaps": draw_heatmaps,
    "difference": draw_difference,
    "profile": draw_profile,
    "distribution": draw_distribution,
    "pareto": draw_pareto,
    "stages": draw_stages,
    "speed": draw_speed,
}

# Nothing that changes from one run to the next.
METADATA = {
    "svg": {"Date": None, "Creator": "sage2-eval"},
    "pdf": {"CreationDate": None, "Producer": "sage2-eval", "Creator": "sage2-eval"},
    "png": {"Software": "sage2-eval"},
}


def save(figure, folder, endings):
    fig = DRAW[figure["kind"]](figure)
    for ending in endings:
        fig.savefig(folder / f"{figure['name']}.{ending}", metadata=METADATA[ending], dpi=160)
    plt.close(fig)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", type=pathlib.Path, help="plots.json of a report")
    parser.add_argument("out", type=pathlib.Path, help="folder for the plots")
    parser.add_argument("--format", default="svg", help="svg, pdf, png, separated by commas (default svg)")
    parser.add_argument("--only", help="draw one figure of this name")
    args = parser.parse_args()
    endings = args.format.split(",")
    unknown = [e for e in endings if e not in METADATA]
    if unknown:
        parser.error(f"--format: expected svg, pdf or png, found {unknown[0]!r}")
    data = json.loads(args.numbers.read_text())
    if data.get("schema") != SCHEMA:
        sys.exit(f"plot_report.py: {args.numbers}: expected schema {SCHEMA!r}, found {data.get('schema')!r}")
    args.out.mkdir(parents=True, exist_ok=True)
    figures = [f for f in data["figures"] if args.only in (None, f["name"])]
    with concurrent.futures.ProcessPoolExecutor() as pool:
        for _ in pool.map(save, figures, [args.out] * len(figures), [endings] * len(figures)):
            pass


if __name__ == "__main__":
    main()
