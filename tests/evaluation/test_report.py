"""The report as text: tables, curves, pictures, published figures; nothing from elsewhere."""

from __future__ import annotations

import re
from html.parser import HTMLParser

import pytest

from gpavatar.evaluation.figures import Line, curve_svg
from gpavatar.evaluation.published import TABLES, published_tables
from gpavatar.evaluation.statistics import Estimate
from gpavatar.evaluation.tables import Table
from gpavatar.types import InputError

VOID = {"meta", "br", "img"}


class Balanced(HTMLParser):
    """Every element that is opened is closed, in order."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []

    def handle_starttag(self, tag, attrs):
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.mark.download
def test_the_report_is_whole_and_needs_nothing_else(evaluated):
    page = (evaluated.folder / "report.html").read_text()
    reader = Balanced()
    reader.feed(page)
    assert reader.open == []
    assert not re.findall(r'(?:src|href)=(?!"data:)', page) and "http" not in page and "url(" not in page
    assert page.count("<svg") == 3 * 4  # PSNR twice, LPIPS, CSIM, in three tasks
    assert page.count('src="data:image/jpeg;base64,') == 3 * 3 * 3 * 5  # task, method, pick; source, truth, methods
    for text in (
        "Conditions",
        "Novel views, N = 1",
        "Published",
        "GPAvatar, 1 source",
        "worst of grey",
        "Time by stage",
    ):
        assert text in page
    assert re.search(r"\(\d+ lost\)", page)


@pytest.mark.download
def test_table_md_has_a_row_for_every_method_region_and_number(evaluated):
    lines = (evaluated.folder / "table.md").read_text().splitlines()
    for region in ("full", "foreground", "face"):
        for number in (1, 2):
            assert sum(line.startswith(f"| textured_mesh | {number} | {region} |") for line in lines) == 3
    widths = {len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("| grey | 1 | full")}
    assert widths <= {8, 10}


def test_cells_are_escaped():
    table = Table("a < b", ("x|y",), (("<script>",),))
    assert "<script>" not in table.html() and "a &lt; b" in table.html()
    assert "x\\|y" in table.markdown()


def test_a_curve_stands_where_its_numbers_are():
    lines = [
        Line("up", ((1, Estimate(1.0, 0.5, 1.5, 3)), (2, Estimate(2.0, 1.5, 2.5, 3)), (8, Estimate(3.0, 2.0, 4.0, 3))))
    ]
    path = re.search(r'points="([^"]+)"', curve_svg("rises", lines)).group(1)
    points = [tuple(map(float, point.split(","))) for point in path.split()]
    assert points[0][0] < points[1][0] < points[2][0] and points[0][1] > points[1][1] > points[2][1]
    assert (points[2][0] - points[1][0]) == pytest.approx(2 * (points[1][0] - points[0][0]), abs=0.2)  # log2


def test_ticks_are_round_and_enclose_what_is_drawn():
    for low, high, ticks in ((18.98, 22.96, ["18", "19", "20", "21", "22", "23"]), (0.0, 0.0, None), (3.1, 90.4, None)):
        svg = curve_svg("x", [Line("a", ((1, Estimate(low, low, high, 3)), (2, Estimate(high, low, high, 3))))])
        found = re.findall(r'class="value">([^<]+)<', svg)
        assert found == ticks or ticks is None
        assert float(found[0]) <= low and float(found[-1]) >= high and 2 <= len(found) <= 7
        if low >= 0:
            assert float(found[0]) >= 0


def test_published_tables_are_rectangles_and_unknown_ones_are_named():
    for name, published in TABLES.items():
        for row in published.table().rows:
            assert len(row) == len(published.head), (name, row)
    rows = {row[0]: row for row in TABLES["gpavatar_vfhq"].table().rows}
    assert rows["GPAvatar, 1 source"][1:5] == ("22.08", ".765", ".177", ".789")
    with pytest.raises(InputError, match="gpavatar_vfhq"):
        published_tables(["gpavatar_vfh"])
