"""From single runs to a table."""

import statistics

MIB = 1 << 20


def _percentile(ordered: list[float], share: float) -> float:
    return ordered[min(len(ordered) - 1, round(share * (len(ordered) - 1)))]


def figures(run: dict) -> dict:
    """The figures of one run. How long each single file took is summed up in two of them."""
    files = run["files"]
    latencies = run["latencies"]
    kept = {name: value for name, value in run.items() if name != "latencies"}
    return kept | {
        "files_per_second": round(files / run["seconds"], 1),
        "cpu_micros_a_file": round(sum(run["cpu_seconds"].values()) / files * 1e6),
        "cpu_micros_a_file_by_process": {name: round(spent / files * 1e6) for name, spent in run["cpu_seconds"].items()},
        "peak_memory_mib": round(run["peak_memory_bytes"] / MIB),
        "p50_seconds": latencies and round(_percentile(latencies, 0.5), 3),
        "p99_seconds": latencies and round(_percentile(latencies, 0.99), 3),
        "database_bytes_a_file": run["database_bytes"] and round(run["database_bytes"] / files),
    }


def _median(runs: list[dict], name: str):
    values = [run[name] for run in runs]
    return None if None in values else statistics.median(values)


def summary(runs: list[dict], peer_runs: list[dict] | None) -> dict:
    """Medians of the runs of one side, and what they are to the peer's of the same turns."""
    names = ("files_per_second", "cpu_micros_a_file", "peak_memory_mib", "p50_seconds", "p99_seconds", "database_bytes_a_file")
    told = {name: _median(runs, name) for name in names}
    told["cpu_micros_a_file_by_process"] = {
        name: round(statistics.median(run["cpu_micros_a_file_by_process"][name] for run in runs))
        for name in runs[0]["cpu_micros_a_file_by_process"]
    }
    if peer_runs and peer_runs is not runs:
        for name in ("files_per_second", "cpu_micros_a_file"):
            ratios = sorted(ours[name] / theirs[name] for ours, theirs in zip(runs, peer_runs, strict=True))
            told[f"{name}_to_the_peer"] = {"median": round(statistics.median(ratios), 2), "of_each_turn": [round(one, 2) for one in ratios]}
    return told | {"runs": runs}


def _cell(value, form: str) -> str:
    return "–" if value is None else format(value, form)


def _seconds(value) -> str:
    return "–" if value is None else f"{value:.3f} s" if value < 1 else f"{value:.1f} s"


def table(works: dict) -> str:
    """All of it as Markdown: `works` is work, files, side to summary."""
    lines = []
    for work, sizes in works.items():
        lines += [f"{work}", "",
                  "| files | side | files/s, median (all runs) | to the peer | CPU a file | memory at its peak | confirmed to PROCESSED, p50, p99 | database, bytes a file |",
                  "|---|---|---|---|---|---|---|---|"]
        for files, sides in sizes.items():
            for side, told in sides.items():
                runs = ", ".join(f"{run['files_per_second']:,.0f}" for run in told["runs"])
                ratio = told.get("files_per_second_to_the_peer")
                lines.append(
                    f"| {files:,} | {side} | **{told['files_per_second']:,.0f}** ({runs}) | {'' if ratio is None else format(ratio['median'], '.1f')} "
                    f"| {told['cpu_micros_a_file']:,.0f} µs | {_cell(told['peak_memory_mib'], ',.0f')} MiB "
                    f"| {_seconds(told['p50_seconds'])}, {_seconds(told['p99_seconds'])} | {_cell(told['database_bytes_a_file'], ',.0f')} |")
        lines += ["", "CPU a file by process, in µs:"]
        largest = sizes[max(sizes)]
        for side, told in largest.items():
            parts = sorted(told["cpu_micros_a_file_by_process"].items(), key=lambda part: -part[1])
            lines.append(f"- {side}: " + ", ".join(f"{name} {micros:,}" for name, micros in parts))
        lines.append("")
    return "\n".join(lines)
