"""The report: one well-formed file with every figure in it, nothing from outside, and all text escaped."""

from __future__ import annotations

import io
import re
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from math import nan

import pytest
from rich.console import Console

from lightning_compress.app.report import charts, search_table
from lightning_compress.app.report.contents import Layer, Point, Ranking, Report, Row, Search, Sensitivities, table
from lightning_compress.app.report.html import _sentences, write_report
from lightning_compress.app.report.plan_table import plan_table
from lightning_compress.core.plan import Plan
from lightning_compress.pipeline.figures import Figure

VOID = {"wbr", "meta", "br", "hr", "img", "link", "input"}
EVIL = "<script>alert('x')</script> & \"so on\""

ROWS = (
    Row(Figure("accuracy", "test accuracy", "%", higher_is_better=True), 0.9889, 0.9861),
    Row(Figure("bytes", "file on disk", "bytes"), 316_220, 38_991),
    Row(Figure("latency_ms", "latency", "ms", digits=3, measured=True), 0.8, 0.6),
)
POINTS = (
    Point(0, 30.0, 0.7),
    Point(1, nan, nan, EVIL),
    Point(2, 20.0, 0.6),
    Point(3, 35.0, 0.9),
    Point(4, 35.0, 0.5),
)
SEARCH = Search("quantize", "bytes", 36.0, POINTS)
REPORT = Report(
    "resnet8 on digits",
    ROWS,
    Plan({"conv1": {"weight_bits": 4, "channels": 0.5}, "fc": {"weight_bits": 8}}),
    {"seed": "0", "command": "python train.py +compress=drl_quant"},
    (SEARCH,),
    "seed: 0\n",
)


class Page(HTMLParser):
    """Checks that tags nest, and keeps tags, attributes and text."""

    def __init__(self) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[tuple[str, dict]] = []
        self.text: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)

    def named(self, tag, **attributes):
        return [a for t, a in self.tags if t == tag and all(a.get(k) == v for k, v in attributes.items())]


def accuracy(dense: float, compressed: float) -> Row:
    return Row(Figure("accuracy", "test accuracy", "%", higher_is_better=True), dense, compressed, 359)


@pytest.mark.parametrize(
    ("row", "noise"),
    [
        (accuracy(0.98, 0.985), True),
        (accuracy(0.98, 0.98), True),
        (accuracy(0.98, 0.90), False),
        (Row(Figure("bytes", "file", "bytes"), 1000, 999), False),
        (Row(Figure("latency_ms", "latency", "ms", 3, measured=True), 1.0, 1.1), True),
        (Row(Figure("latency_ms", "latency", "ms", 3, measured=True), 1.0, 0.5), False),
    ],
)
def test_what_may_be_chance_is_not_bold(write, row, noise):
    page = write(replace(REPORT, rows=[row])).page
    assert row.is_noise == noise
    assert len(page.named("td", **{"class": "change"})) == (not noise)


@pytest.mark.parametrize(
    ("best", "chance", "sentence"),
    [
        (0.95, None, "Its best reward is 0.0500 below that of random, the best baseline."),
        (0.85, None, "Its best reward is 0.0500 above that of random, the best baseline."),
        (0.90, None, "Its best reward is as high as that of random, the best baseline."),
        (0.89, 0.015, "baseline; with 360 validation samples, a difference of 0.0100 may be chance."),
        (0.85, 0.015, "baseline; with 360 validation samples, a difference of 0.0500 is not chance alone."),
    ],
)
def test_a_search_says_how_it_did_against_its_baselines(best, chance, sentence):
    others = {"uniform": (Point(0, 9.0, 0.1),), "random": (Point(0, 9.0, best),), "failed": (Point(0, nan, nan),)}
    (told,) = replace(SEARCH, baselines=others, chance=chance, samples=360).against_baselines
    assert told.endswith(sentence)


@dataclass
class Written:
    """A report as source and as a parsed page."""

    source: str
    page: Page


@pytest.fixture
def write(tmp_path):
    def written(report: Report) -> Written:
        write_report(tmp_path / "report.html", report)
        source = (tmp_path / "report.html").read_text(encoding="utf-8")
        page = Page()
        page.feed(source)
        page.close()
        assert page.open == []
        return Written(source, page)

    return written


