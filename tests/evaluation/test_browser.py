"""The report in a real browser that has no network: tables, curves and pictures are there. `make test-browser`."""

from __future__ import annotations

import json
import re
import shutil
import subprocess

import pytest

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
BROWSER = next(filter(None, map(shutil.which, BROWSERS)), None)
# What the page has become, counted by itself once all is loaded.
PROBE = """<script>addEventListener("load", () => {
const all = (what) => [...document.querySelectorAll(what)], seen = (one) => one.getBoundingClientRect().height > 20;
const found = {tables: all("table").filter(seen).length, rows: all("tbody tr").length,
 curves: all("svg.curve").filter(seen).length,
 lines: all("svg.curve polyline").filter((l) => l.getTotalLength() > 0).length,
 pictures: all("img").filter((i) => i.complete && i.naturalWidth > 0 && seen(i)).length, asked: all("img").length,
 fetched: performance.getEntriesByType("resource").filter((r) => !r.name.startsWith("data:")).length,
 sideways: document.documentElement.scrollWidth - innerWidth};
const out = document.createElement("pre"); out.id = "probe"; out.textContent = JSON.stringify(found);
document.body.append(out);});</script></body>"""


@pytest.mark.download
@pytest.mark.skipif(BROWSER is None, reason="no browser; run: make test-browser")
def test_the_report_opens_in_a_browser_without_network(evaluated, tmp_path):
    page = (evaluated.folder / "report.html").read_text()
    (tmp_path / "report.html").write_text(page.replace("</body>", PROBE))
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", f"--user-data-dir={tmp_path}/profile"]
    command += ["--host-resolver-rules=MAP * ~NOTFOUND", "--virtual-time-budget=20000", "--window-size=1280,900"]
    command += ["--dump-dom", (tmp_path / "report.html").as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    found = json.loads(re.search(r'<pre id="probe">(.*?)</pre>', done.stdout).group(1))
    assert found["tables"] == page.count("<table>") > 10 and found["rows"] == page.count("<tbody><tr>") + (
        page.count("</tr><tr>")
    )
    assert found["curves"] == 12 and found["lines"] == 12 * len(evaluated.methods)
    assert found["pictures"] == found["asked"] == page.count("<img ") > 100
    assert found["fetched"] == 0 and found["sideways"] <= 0
