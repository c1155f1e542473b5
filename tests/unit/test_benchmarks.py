"""The harness's own logic: bounds, what is kept, the report, the plots' contents, backlogs, rounds; nothing timed."""

from __future__ import annotations

import dataclasses
import io
import json
import os
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from subprocess import CalledProcessError

import pytest
import redis

from benchmarks import environment, plots, report, session, summary
from benchmarks.backlogs import Backlogs
from benchmarks.bench import QUICK, Bench, MeasurementError, Producer, Workers
from benchmarks.peers.base import WARM_UP
from benchmarks.processes import Child
from benchmarks.record import Result
from benchmarks.redis_server import RedisServer as Address
from benchmarks.rows import ROWS
from benchmarks.rows.row import BARE, BEST_PEER, OURS, Bar, Row, Sample
from benchmarks.statistics import median_interval, ratio, ratio_bound
from benchmarks.turns import TURNS, InTurns, Open, rate
from tests.emulation.redis_server import RedisServer

_SETTINGS = {"versions": {"redis": "8"}, "settings": "some", "on_kill": "come | back"}


def _result(row: str, errors: dict[str, str] | None = None, **values: list[float | None]) -> Result:
    samples = {
        name: [None if value is None else Sample(value, {"tasks": 10.0}) for value in column]
        for name, column in values.items()
    }
    peers = dict.fromkeys(values, _SETTINGS)
    return Result(row, "2026-01-01", {"cores": 2}, dataclasses.asdict(QUICK), peers, samples, errors or {}, 1.5)


@pytest.fixture
def server(redis_executable: str) -> Iterator[RedisServer]:
    """A server that is emptied as a whole."""
    with RedisServer(redis_executable) as running:
        yield running


@pytest.fixture
def bench(server: RedisServer) -> Iterator[Bench]:
    """A session on that server."""
    found = Bench(Address(server.url, server.pid or 0), QUICK)
    yield found
    found.redis.close()


class TestStatistics:
    def test_the_bound_is_on_the_unfavourable_side(self) -> None:
        """Rounds that scatter put the bound below the ratio where more is better, and above where less is."""
        ours, theirs = [8.0, 10.0, 12.0, 9.0, 11.0], [5.0, 4.0, 6.0, 5.5, 4.5]
        assert ratio_bound(ours, theirs, better="higher") < ratio(ours, theirs) == 2.0
        assert ratio_bound(ours, theirs, better="lower") > 2.0

    def test_rounds_stay_paired(self) -> None:
        """A machine that is slow for a whole round, for both, leaves no doubt about the ratio."""
        theirs = [1.0, 10.0, 3.0, 7.0, 5.0]
        assert ratio_bound([2 * value for value in theirs], theirs, better="higher") == 2.0

    def test_the_interval_of_a_median_holds_it(self) -> None:
        """It lies among the values, around the median; with one round it has no width."""
        values = [5.0, 1.0, 4.0, 2.0, 3.0]
        low, high = median_interval(values)
        assert min(values) <= low < median(values) < high <= max(values)
        assert median_interval([7.0]) == (7.0, 7.0)


class TestRecord:
    def test_what_is_kept_comes_back(self, tmp_path: Path) -> None:
        """Failed rounds and distributions included; a distribution takes one line."""
        samples = {OURS: [Sample(1.0, {"p95 ms": 2.0}, [0.5, 1e-05, 2.25]), None]}
        result = dataclasses.replace(_result("round-trip", {OURS: "it hung"}), samples=samples)
        result.save(tmp_path)
        assert Result.load(tmp_path / "round-trip.json") == result
        assert "[0.5, 1e-05, 2.25]" in (tmp_path / "round-trip.json").read_text()

    def test_ratios_are_of_rounds_that_both_finished(self) -> None:
        """A round that one of two failed is left out for both."""
        result = _result("drain", dispatcher=[1.0, None, 3.0], huey=[10.0, 20.0, None])
        assert result.rounds(OURS, "huey") == [[1.0], [10.0]]