def classed(page: Page, name: str) -> list[dict]:
    return page.named("circle", **{"class": name})


def test_every_row_fact_layer_and_failure_is_on_the_page(write):
    page = write(REPORT).page
    for row in ROWS:
        for cell in row.cells():
            assert cell in page.text
    for text in ("resnet8 on digits", "seed", "python train.py +compress=drl_quant", "conv1", "fc", "50 %"):
        assert text in page.text
    assert f"trial 1: {EVIL}" in page.text


def test_text_is_escaped_wherever_it_comes_from(write):
    report = Report(
        EVIL,
        [Row(Figure("evil", EVIL, EVIL), 2, 1)],
        Plan({EVIL: {EVIL: 1}}),
        {EVIL: EVIL},
        [Search(EVIL, EVIL, 36.0, POINTS, {EVIL: POINTS}, meaning=EVIL)],
        EVIL,
        verdict=EVIL,
        layers=[EVIL],
    )
    page = write(report).page
    assert page.named("script") == []
    assert EVIL in "".join(page.text)


def test_nothing_comes_from_outside(write):
    written = write(REPORT)
    assert not re.search(r"https?:|//[a-z]|url\(|@import", written.source)
    for tag, attributes in written.page.tags:
        assert tag not in {"script", "link", "img", "iframe", "object"}
        assert not {"src", "href", "srcset", "onload"} & attributes.keys()


def test_the_search_shows_each_trial_the_front_and_the_chosen_one(write):
    page = write(REPORT).page
    keys = 2  # of the two charts' legends, which show a trial each
    assert len(classed(page, "trial")) == 2 * len(SEARCH.scored) + keys
    assert len(classed(page, "failed")) == 1 + 1
    assert len(classed(page, "front")) == 3 + 1
    assert len(classed(page, "chosen")) == 1 + 1
    assert "5 trials, 1 failed; trial 3 is the best, with a reward of 0.9000." in page.text
    assert any("quantize/front/TRIAL.yaml" in text for text in page.text)


def test_marks_lie_inside_the_chart(write):
    for circle in write(REPORT).page.named("circle"):
        assert 0 <= float(circle["cx"]) <= charts.WIDTH
        assert 0 <= float(circle["cy"]) <= charts.HEIGHT


@pytest.mark.parametrize("points", [POINTS[:1], POINTS[1:2], (), (Point(0, 0.0, 0.0), Point(1, 0.0, 0.0))])
def test_short_failed_and_constant_searches_make_a_page_too(write, points):
    assert "Search: quantize" in write(replace(REPORT, searches=[replace(SEARCH, points=points)])).page.text


def test_empty_parts_are_left_out(write):
    page = write(Report("t", ROWS, Plan({}))).page
    assert page.named("svg") == []
    assert [t for t, _ in page.tags if t == "h2"] == []


def test_the_page_follows_the_scheme_and_the_width_of_the_screen(write):
    source = write(REPORT).source
    assert "prefers-color-scheme: dark" in source
    assert '<meta name="viewport"' in source


def test_the_terminal_table_has_the_same_cells():
    out = io.StringIO()
    Console(file=out, width=120).print(table(ROWS))
    for row in ROWS:
        assert all(cell in out.getvalue() for cell in row.cells())


@pytest.mark.parametrize(
    ("row", "change"),
    [
        (Row(Figure("a", "a"), 8, 2), "4.00x less"),
        (Row(Figure("a", "a"), 2, 8), "4.00x more"),
        (Row(Figure("a", "a"), 5, 5), "same"),
        (Row(Figure("a", "a"), 5, 0), "-"),
        (Row(Figure("a", "a", "%"), 0.5, 0.75), "+25.00 points"),
    ],
)
def test_changes_are_ratios_and_of_shares_differences(row, change):
    assert row.cells()[-1] == change


def test_each_baseline_has_its_own_look_and_stands_in_the_key(write):
    others = {f"other{i}": (Point(0, 9.0, 0.1 * i),) for i in range(charts.LOOKS)}
    others["fails"] = (Point(0, nan, nan, "why"),)
    page = write(replace(REPORT, searches=[replace(SEARCH, baselines=others)])).page
    lines = [a["class"] for a in page.named("path") if "baseline" in a.get("class", "")]
    keys = [a["class"] for a in page.named("path") if a.get("class", "").startswith("look")]
    assert [line.split()[1] for line in lines] == keys
    assert len(set(keys)) == charts.LOOKS
    assert {f"{name}, best so far" for name in others if name != "fails"} <= set(page.text)
    assert "fails, best so far" not in page.text


