"""What the model says, and how far from the emulator's counts it is, as Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

from benchmarks.scale.model import Prediction
from benchmarks.scale.workloads import WORKLOADS

_HEAD: Final = (
    "workload", "tasks a minute", "drained after", "oldest message", "environments", "throttled invocations",
    "throttled writes", "handed back", "refused calls", "busiest key, writes/s", "calls a task", "$ a million",
    "limited by",
)  # fmt: skip

Compared = Mapping[str, tuple[float, float, float]]


def predictions(found: Sequence[Prediction]) -> str:
    """Return a table a setting: what happens at each rate."""
    parts = []
    for title, members in _by_setting(found).items():
        lines = [
            f"| {' | '.join(_HEAD)} |",
            "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | --- | ---: | ---: | --- |",
        ]
        lines += [_line(each) for each in members]
        parts.append(f"#### {title}\n\n" + "\n".join(lines))
    return "\n\n".join(parts)


def _by_setting(found: Iterable[Prediction]) -> dict[str, list[Prediction]]:
    groups: dict[str, list[Prediction]] = {}
    for each in found:
        setup = each.setup
        title = (
            f"`maximum_concurrency` {setup.concurrency:,}, a table for {setup.warm_writes:,} writes a second, "
            f"{setup.account:,} concurrent invocations for the account"
        )
        groups.setdefault(title, []).append(each)
    return groups


def _line(each: Prediction) -> str:
    hot = f"`{each.hot_key.partition('#')[0]}#` {each.hot_writes:,}" if each.hot_key else "–"
    return (
        f"| {each.workload} | {each.setup.rate:,} | {_seconds(each.drained_after)} | {_seconds(each.oldest)} | "
        f"{each.most_concurrent:,} | {each.throttled_invocations:,} | {each.throttled_writes:,} | "
        f"{each.handed_back:,} | {each.refused:,} | {hot} | "
        f"{each.calls_a_task:.2f} | {each.dollars_per_million:.2f} | {each.limit} |"
    )


def _seconds(seconds: float) -> str:
    if seconds < 120:
        return f"{seconds:.1f} s"
    return f"{seconds / 60:.0f} min" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def workloads() -> str:
    """Return what each workload is."""
    return "\n".join(f"- **{each.name}**: {each.about}" for each in WORKLOADS.values())


def comparison(compared: Mapping[str, Compared]) -> str:
    """Return a table: each figure as it was predicted and as it was counted, with the error."""
    lines = ["| workload | figure | model | emulator | error |", "| --- | --- | ---: | ---: | ---: |"]
    for title, figures in compared.items():
        for name, (expected, found, error) in figures.items():
            if expected or found:
                shown = f"{error:+.1f} %" if found else "–"  # there is no percentage of nothing
                lines.append(f"| {title} | {name} | {expected:,.6g} | {found:,.6g} | {shown} |")
    return "\n".join(lines)
