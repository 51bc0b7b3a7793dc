"""The benchmark: which loops and figures are measured, in which order, and what is printed. `make bench` runs it.

The loops are measured in turn within each round (A B C, A B C, ...). Every server and every in-process run has a
process of its own. CPU time is the most important figure, because a busy machine disturbs it least. The exit code is 0
whatever the figures are, and 1 if a measurement failed.
"""

import argparse
import functools
import json
import os
import platform
import resource
import sys
from collections.abc import Callable, Sequence

import arrivals
import bars
import echo
import footprint
import inprocess
import latency
import loops
import processes
import published
import report
import tls
import transfers
from child import Broken, Child, Lacking

SCRIPT_SECONDS = 120


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--loops", default=",".join(loops.NAMES), help="which, in this order (%(default)s)")
    parser.add_argument("--rounds", type=int, help="how often each is measured (5; 2 with --quick)")
    parser.add_argument("--only", choices=SECTIONS, action="append", help="this section only; may be repeated")
    parser.add_argument("--quick", action="store_true", help="fewer and shorter measurements, in under a minute")
    parser.add_argument("--full", action="store_true", help="TCP and TLS: every kind, size and number of connections")
    parser.add_argument("--published", action="store_true", help="echoes and TLS: the rows of docs/performance.md only")
    parser.add_argument("--seconds", type=float, help="how long an echo is measured (0.8; 0.3 with --quick)")
    parser.add_argument("--pin", action="store_true", help="servers on CPU 0, the load generator on CPU 1")
    parser.add_argument("--json", metavar="FILE", help="write everything that was measured to this file")
    options = parser.parse_args()
    options.rounds = options.rounds or (2 if options.quick else 5)
    options.seconds = options.seconds or (0.3 if options.quick else 0.8)
    options.loops = options.loops.split(",")
    if unknown := set(options.loops) - set(loops.NAMES):
        parser.error(f"unknown loops: {', '.join(sorted(unknown))}")
    if options.rounds < 1 or options.seconds <= 0:
        parser.error("--rounds must be at least 1, and --seconds above 0")
    return options


def cpu_model() -> str:
    with open("/proc/cpuinfo") as lines:
        models = [line.split(":")[1].strip() for line in lines if line.startswith("model name")]
    return models[0] if models else platform.machine()


def header(options, versions: dict[str, str]) -> dict[str, str]:
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "loops": ", ".join(f"{name} ({version})" for name, version in versions.items()),
        "kernel": f"{platform.system()} {platform.release()}",
        "CPU": f"{cpu_model()}, {os.cpu_count()} CPUs, {'pinned' if options.pin else 'not pinned'}",
        "rounds": f"{options.rounds}, with {options.seconds:g} s for each echo{', quick' if options.quick else ''}",
    }


def take(samples: report.Samples, row: str, loop: str, measure, *args):
    """Take one sample, unless this row has failed on this loop before, or the loop cannot do what it measures."""
    if (row, loop) in samples.broken or (row, loop) in samples.lacking:
        return
    try:
        samples.rounds[row, loop].append(measure(*args))
    except Broken as error:
        samples.broken[row, loop] = str(error)
    except Lacking as error:
        samples.lacking[row, loop] = str(error)


def progress(text: str):
    if sys.stderr.isatty():
        print(f"\r\x1b[K{text}", end="", file=sys.stderr, flush=True)


def run_script(options, name: str, *args: str) -> dict:
    """Run one of the scripts in this folder in a process of its own; return what it prints."""
    with Child([sys.executable, str(echo.HERE / name), *args], cpu=0 if options.pin else None) as child:
        return child.read(SCRIPT_SECONDS)


def by_figure(everything: report.Samples, figures: list[str]) -> report.Samples:
    """The same samples with one row for each figure. So far, a sample holds all figures of a process."""
    samples = report.Samples()
    for (_, loop), rounds in everything.rounds.items():
        for results in rounds:
            for figure, result in results.items():
                if "lacking" in result:
                    samples.lacking[figure, loop] = result["lacking"]
                else:
                    samples.rounds[figure, loop].append(result)
    for (_, loop), why in everything.broken.items():
        samples.broken |= {(figure, loop): why for figure in figures}
    return samples


