"""Files a second by files, of all sides, as an SVG of two panels. Both axes are logarithmic."""

import html
import math

WIDTH, HEIGHT = 860, 350
PANEL, TOP, BOTTOM, LEFT, GAP = 340, 50, 280, 62, 70
COLOURS = {"ours, one process": "#0b6e4f", "ours, processes": "#2f6fb0", "BullMQ": "#c2571a",
           "BullMQ, one job a file": "#8a6d3b"}


# Room left and right of the points, in decades.
MARGIN = 0.15
# Figures of points that are closer stand above and below.
CLOSE = 20


def _decades(values: list[float]) -> tuple[int, int]:
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _text(x: float, y: float, words: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{html.escape(words)}</text>'


def _panel(left: float, title: str, sizes: dict) -> list[str]:
    """`sizes` is files, side to summary."""
    rates = [told["files_per_second"] for sides in sizes.values() for told in sides.values()]
    (x_low, x_high), (y_low, y_high) = _decades(list(sizes)), _decades(rates)

    def x(files: float) -> float:
        return left + (math.log10(files) - x_low + MARGIN) / (x_high - x_low + 2 * MARGIN) * PANEL

    def y(rate: float) -> float:
        return BOTTOM - (math.log10(rate) - y_low) / (y_high - y_low) * (BOTTOM - TOP)

    drawn = [_text(left + PANEL / 2, TOP - 20, title, more=' font-weight="bold"')]
    for power in range(y_low, y_high + 1):
        drawn.append(f'<line x1="{left}" x2="{left + PANEL}" y1="{y(10**power):.1f}" y2="{y(10**power):.1f}" stroke="#ddd"/>')
        drawn.append(_text(left - 8, y(10**power) + 4, f"{10**power:,}", "end"))
    for power in range(x_low, x_high + 1):
        drawn.append(f'<line x1="{x(10**power):.1f}" x2="{x(10**power):.1f}" y1="{TOP}" y2="{BOTTOM}" stroke="#ddd"/>')
        drawn.append(_text(x(10**power), BOTTOM + 18, f"{10**power:,}"))
    drawn.append(_text(left + PANEL / 2, BOTTOM + 38, "files"))
    for side, colour in COLOURS.items():
        points = [(files, sides[side]) for files, sides in sorted(sizes.items()) if side in sides]
        if len(points) > 1:
            way = " ".join(f"{x(files):.1f},{y(told['files_per_second']):.1f}" for files, told in points)
            drawn.append(f'<polyline points="{way}" fill="none" stroke="{colour}" stroke-width="2"/>')
        for files, told in points:
            slow, fast = (pick(run["files_per_second"] for run in told["runs"]) for pick in (min, max))
            at = x(files)
            drawn.append(f'<line x1="{at:.1f}" x2="{at:.1f}" y1="{y(slow):.1f}" y2="{y(fast):.1f}" stroke="{colour}" stroke-width="5" opacity="0.35"/>')
            drawn.append(f'<circle cx="{at:.1f}" cy="{y(told["files_per_second"]):.1f}" r="4" fill="{colour}"/>')
            rate = told["files_per_second"]
            above = [y(rate) - y(other["files_per_second"]) for other in sizes[files].values() if other["files_per_second"] > rate]
            offset = 18 if above and min(above) < CLOSE else -10
            drawn.append(_text(at, y(rate) + offset, f"{rate:,.0f}", more=f' fill="{colour}"'))
    return drawn


def plot(works: dict, conditions: str) -> str:
    """`works` is work, files, side to summary."""
    drawn = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-family="sans-serif" font-size="12" role="img">',
             f"<title>Files a second, by files: {html.escape(conditions)}</title>",
             f'<rect width="{WIDTH}" height="{HEIGHT}" fill="white"/>']
    for number, (work, sizes) in enumerate(works.items()):
        drawn += _panel(LEFT + number * (PANEL + GAP), f"{work}, files/s", sizes)
    shown = {side for sizes in works.values() for sides in sizes.values() for side in sides}
    at = LEFT
    for side, colour in COLOURS.items():
        if side in shown:
            drawn.append(f'<circle cx="{at}" cy="14" r="5" fill="{colour}"/>')
            drawn.append(_text(at + 10, 18, side, "start"))
            at += 40 + 7 * len(side)
    drawn += [_text(WIDTH - 20, HEIGHT - 10, conditions, "end", ' fill="#666"'), "</svg>"]
    return "\n".join(drawn) + "\n"
