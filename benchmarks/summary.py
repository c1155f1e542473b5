"""The front page's section on speed, made from the kept results as the benchmarks' own page is."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from statistics import median
from typing import Final

from benchmarks.environment import ROOT
from benchmarks.record import RESULTS, Result, stored
from benchmarks.report import best_peer, number, replace_section
from benchmarks.rows import ROWS
from benchmarks.rows.row import OURS

FRONT_PAGE: Final = ROOT / "README.md"

#: ``{row}`` is our median, ``{row/contender}`` another's; ``{row: peers}`` names these and the best peer, best first.
_TEXT: Final = """\
Side by side with the peers, on {cores} cores, {date}; bounds, settings, profiles and the bars that are missed stand \
in [the benchmarks](benchmarks/README.md), and `make bench` repeats them.

| | this | beside |
| --- | ---: | --- |
| tasks drained a second on Redis, two processes | {drain} \
| {drain: dramatiq huey taskiq celery}; a bare XREADGROUP loop {drain/bare} |
| `.delay().get()` on Redis, median | {round-trip} ms | {round-trip: huey celery rq} |
| `.delay()` a second on Redis | {send} | {send: huey dramatiq celery} |
| chord of 1,000 on Redis | {chord} s | {chord: huey celery} |
| AWS calls a task in Lambda, sent in bulk | {aws-calls-lean} lean, {aws-calls} with results \
| Celery's worker on SQS {sqs/celery} |
| CPU of the Lambda handler per record | {handler-cpu} µs lean, {handler-results} with results \
| Powertools' BatchProcessor {handler-cpu/powertools}, with Idempotency {handler-results/powertools_idempotent} |
| start of the Lambda handler | {handler-init} ms | importing botocore and making its two clients \
{handler-init/botocore} |
| memory of a worker with two processes | {memory} MiB | {memory: saq huey dramatiq celery} |"""
_FIGURE: Final = re.compile(r"\{(?P<row>[\w-]+)(?:/(?P<contender>\w+))?(?:: (?P<peers>[\w ]+))?\}")
_NAMES: Final = {"celery_threads": "Celery's threads", "rq": "RQ", "saq": "SAQ", "arq": "arq"}


def render(results: Iterable[Result]) -> str:
    """Return the text and the table; a dash stands for what has no figure."""
    measured = {result.row: result for result in results}
    dates = sorted({result.date[:10] for result in measured.values()})
    cores = sorted({str(result.machine["cores"]) for result in measured.values()})
    text = _TEXT.replace("{date}", ", ".join(dates)).replace("{cores}", ", ".join(cores))
    return _FIGURE.sub(lambda found: _shown(found, measured), text)


def update_readme() -> None:
    """Replace the section on speed of the front page."""
    replace_section(FRONT_PAGE, render(stored(RESULTS)))


def _shown(found: re.Match[str], measured: Mapping[str, Result]) -> str:
    row = ROWS[found["row"]]
    values = {name: result.values(name) for name in row.contenders} if (result := measured.get(row.name)) else {}
    medians = {name: median(column) for name, column in values.items() if column}
    if not found["peers"]:
        contender = found["contender"] or OURS
        return number(medians[contender]) if contender in medians else "–"
    best = best_peer(result, row) if result else None
    peers = {*found["peers"].split(), *([best] if best else [])}
    order = sorted(peers & medians.keys(), key=medians.__getitem__, reverse=row.better == "higher")
    seen = [f"{_name(peer)} {number(medians[peer])}" for peer in order]
    return ", ".join([*seen, *(f"{_name(peer)} –" for peer in sorted(peers - medians.keys()))])


def _name(peer: str) -> str:
    return _NAMES.get(peer, peer.capitalize())
