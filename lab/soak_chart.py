"""Draws the figures of soak.py as an SVG: memory, files, tasks, connections, latencies and errors over time.

A panel is a list of lines; each line is a name and a function of a round's figures. Nothing is judged here.
"""

from html import escape

WIDTH, HEIGHT = 460, 170
LEFT, TOP, GAP = 62, 34, 40
COLOURS = ("#1f6fb2", "#d1495b", "#3c8d40", "#8a5a9e")

# The title of each panel, and its lines.
PANELS: tuple[tuple[str, dict], ...] = (
    (
        "memory at the pauses and under load, MiB",
        {"paused": lambda one: one["rss"] / 1024, "under load": lambda one: one["under load"]["rss"] / 1024},
    ),
    (
        "open files",
        {"paused": lambda one: len(one["files"]), "under load": lambda one: one["under load"]["files"]},
    ),
    (
        "at the pauses",
        {name: lambda one, name=name: one[name] for name in ("tasks", "transports", "protocols")},
    ),
    (
        "a second",
        {
            "connections": lambda one: sum(one["made"].values()) / one["took"],
            "answers": lambda one: one["answers"] / one["took"],
        },
    ),
    (
        "latency, ms",
        {name: lambda one, name=name: one["latency"][name] / 1000 for name in ("p50", "p90", "p99")},
    ),
    (
        "errors",
        {
            "unexpected": lambda one: sum(one["errors"].values()),
            "of storms and reloads": lambda one: sum(one["expected"].values()),
        },
    ),
)


def chart(rounds):
    """The text of the SVG, with time in minutes from left to right."""
    columns = 2
    lines = (len(PANELS) + columns - 1) // columns
    width, height = columns * (WIDTH + LEFT + GAP), lines * (HEIGHT + TOP + GAP)
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" '
        f'font-size="11"><rect width="{width}" height="{height}" fill="white"/>'
    ]
    minutes = [one["seconds"] / 60 for one in rounds]
    for number, (title, series) in enumerate(PANELS):
        left = LEFT + number % columns * (WIDTH + LEFT + GAP)
        top = TOP + number // columns * (HEIGHT + TOP + GAP)
        values = {name: [float(figure(one)) for one in rounds] for name, figure in series.items()}
        parts += [f'<g transform="translate({left} {top})">', *panel(title, minutes, values), "</g>"]
    return "\n".join([*parts, "</svg>\n"])


def panel(title, minutes, values):
    """One panel: frame, title, scale from zero, lines, and their names."""
    most = max(max(line) for line in values.values()) or 1
    last = minutes[-1] or 1
    yield f'<rect width="{WIDTH}" height="{HEIGHT}" fill="none" stroke="#bbb"/>'
    yield f'<text x="0" y="-18" font-weight="bold">{escape(title)}</text>'
    for part in (0, 0.5, 1):
        y = HEIGHT * (1 - part)
        yield f'<text x="-6" y="{y + 4:.0f}" text-anchor="end">{most * part:,.4g}</text>'
    yield f'<text x="{WIDTH}" y="{HEIGHT + 16}" text-anchor="end">{last:.1f} min</text>'
    for number, (name, line) in enumerate(values.items()):
        colour = COLOURS[number % len(COLOURS)]
        points = " ".join(
            f"{minute / last * WIDTH:.1f},{HEIGHT * (1 - value / most):.1f}"
            for minute, value in zip(minutes, line, strict=True)
        )
        yield f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        yield f'<text x="{number * 130}" y="-4" fill="{colour}">{escape(name)}</text>'