class TestReport:
    def test_every_bar_has_a_line(self) -> None:
        """Rows without figures say so; none is silently missing."""
        lines = report.render([], ROWS.values()).splitlines()
        bars = [line for line in lines if line.startswith("| ") and "not measured" in line]
        assert len(bars) == sum(len(row.bars) for row in ROWS.values()) > 10

    def test_a_bar_is_passed_by_its_bound(self) -> None:
        """A ratio of medians above the bar, with a bound below it, does not pass."""
        sure = _result("drain", dispatcher=[50.0] * 9, huey=[10.0] * 9, celery=[1.0] * 5, bare=[60.0] * 9)
        assert "| 50 tasks/s | huey: 10 | 5.00 | 5.00 | yes |" in report.render([sure])
        unsure = _result("drain", dispatcher=[30.0] * 4 + [50.0] * 5, huey=[10.0] * 9)
        assert "| 50 tasks/s | huey: 10 | 5.00 | 3.00 | **no** |" in report.render([unsure])
        assert "bare: not measured" in report.render([unsure])

    def test_few_rounds_pass_no_bar(self) -> None:
        """What was timed fewer than nine times is not judged, whatever it says; what was counted, is."""
        few = _result("drain", dispatcher=[50.0] * 8, huey=[10.0] * 9)
        assert "| 5.00 | 5.00 | too few rounds |" in report.render([few])
        assert "| 83 bytes | – | – | – | yes |" in report.render([_result("body", dispatcher=[83.0])])

    def test_one_round_has_no_bound(self) -> None:
        """The column stays blank for whoever took part once."""
        text = report.render([_result("drain", dispatcher=[8.0, 8.0], huey=[4.0, 4.0], celery=[2.0])])
        assert "| huey | 4 | 4 | 4 | 2 | 2.00 | 2.00 | 10 |" in text
        assert "| celery | 2 | 2 | 2 | 1 | 4.00 |  | 10 |" in text

    def test_of_several_of_ours_the_worst_is_judged(self) -> None:
        """A process that grows fails the bar, though the one that the row is named after does not."""
        result = _result("flat-memory", dispatcher=[1.0], with_results=[1.02], producer=[1.3], worker=[1.01])
        assert "| producer: 1.3 × after a tenth | – | – | – | **no** |" in report.render([result])

    def test_the_best_peer_is_no_limit_and_not_ours(self) -> None:
        """The bare loop is no competitor, and less is better where the row says so."""
        row = ROWS["drain"]
        assert BARE in row.contenders
        result = _result("drain", dispatcher=[99.0], bare=[90.0], huey=[10.0], celery=[20.0])
        assert report.best_peer(result, row) == "celery"
        assert report.best_peer(result, dataclasses.replace(row, better="lower")) == "huey"

    def test_a_failed_contender_is_shown_as_failed(self) -> None:
        """With its reason where no round ended well, with the number of failures where some did."""
        errors = {"huey": "no task ran | at all"}
        text = report.render([_result("drain", errors, dispatcher=[5.0, 6.0], huey=[None, None], celery=[1.0, None])])
        assert "| huey | failed: no task ran \\| at all |" in text
        assert "| 1 (1 failed) |" in text

    def test_ours_failing_is_shown_in_the_bars(self) -> None:
        """The bar's line stays, and says so."""
        assert "| failed | – |" in report.render([_result("drain", dispatcher=[None], huey=[1.0])])

    def test_only_the_section_is_replaced(self, tmp_path: Path) -> None:
        """What stands around it stays; a page without the marks is refused."""
        page = tmp_path / "README.md"
        page.write_text(f"before\n{report.BEGIN}\nold\n{report.END}\nafter\n")
        report.replace_section(page, "new")
        assert page.read_text() == f"before\n{report.BEGIN}\n\nnew\n\n{report.END}\nafter\n"
        page.write_text("nothing")
        with pytest.raises(ValueError, match="lacks"):
            report.replace_section(page, "new")


class TestSummary:
    def test_every_figure_has_a_row(self) -> None:
        """Whatever the text names takes part in the row that it is taken from; without results there are dashes."""
        measured = [_result(name, **{each: [1.0] for each in row.contenders}) for name, row in ROWS.items()]
        assert "–" not in summary.render(measured)
        assert "| – ms | Celery –, Huey –, RQ – |" in summary.render([])

    def test_peers_stand_in_order_with_the_best_among_them(self) -> None:
        """A peer that became the best one is shown, though the text does not name it."""
        text = summary.render(
            [_result("drain", dispatcher=[50.0], huey=[10.0], celery=[20.0], arq=[30.0], bare=[60.0])]
        )
        assert "| 50 | arq 30, Celery 20, Huey 10, Dramatiq –, Taskiq –; a bare XREADGROUP loop 60 |" in text
        text = summary.render([_result("memory", dispatcher=[50.0], huey=[10.0], celery=[20.0], arq=[30.0])])
        assert "| 50 MiB | Huey 10, Celery 20, Dramatiq –, SAQ – |" in text