def test_every_baseline_has_a_column_beside_the_search(write):
    points = tuple(Point(i, 10.0 + i, 0.1 * i) for i in range(8))
    others = {"random": tuple(replace(p, reward=0.2) for p in points), "uniform": (Point(0, nan, nan, "nan"),)}
    search = replace(SEARCH, points=points, baselines=others)
    assert search_table.rows(search) == [
        ("best reward, first 2", "0.1000", "0.2000", "all failed"),
        ("best reward, first 4", "0.3000", "0.2000", "all failed"),
        ("best reward, all 8", "0.7000", "0.2000", "all failed"),
        ("best plan: bytes", "17", "10", "-"),
        ("best plan: trial", "7", "0", "-"),
        ("trials", "8", "8", "1"),
        ("failed", "0", "0", "1"),
    ]
    page = write(replace(REPORT, searches=[search])).page
    assert {"random", "uniform"} <= {a.get("data-name") for a in page.named("td")}
    for cell in ("all failed", "0.3000", "best plan: bytes"):
        assert cell in page.text


def test_a_terminal_has_a_line_for_each_search():
    others = {"random": (Point(0, 9.0, 0.25),)}
    searches = [replace(SEARCH, name="prune", baselines=others), replace(SEARCH, points=POINTS[1:2])]
    out = io.StringIO()
    Console(file=out, width=120).print(search_table.lines(searches))
    cells = [re.split(r"\s*│\s*", line.strip("│ \n")) for line in out.getvalue().splitlines() if "│" in line]
    assert cells == [["prune", "0.9000", "0.2500", "5", "1"], ["quantize", "all failed", "", "1", "1"]]


def test_names_in_a_terminal_may_look_like_markup():
    search = replace(SEARCH, name="q[red]", baselines={"y[/b]": (Point(0, 9.0, 0.25),)})
    out = io.StringIO()
    Console(file=out, width=120).print(search_table.lines([search]))
    assert "q[red]" in out.getvalue()
    assert "y[/b]" in out.getvalue()


def test_reasons_of_failures_are_text_too(write):
    points = (Point(0, 1.0, 0.5), *(Point(i, nan, nan, f"reason {i % 5}") for i in range(1, 12)))
    text = " ".join(write(replace(REPORT, searches=[replace(SEARCH, points=points)])).page.text)
    assert "Why trials failed: reason 1 (3x); reason 2 (2x); reason 3 (2x); 2 more reasons." in text
    assert "Why trials failed" not in " ".join(
        write(replace(REPORT, searches=[replace(SEARCH, points=points[:1])])).page.text
    )


def test_a_long_search_makes_a_small_page_with_all_that_matters(write):
    count = 20_000
    rewards = [((i * 7919) % 10007) / 10007 + i / count for i in range(count)]
    points = [Point(i, 1000.0 + (i * 104729) % 1009, reward) for i, reward in enumerate(rewards)]
    points[::4] = [Point(point.number, nan, nan, "the loss is nan") for point in points[::4]]
    search = replace(SEARCH, limit=2010.0, points=tuple(points))
    written = write(replace(REPORT, searches=[search]))
    assert len(written.source) < 1_000_000
    drawn = charts.curve(search)
    for point in charts._best_so_far(search.points):
        assert f"trial {point.number}: {point.reward:.4f}</title>" in drawn or point.number == count - 1
    assert len(classed(written.page, "front")) == len(search.front) + 1
    assert len(classed(written.page, "failed")) == charts.FAILURES + 1
    assert "at most 2,000 evenly by number" in " ".join(written.page.text)
    assert "at most 2,000" not in " ".join(write(REPORT).page.text)


