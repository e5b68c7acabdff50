"""Pages in a real browser: nothing is wider than the window, in three widths, light and dark."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

pytest.importorskip("matplotlib")
pytest.importorskip("jinja2")

from shared.runs.report import write_report
from tests.shared.runs.test_charts import explain
from tests.shared.runs.test_report import PIXEL, make_run

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
needs_browser = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
# a page around the report, which may have no scripts of its own, that measures it
AROUND = """<!doctype html>
<meta name="color-scheme" content="SCHEME">
<iframe id="report" style="border:0; height:900px; width:WIDTHpx; color-scheme:SCHEME" src="report.html"></iframe>
<p id="told"></p>
<script>
report.onload = () => {
  const page = report.contentDocument, all = [...page.querySelectorAll("body *")];
  const wide = all.filter(e => !e.closest(".wide, svg, pre") && e.getBoundingClientRect().right > WIDTH + 1);
  told.textContent = JSON.stringify({
    width: page.documentElement.scrollWidth,
    back: report.contentWindow.getComputedStyle(page.body).backgroundColor,
    wide: wide.map(e => e.tagName + "." + e.className),
    images: [...page.images].map(i => i.naturalWidth / i.naturalHeight - i.clientWidth / i.clientHeight),
  });
};
</script>
"""


def look_at(page: Path, width: int, scheme: str) -> None:
    """Open a page in the browser; nothing may be wider than the window, pictures keep their proportions."""
    folder = page.parent
    around = AROUND.replace("WIDTH", str(width)).replace("SCHEME", scheme).replace("report.html", page.name)
    (folder / "around.html").write_text(around)
    assert BROWSER is not None
    words = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    words += [
        "--virtual-time-budget=5000",
        f"--user-data-dir={folder / 'profile'}",
        f"--window-size={width + 40},1000",
    ]
    ended = subprocess.run(
        [*words, f"file://{folder}/around.html"], capture_output=True, text=True, check=True, timeout=90
    )
    found = re.search(r'<p id="told">(.*?)</p>', ended.stdout)
    assert found, ended.stdout
    told = json.loads(found[1])
    assert told["wide"] == [] and told["width"] <= width
    assert all(abs(difference) < 0.05 for difference in told["images"]), "pictures keep their proportions"
    dark = sum(map(int, re.findall(r"\d+", told["back"])[:3])) < 200
    assert dark == (scheme == "dark")


@pytest.mark.slow
@needs_browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 820, 1400])
def test_nothing_is_wider_than_the_window(width: int, scheme: str, tmp_path: Path) -> None:
    runs = [make_run(tmp_path / "scratch", 0.3), make_run(tmp_path / ("a_long_name_" * 8), 0.42, tag="supervised")]
    for run in runs:
        (run / "mistakes").mkdir()
        (run / "mistakes/00.png").write_bytes(PIXEL)
        named = {"file": "mistakes/00.png", "name": "a_photograph_" * 12, "caption": "3 objects missed"}
        explain(run, pictures=[named], sentence="word " * 60)
    write_report(runs, tmp_path / "report.html")
    look_at(tmp_path / "report.html", width, scheme)