class TestPlots:
    def _kept(self) -> list[Result]:
        trip = [Sample(1.0, {}, [number / 100 for number in range(1, 100)])] * 3
        latency = dataclasses.replace(_result("round-trip"), samples={OURS: trip, "huey": trip})
        chords = {
            name: [Sample(units, {"members": members})]
            for name, units, members in ((OURS, 3.1, 10_000.0), ("of_100", 3.2, 100.0))
        }
        return [
            _result("drain", dispatcher=[50.0, 60.0, 55.0], huey=[10.0, 9.0, 11.0], celery=[None]),
            _result("backlog", dispatcher=[52.0], huey=[8.0]),
            _result("backlog-size", dispatcher=[48.0], of_10000=[51.0]),
            latency,
            dataclasses.replace(_result("chord-units"), samples=chords),
        ]

    def test_plots_hold_what_is_kept(self, tmp_path: Path) -> None:
        """Bars in order with their bounds, whole distributions, sizes in order; who failed has no bar."""
        scale = tmp_path / "scale.json"
        predicted = [
            {"workload": "lean", "setup": {"rate": rate, **more}, "dollars_per_million": dollars, "refused": refused}
            for rate, more, dollars, refused in (
                (10_000, {"concurrency": 1_000}, 2.0, 0),
                (10_000, {"concurrency": 10}, 3.0, 0),
                (10_000, {"concurrency": 1_000, "account": 200}, 4.0, 0),
                (1_000, {}, 1.0, 0),
                (100_000, {}, 0.1, 5),
            )
        ]
        scale.write_text(json.dumps({"predictions": predicted}))
        found = {figure.name: figure.panels for figure in plots.figures(self._kept(), scale)}
        drain = found["throughput"][0]
        assert [series.name for series in drain.series] == [OURS, "huey"]
        assert drain.series[0].low[0] <= drain.series[0].x[0] == 55.0 <= drain.series[0].high[0]
        assert len(found["latency"][0].series[0].x) == 99
        backlog, units, dollars = found["scaling"]
        assert list(backlog.series[0].x) == [QUICK.backlog, QUICK.large_backlog, 10_000, QUICK.lasting]
        assert list(backlog.series[1].x) == [QUICK.backlog, QUICK.large_backlog]
        assert list(units.series[0].x) == [100.0, 10_000.0]
        assert list(dollars.series[0].x) == [1_000, 10_000]
        assert list(dollars.series[0].y) == [1.0, 2.0]

    def test_nothing_kept_is_nothing_drawn(self, tmp_path: Path) -> None:
        """A figure needs a panel that has something to show."""
        assert plots.figures([], tmp_path / "none.json") == []

    def test_the_same_figures_give_the_same_bytes(self, tmp_path: Path) -> None:
        """Two drawings do not differ, so that a report made anew changes nothing."""
        if not environment.python_of("plots").exists():
            pytest.skip("the plots' environment is made by `make bench`")
        shown = plots.figures(self._kept(), tmp_path / "none.json")
        for name in ("once", "again"):
            plots.draw(shown, tmp_path / name)
        files = sorted(path.name for path in (tmp_path / "once").iterdir())
        assert files == ["latency.svg", "scaling.svg", "throughput.svg"]
        for name in files:
            assert (tmp_path / "once" / name).read_bytes() == (tmp_path / "again" / name).read_bytes()