def chosen(options, section: str, default: Sequence, quick: Sequence, full: Sequence) -> Sequence:
    """Which of a section's figures are measured."""
    if options.published:
        rows = {row.row for row in published.ROWS if row.section == section}
        return [figure for figure in default if str(figure) in rows]
    return full if options.full else quick if options.quick else default


def run_echo(options, names: list[str], section: str) -> tuple[report.Samples, list[dict]]:
    loadgen = echo.find_loadgen()
    if loadgen is None:
        sys.exit(echo.LOADGEN_MISSING)
    configs = chosen(options, section, *echo.SECTIONS[section])
    columns = [echo.BARE, *names] if any(config.has_bare() for config in configs) else names
    samples = report.Samples()
    for number in range(options.rounds):
        for config in configs:
            for loop in columns if config.has_bare() else names:
                progress(f"round {number + 1} of {options.rounds}: {config} {loop}")
                take(samples, str(config), loop, config.measure, loop, options.seconds, loadgen, options.pin)
    progress("")
    title, rows = f"{section} echo: {{}}", [str(config) for config in configs]
    cpu = report.ratio_cell(samples, "cpu_us")
    rate = report.value_cell(samples, "requests_per_second", scale=1e-3)
    tail = report.value_cell(samples, "p99_us", "{:.0f}")
    report.print_table(title.format(f"CPU us a request ({loops.BASE} = 1)"), rows, columns, cpu)
    report.print_table(title.format("thousand requests a second"), rows, columns, rate)
    report.print_table(title.format("latency, p99 us"), rows, columns, tail)
    return samples, bars.judge(bars.ECHO_BARS[section], samples)


def run_tls(options, names: list[str]) -> tuple[report.Samples, list[dict]]:
    loadgen = echo.find_loadgen()
    if loadgen is None:
        sys.exit(echo.LOADGEN_MISSING)
    figures = chosen(options, "tls", tls.DEFAULT, tls.QUICK, tls.FULL)
    columns = tls.names(names)
    samples = report.Samples()
    for number in range(options.rounds):
        for figure in figures:
            for loop in columns if figure.has_bare() else columns[1:]:
                progress(f"round {number + 1} of {options.rounds}: {figure} {loop}")
                take(samples, str(figure), loop, figure.measure, loop, options.seconds, loadgen, options.pin)
    progress("")
    rows = [str(figure) for figure in figures if not isinstance(figure, tls.Idle)]
    cpu = report.ratio_cell(samples, "cpu_us")
    rate = report.value_cell(samples, "requests_per_second", scale=1e-3)
    report.print_table(f"TLS: CPU us a request or handshake ({loops.BASE} = 1)", rows, columns, cpu)
    report.print_table("TLS: thousand requests or handshakes a second", rows, columns, rate)
    idle = [str(figure) for figure in figures if isinstance(figure, tls.Idle)]
    report.print_table("TLS: KiB of memory", idle, columns, report.value_cell(samples, "kib"))
    return samples, bars.judge(bars.TLS_BARS, samples)


def run_arrivals(options, names: list[str], section: str) -> tuple[report.Samples, list[dict]]:
    loadgen = echo.find_loadgen()
    if loadgen is None:
        sys.exit(echo.LOADGEN_MISSING)
    default, quick, full = arrivals.SECTIONS[section]
    loads = full if options.full else quick if options.quick else default
    if section == "delays":
        names = [name for name in names if name not in loops.TRANSPORTS_ONLY]
    samples = report.Samples()
    rates = measure_rates(options, names, loads, samples, loadgen)
    for number in range(options.rounds):
        for load, rate in rates.items():
            seconds = arrivals.seconds(rate, 1 if options.quick else 3, options.quick)
            for loop in names:
                progress(f"round {number + 1} of {options.rounds}: {load} {loop}")
                setting = (loop, rate, number + 1, seconds, loadgen, options.pin)
                take(samples, str(load), loop, load.measure, *setting)
    progress("")
    print_arrivals(section, samples, rates, names)
    return samples, bars.judge(bars.ARRIVAL_BARS[section], samples)