def test_layers_stand_in_the_order_of_the_network_without_what_all_names_begin_with():
    names = ["net.stage10.conv", "net.stage2.conv", "net.stage2.bn"]
    plan = Plan({name: {"weight_bits": i} for i, name in enumerate(names, 1)} | {"net.fc": {"channels": 0.125}})
    found = plan_table(plan, ["net.stage2.conv", "net.stage2.bn", "net.stage10.conv", "net.fc"])
    assert found.sentences == ("All layers are in net.",)
    assert found.knobs == ("bits per weight", "channels kept")
    assert [row.layer for row in found.rows] == ["stage2.conv", "stage2.bn", "stage10.conv", "fc"]
    texts = [[cell and cell.text for cell in row.cells] for row in found.rows]
    assert texts == [["2", None], ["3", None], ["1", None], [None, "12.5 %"]]


@pytest.mark.parametrize(
    ("planned", "order"),
    [
        ({"b", "a"}, ["b", "a"]),
        ({"block", "a"}, ["a", "block"]),  # a block of layers
        ({"b.0", "a.1"}, ["b.0", "a.1"]),  # made of layers
        ({"x", "a"}, ["a", "x"]),  # unknown
    ],
)
def test_the_place_of_a_name_is_that_of_the_first_layer_it_stands_for(planned, order):
    plan = Plan({name: {"density": 0.1 * i} for i, name in enumerate(sorted(planned), 1)})
    assert [row.layer for row in plan_table(plan, ["b", "a", "block.conv"]).rows] == order


def test_a_knob_that_is_the_same_everywhere_is_said_once(write):
    plan = Plan({f"l{i}": {"act_bits": 8, "weight_bits": i, "density": 0.5} for i in (2, 4)} | {"l8": {"act_bits": 8}})
    found = plan_table(plan)
    assert found.sentences == (
        "Weights kept: 50 % in the 2 of 3 layers that have it.",
        "Bits per activation: 8 in all 3 layers.",
    )
    assert found.knobs == ("bits per weight",)
    page = write(replace(REPORT, plan=Plan({f"l{i}": {"act_bits": 8} for i in range(3)}))).page
    assert "Bits per activation: 8 in all 3 layers." in page.text
    assert page.named("table", **{"class": "plan"}) == []
    assert plan_table(Plan({"fc": {"act_bits": 8}})).knobs == ("bits per activation",)


def test_bars_of_sensitivities_are_as_long_as_what_was_lost(write):
    layers = (
        Layer("fc", "channels", ((0.25, -0.1), (0.5, 0.0)), 0.5),
        Layer(EVIL, EVIL, ((2, 0.4), (4, None)), 8),
        Layer("conv", "channels", ((0.25, 0.1),), 1.0),
    )
    page = write(replace(REPORT, plan=Plan({}), sensitivities=(Sensitivities("prune", 0.9, layers),))).page
    widths = [tag["style"] for tag in page.named("span", **{"class": "fill"})]
    assert widths == [f"width:{width}%" for width in ("0.0", "0.0", "100.0", "0.0", "25.0")]
    text = "".join(page.text)
    for words in ("Sensitivity: prune", "channels kept", "25 %", "-0.1000", "failed", EVIL, "(reward 0.9000)"):
        assert words in text
    assert not page.named("script")


def test_layers_that_were_never_scored_and_none_at_all_make_a_page_too(write):
    for layers in ((), (Layer("fc", "channels", ((0.5, None),), 1.0),), (Layer("fc", "channels", (), 1.0),)):
        assert write(replace(REPORT, sensitivities=(Sensitivities("prune", 0.9, layers),))).page.text


def test_the_ranking_is_a_sentence_of_the_search(write):
    ranking = Ranking(0.571, 8, 0.289, 200, failed=1)
    page = write(replace(REPORT, searches=[replace(SEARCH, ranking=ranking)])).page
    assert (
        "Kendall's tau of the search's scores with those after 200 steps of fine-tuning is 0.57 for 8 plans (1 more "
        "failed); unrelated ones have 0 +- 0.29 (standard deviation)."
    ) in page.text


def test_the_rewards_of_the_starts_are_told():
    told = _sentences(replace(SEARCH, starts={"closed form": 0.61, "uniform plan": 0.7}))
    expected = (
        "It started from the better of the plans that need no search, by their rewards: closed form 0.6100, uniform "
    )
    assert expected + "plan 0.7000." in told
    assert not any("closed form" in sentence for sentence in _sentences(SEARCH))