class TestBacklogs:
    def test_a_backlog_is_sent_once_and_put_back(self, server: RedisServer) -> None:
        """The second round finds what the first one was sent, whatever workers did to it in between."""
        client, sent = redis.Redis.from_url(server.url), []

        def send() -> None:
            sent.append(1)
            client.rpush("queue", *range(10))
            client.xadd("stream", {"body": "x"}, id="1-1")
            client.set("job", "y", ex=600)

        backlogs = Backlogs(client)
        for _ in range(3):
            backlogs.restore("ten", send)
            assert client.lrange("queue", 0, -1) == [b"%d" % number for number in range(10)]
            assert client.xrange("stream") == [(b"1-1", {b"body": b"x"})]
            assert client.ttl("job") > 0
            client.flushdb()
            client.set("left by a worker", 1)
        assert len(sent) == 1

    def test_an_emptied_server_is_sent_to_again(self, server: RedisServer) -> None:
        """After FLUSHALL there is no copy, so the backlog is made anew; others' copies stay apart."""
        client = redis.Redis.from_url(server.url)
        backlogs = Backlogs(client)
        for name in ("a", "b"):
            backlogs.restore(name, lambda name=name: client.set(name, 1))  # type: ignore[misc]
        client.flushall()
        backlogs.restore("a", lambda: client.set("a", 2))
        assert (client.keys(), client.get("a")) == ([b"a"], b"2")


class TestTurns:
    def test_producers_take_turns(self, bench: Bench) -> None:
        """All of them in each turn, in changing orders, after some sends that do not count; the median turn does."""
        orders, sends = io.StringIO(), QUICK.sends // TURNS
        times = [7.0, *[0.5] * (TURNS - 2), 3.0, 4.0]

        @contextmanager
        def opened(_bench: Bench, name: str) -> Iterator[Callable[[int], list[float]]]:
            answers = io.StringIO("".join(f"a line of {name}'s\nbenchmark-outcome: [{seconds}]\n" for seconds in times))
            yield Producer(_Named(orders, name), answers, io.StringIO()).take_turn

        rates = _in_turns(opened).samples(bench, [OURS, "huey"])
        assert dict(rates) == {OURS: Sample(sends / 0.5), "huey": Sample(sends / 0.5)}
        lines = orders.getvalue().splitlines()
        turns = [lines[start : start + 2] for start in range(0, len(lines), 2)]
        assert sorted(turns[0]) == [f"{OURS} {WARM_UP}", f"huey {WARM_UP}"]
        assert [sorted(turn) for turn in turns[1:]] == [[f"{OURS} {sends}", f"huey {sends}"]] * TURNS
        assert len({turn[0] for turn in turns[1:]}) == 2

    def test_a_producer_that_ends_costs_its_own_figure_only(self, bench: Bench) -> None:
        """The others go on; what it wrote last is the reason."""

        @contextmanager
        def opened(_bench: Bench, name: str) -> Iterator[Callable[[int], list[float]]]:
            if name == "absent":
                raise MeasurementError("no such library")
            answers = "benchmark-outcome: [0.5]\n" * (TURNS + 1 if name == OURS else 3)
            yield Producer(io.StringIO(), io.StringIO(answers), io.StringIO("Traceback\nOSError: no")).take_turn

        contenders = (OURS, "broken", "absent")
        row = Row("row", "A row", "tasks/s", "higher", "", contenders, (), _in_turns(opened), _describe)
        result = session._measure_row(bench, row, row.contenders, 1)
        assert result.values(OURS) == [QUICK.sends / TURNS / 0.5]
        assert result.errors == {"broken": "OSError: no", "absent": "no such library"}

    def test_workers_are_stopped_as_a_whole(self) -> None:
        """Masters and what they started stand still between turns, and go on with the next one."""
        child = Child(["sh", "-c", "yes > /dev/null & yes > /dev/null; true"], {"PATH": os.environ["PATH"]})
        try:
            workers = Workers([child])
            _wait_until(lambda: len(workers.pids()) == 3)
            workers.signal(signal.SIGSTOP)
            _wait_until(lambda: _states(workers) == ["T"] * 3)
            workers.signal(signal.SIGCONT)
            _wait_until(lambda: "T" not in _states(workers))
        finally:
            child.stop()


def _in_turns(opened: Open) -> InTurns:
    return InTurns(opened, lambda bench: bench.scale.sends, rate)


def _states(workers: Workers) -> list[str]:
    return [Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] for pid in workers.pids()]