def measure_rates(
    options, names: list[str], loads: list[arrivals.Load], samples: report.Samples, loadgen: str
) -> dict[arrivals.Load, float]:
    """The rate of each load, by what a request costs the loop that the others are compared with. A load whose cost
    could not be measured is left out, and `samples` says why."""
    base = loops.BASE if loops.BASE in names else names[0]
    capacities = report.Samples()
    for request in list(dict.fromkeys(load.request for load in loads)) * 3:
        progress(f"capacity: {request} {base}")
        take(capacities, str(request), base, request.capacity, base, loadgen, options.pin)
    samples.broken |= capacities.broken
    costs = {load: capacities.median(str(load.request), base, "cpu_us") for load in loads}
    rates = {load: arrivals.rate(load, cost) for load, cost in costs.items() if cost is not None}
    print(f"open loop, at a share of what {base} can serve:")
    print(*(f"  {load}: {rate:.0f} requests a second" for load, rate in rates.items()), "", sep="\n")
    return rates


def print_arrivals(section: str, samples: report.Samples, rates: dict[arrivals.Load, float], names: list[str]) -> None:
    rows = [str(load) for load in rates]
    figures = arrivals.RESPONSES | (arrivals.DELAYS if section == "delays" else {})
    for metric, title in figures.items():
        cell = report.ratio_cell(samples, metric, "{:.0f}")
        report.print_table(f"{title}, us ({loops.BASE} = 1)", rows, names, cell)
    busy = report.value_cell(samples, "busy", "{:.0f}", scale=100)
    report.print_table("% of the time that the server is busy", rows, names, busy)
    late = report.value_cell(samples, "late_p99_us")
    report.print_table("how late requests are sent, p99 us", rows, names, late)
    others = report.value_cell(samples, "others", "{:.0f}", scale=100)
    report.print_table("% of a CPU that other processes used", rows, names, others)
    if any((samples.median(row, loop, "others") or 0) >= arrivals.QUIET for row in rows for loop in names):
        print("Other processes used the CPUs: these response times say little about the loops.\n")


def run_figures(options, names: list[str], script: str, figures: list[str], bare: str | None = None) -> report.Samples:
    """All figures that a script in this folder prints. `bare`: another script, which measures them without a loop."""
    everything = report.Samples()
    scale = "0.3" if options.quick else "1"
    scripts: dict[str, tuple[str, ...]] = {echo.BARE: (bare,)} if bare else {}
    scripts |= {loop: (script, loop) for loop in names}
    for number in range(options.rounds):
        for loop, words in scripts.items():
            progress(f"round {number + 1} of {options.rounds}: {' '.join(words)}")
            take(everything, "all figures", loop, run_script, options, *words, scale)
    progress("")
    return by_figure(everything, figures)


def run_inprocess(options, names: list[str]) -> tuple[report.Samples, list[dict]]:
    names = [name for name in names if name not in loops.TRANSPORTS_ONLY]
    samples = run_figures(options, names, "inprocess.py", inprocess.NAMES)
    for metric, time in (("cpu_ns", "CPU"), ("wall_ns", "wall")):
        title = f"in process: {time} ns (rate, {loops.BASE} = 1)"
        cell = report.ratio_cell(samples, metric, "{:.0f}", rate=True)
        report.print_table(title, inprocess.NAMES, names, cell)
    return samples, bars.judge(bars.INPROCESS_BARS, samples)


def run_transfers(options, names: list[str]) -> tuple[report.Samples, list[dict]]:
    samples = run_figures(options, names, "transfers.py", transfers.NAMES)
    for metric, time in (("cpu_ns", "CPU"), ("wall_ns", "wall")):
        title = f"{time} us a MiB, turn, file or connection ({loops.BASE} = 1)"
        cell = report.ratio_cell(samples, metric, scale=1e-3)
        report.print_table(title, transfers.NAMES, names, cell)
    return samples, bars.judge(bars.TRANSFER_BARS, samples)


