"""The table as a picture: for each line and server the ratio to the line's baseline, with its spread and its aim."""

from bench.lines import Better, spread_of

INSTALL = "matplotlib is not installed, so no plot is written: pip install 'weed-volume-py[bench]'"
NO_RATIO = "no line has a baseline, so no plot is written"
ROW_INCHES, HEAD_INCHES, WIDTH_INCHES = 0.34, 1.1, 9.0
COLOURS = {
    "native": "#1f5fa8",
    "native-workers": "#4aa3df",
    "proxy-go": "#c2601c",
    "proxy-go-workers": "#e8a15c",
    "rust": "#7a4fa3",
    "nginx": "#5b8c3a",
    "go": "#777777",
}


def rows_of(results):
    """(label, server, `Spread` of the ratios, aim or None) for whatever has a ratio, in the order of the table."""
    found = []
    for result in results:
        for server in result.measured():
            ratios = result.ratios(server)
            if ratios is not None and server != result.line.baseline:
                name = f"{result.line.name.replace('`', '')}, {server} / {result.line.baseline}"
                label = name + (" (less is better)" if result.line.better is Better.LESS else "")
                aim = result.line.aims.get(server)
                found.append((label, server, spread_of(ratios), aim.value if aim and aim.is_ratio else None))
    return found


def write_plot(results, path, title):
    """Writes the SVG. Returns "", or why there is none."""
    rows = rows_of(results)
    if not rows:
        return NO_RATIO
    try:
        import matplotlib  # noqa: PLC0415  an extra
        from matplotlib.figure import Figure  # noqa: PLC0415
    except ImportError:
        return INSTALL
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": "bench", "font.size": 9}):
        figure = Figure(figsize=(WIDTH_INCHES, HEAD_INCHES + ROW_INCHES * len(rows)), layout="constrained")
        _draw(figure.subplots(), rows, title)
        figure.savefig(path, format="svg", metadata={"Date": None})
    return ""


def _draw(axes, rows, title):
    axes.set_xscale("log")
    axes.axvline(1.0, color="#444444", linewidth=0.8)
    for at, (_, server, seen, aim) in enumerate(rows):
        colour = COLOURS.get(server, "black")
        axes.plot([seen.low, seen.high], [at, at], color=colour, linewidth=3, alpha=0.45, solid_capstyle="butt")
        axes.plot([seen.median], [at], "o", color=colour, markersize=5)
        axes.annotate(
            f"{seen.median:.2f}", (seen.median, at), xytext=(0, 5), textcoords="offset points", ha="center", fontsize=7
        )
        if aim is not None:
            axes.plot([aim], [at], "|", color="#b00020", markersize=14, markeredgewidth=1.6)
    axes.set_yticks(range(len(rows)), [label for label, *_ in rows])
    axes.set_ylim(len(rows) - 0.4, -0.7)
    axes.xaxis.set_major_formatter(lambda value, _: f"{value:g}")
    axes.xaxis.set_minor_formatter(lambda value, _: f"{value:g}" if f"{value:e}"[0] in "25" else "")
    axes.grid(axis="x", which="both", color="#dddddd", linewidth=0.5)
    axes.set_axisbelow(True)
    axes.set_xlabel("ratio within one round: median (dot), spread (bar), aim (red)")
    axes.set_title(title, fontsize=9)