def _wait_until(reached: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not reached():
        assert time.monotonic() < deadline
        time.sleep(0.001)


class _Named(io.StringIO):
    """Writes to another text, each line after a name."""

    def __init__(self, text: io.StringIO, name: str) -> None:
        super().__init__()
        self._text = text
        self._name = name

    def write(self, text: str) -> int:
        return self._text.write(f"{self._name} {text}" if text.strip() else text)


class TestSession:
    def test_a_failing_contender_costs_its_own_figure_only(self, bench: Bench) -> None:
        """It is tried twice, the others in every round, and its reason is kept."""
        tried: list[str] = []

        def measure(_bench: Bench, contender: str) -> Sample:
            tried.append(contender)
            if contender == "broken":
                raise MeasurementError("output\nRuntimeError: no")
            return Sample(1.0)

        row = Row("row", "A row", "s", "lower", "", (OURS, "broken"), (Bar(1, BEST_PEER),), measure, _describe)
        result = session._measure_row(bench, row, row.contenders, 5)
        assert (tried.count(OURS), tried.count("broken")) == (5, 2)
        assert result.values(OURS) == [1.0] * 5
        assert result.errors == {"broken": "RuntimeError: no"}
        assert result.samples["broken"] == [None] * 2

    def test_peers_far_behind_have_three_rounds(self, bench: Bench) -> None:
        """The best peer, ours, and who is named by a bar have all five."""
        seconds = {OURS: 1.0, BARE: 9.0, "best": 2.0, "near": 3.0, "far": 4.0}
        bars = (Bar(1, BEST_PEER), Bar(1, BARE))
        row = Row(
            "row", "A row", "s", "lower", "", tuple(seconds), bars, lambda _, name: Sample(seconds[name]), _describe
        )
        result = session._measure_row(bench, row, row.contenders, 5)
        assert {name: len(result.samples[name]) for name in seconds} == {
            OURS: 5, BARE: 5, "best": 5, "near": 5, "far": 3,
        }  # fmt: skip
        assert result.rounds(OURS, "far") == [[1.0] * 3, [4.0] * 3]

    def test_more_rounds_are_for_who_may_decide_a_bar(self, bench: Bench) -> None:
        """After five, a peer a tenth behind the best one drops out; how ours compares to the bar changes nothing."""
        seconds = {OURS: 1.0, f"{OURS}_other": 9.0, "best": 2.0, "near": 2.1, "behind": 2.3}
        for factor in (0.1, 10.0):
            row = Row(
                "row", "A row", "s", "lower", "", tuple(seconds), (Bar(factor, BEST_PEER),),
                lambda _, name: Sample(seconds[name]), _describe,
            )  # fmt: skip
            result = session._measure_row(bench, row, row.contenders, row.rounds(full=True))
            assert {name: len(result.samples[name]) for name in seconds} == {
                OURS: 9, f"{OURS}_other": 9, "best": 9, "near": 9, "behind": 5,
            }  # fmt: skip
            assert report.best_peer(result, row) == "best"

    def test_late_rows_with_bars_end_after_nine_rounds(self, bench: Bench) -> None:
        """A budget ends the rounds beyond those that a bar asks for, and those of rows without a bar."""
        for bars, expected in (((Bar(1, "peer"),), 9), ((), 1)):
            row = Row(
                "row", "A row", "s", "lower", "", (OURS, "peer"), bars, lambda _, name: Sample(1.0), _describe,
                budget=0.0,
            )  # fmt: skip
            result = session._measure_row(bench, row, row.contenders, 12)
            assert len(result.samples[OURS]) == expected

    def test_rows_with_bars_have_nine_rounds(self) -> None:
        """Every timed row with a bar has the same number of rounds in a full run; what is only counted, one."""
        for row in ROWS.values():
            assert row.rounds(full=True) == (1 if row.exact else 9 if row.bars else 3)
            assert row.rounds(full=False) == 1


def _describe(_bench: Bench, _contender: str) -> dict[str, object]:
    return dict(_SETTINGS)


def test_environment_that_was_moved_is_made_anew(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The programs in it begin with the path of its interpreter, so that none would start."""

    def install(*command: object, **options: object) -> None:
        raise CalledProcessError(1, "pip")

    monkeypatch.setattr(environment, "HOME", tmp_path / "first")
    monkeypatch.setattr(environment.subprocess, "run", install)
    (tmp_path / "first" / "plots").mkdir(parents=True)
    (tmp_path / "first" / "plots" / ".requirements").write_text(environment.fingerprint("plots"))
    assert environment.ensure.__wrapped__("plots") == tmp_path / "first" / "plots" / "bin" / "python"
    (tmp_path / "first").rename(tmp_path / "second")
    monkeypatch.setattr(environment, "HOME", tmp_path / "second")
    with pytest.raises(environment.EnvironmentFailed):
        environment.ensure.__wrapped__("plots")