def run_processes(options, names: list[str]) -> tuple[report.Samples, list[dict]]:
    names = [name for name in names if name not in loops.TRANSPORTS_ONLY]
    samples = run_figures(options, names, "processes.py", processes.NAMES, bare="bare_pipes.py")
    spawns, pipes = list(processes.SPAWNS), list(processes.PIPES)
    for metric, time in (("cpu_us", "CPU"), ("wall_us", "wall"), ("p99_us", "p99 of wall")):
        cell = report.ratio_cell(samples, metric, "{:.0f}", rate=True)
        report.print_table(f"{time} us a child (rate, {loops.BASE} = 1)", spawns, names, cell)
    for metric, time in (("cpu_ns", "CPU"), ("wall_ns", "wall")):
        cell = report.ratio_cell(samples, metric, scale=1e-3)
        report.print_table(f"{time} us a MiB or round trip ({loops.BASE} = 1)", pipes, [echo.BARE, *names], cell)
    return samples, bars.judge(bars.PROCESS_BARS, samples)


def run_footprint(options, names: list[str]) -> tuple[report.Samples, list[dict]]:
    names = [name for name in names if name not in loops.TRANSPORTS_ONLY]
    samples = run_figures(options, names, "footprint.py", footprint.NAMES)
    cell = report.value_cell(samples, "value", "{:.1f}")
    report.print_table("before a loop does anything", footprint.NAMES, names, cell)
    return samples, bars.judge(bars.FOOTPRINT_BARS, samples)


def run_latency(options, names: list[str]) -> tuple[report.Samples, list[dict]]:
    names = [name for name in names if name not in loops.TRANSPORTS_ONLY]
    samples = report.Samples()
    extent = ["--idle", "1", "--samples", "100"] if options.quick else []
    for loop in names:
        progress(f"latency {loop}")
        take(samples, "latency", loop, run_script, options, "latency.py", loop, "--json", *extent)
    progress("")
    measured = {loop: samples.rounds["latency", loop][0] for loop in names if samples.rounds["latency", loop]}
    print(*latency.lines(measured), "", sep="\n")
    return samples, []


SECTIONS: dict[str, Callable[..., tuple[report.Samples, list[dict]]]] = {
    **{section: functools.partial(run_echo, section=section) for section in echo.SECTIONS},
    "tls": run_tls,
    **{section: functools.partial(run_arrivals, section=section) for section in arrivals.SECTIONS},
    "transfers": run_transfers,
    "inprocess": run_inprocess,
    "processes": run_processes,
    "footprint": run_footprint,
    "latency": run_latency,
}


def main() -> int:
    options = arguments()
    # For the rows with thousands of connections. Child processes inherit it.
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    versions = loops.installed(options.loops)
    head = header(options, versions)
    for key, text in head.items():
        print(f"{key + ':':<8} {text}")
    print(flush=True)
    sections, verdicts, broken, lacking = {}, [], [], []
    for section in options.only or SECTIONS:
        samples, judged = SECTIONS[section](options, list(versions))
        sections[section] = samples.as_json()
        verdicts += judged
        broken += [f"{row}, {loop}: {why}" for (row, loop), why in samples.broken.items()]
        lacking += [f"{row}, {loop}: {why}" for (row, loop), why in samples.lacking.items()]
        sys.stdout.flush()
        if options.json:
            # After each section, so that a run that is ended early has not measured in vain.
            everything = {"header": head, "sections": sections, "bars": verdicts, "broken": broken}
            with open(options.json, "w") as file:
                json.dump(everything, file, indent=1)
    if verdicts and "rloop" in versions:
        print(*bars.lines(verdicts), sep="\n")
    for line in lacking:
        print(f"not there (-): {line}")
    for line in broken:
        print(f"BROKEN: {line}")
    return 1 if broken else 0


if __name__ == "__main__":
    sys.exit(main())
