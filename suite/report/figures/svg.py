"""From a matplotlib figure to inline SVG that follows the page's colours, font and width."""

from __future__ import annotations

import io
import re
from html import escape
from typing import Any

SERIES = [f"#f0000{i}" for i in range(1, 9)]
"""Stand-ins that become the page's `--s1` to `--s8`."""
INK, RULE, MUTED = "#f00010", "#f00011", "#f00012"
_VARIABLES = {c: f"var(--s{i})" for i, c in enumerate(SERIES, 1)} | {
    INK: "currentColor", RULE: "var(--rule)", MUTED: "var(--muted)"}


def figure(width: float, height: float, columns: int = 1, **options: Any) -> tuple[Any, list[Any]]:
    """A figure (inches) and its axes, in the style of the report. Nothing global is touched."""
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), layout="constrained")
    axes = list(made.subplots(1, columns, squeeze=False, **options)[0])
    for ax in axes:
        ax.set_facecolor("none")
        ax.tick_params(colors=INK, labelcolor=INK, length=0, labelsize=7.5, pad=3)
        ax.grid(True, color=RULE, linewidth=0.7)
        ax.set_axisbelow(True)
        for spine in ax.spines.values():
            spine.set_visible(False)
    return made, axes


def inline(made: Any, key: str, label: str) -> str:
    """The figure as an `<svg>` element.

    Args:
        made: A matplotlib figure.
        key: Unique on the page; prefixes all ids inside.
        label: What the figure shows, for those who cannot see it.
    """
    import matplotlib as mpl

    buffer = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "medsec"}):
        made.savefig(buffer, format="svg", transparent=True,
                     metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    text = buffer.getvalue()
    view = re.search(r'viewBox="([^"]+)"', text).group(1)
    body = text[text.index(">", text.index("<svg")) + 1:text.rindex("</svg>")]
    body = re.sub(r"<metadata>.*?</metadata>|<!--.*?-->", "", body, flags=re.S)
    body = re.sub(r"<style[^>]*>.*?</style>", "", body, flags=re.S)  # would reach beyond this figure
    body = re.sub(r'\bid="', f'id="{key}-', body)
    body = re.sub(r'xlink:href="#', f'href="#{key}-', body)
    body = body.replace("url(#", f"url(#{key}-")
    body = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", body)
    body = re.sub(r"font-family: [^;\"]*;?", "", body)
    body = re.sub(r"(\d+\.\d\d)\d+", r"\1", body)
    body = re.sub(r"\n\s*", "\n", body)
    for stand_in, variable in _VARIABLES.items():
        body = body.replace(stand_in, variable)
    return f'<svg viewBox="{view}" role="img" aria-label="{escape(label)}" class="figure">{body}</svg>'
