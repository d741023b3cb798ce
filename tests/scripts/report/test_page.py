"""The HTML report in a browser: what it shows at two widths, in light and in dark."""

import functools
import json
import re
import shutil
import subprocess

import pytest

from scripts.report.__main__ import main
from tests.helpers.run_example import make_dataset, make_run

BROWSER = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed (Debian: apt-get install chromium)")
WIDTHS = (390, 1200)  # a phone and a desktop

# The page may run no script of its own, so it is measured from outside, as a frame of another page.
MEASURE = """<body><script>
const seen = {}
for (const width of WIDTHS) {
  const frame = document.createElement('iframe')
  frame.width = width
  frame.height = 900
  frame.src = 'PAGE'
  frame.onload = () => {
    const page = frame.contentDocument
    const details = [...page.querySelectorAll('details')]
    const folded = details.map(d => !d.querySelector('pre').checkVisibility())
    details.forEach(d => d.open = true)
    seen[width] = {
      title: page.title,
      inner: page.documentElement.clientWidth,
      content: page.documentElement.scrollWidth,
      figures: [...page.querySelectorAll('figure')].map(f => ({
        caption: f.querySelector('figcaption').innerText,
        width: f.querySelector('svg').getBoundingClientRect().width,
        words: [...f.querySelectorAll('svg text')].map(t => t.textContent),
        least: Math.min(...[...f.querySelectorAll('svg text')].map(t => t.getBoundingClientRect().height)),
        ink: frame.contentWindow.getComputedStyle(f.querySelector('svg text')).fill,
      })),
      numbers: Object.fromEntries([...page.querySelectorAll('dl div')].map(
        d => [d.querySelector('dt').innerText, d.querySelector('dd').innerText])),
      headings: [...page.querySelectorAll('h2')].map(h => h.innerText),
      tables: page.querySelectorAll('table').length,
      folded: folded,
      opened: details.map(d => d.querySelector('pre').innerText),
      foreign: page.querySelectorAll('script, img, iframe, link, object').length,
      ink: frame.contentWindow.getComputedStyle(page.body).color,
      paper: frame.contentWindow.getComputedStyle(page.body).backgroundColor,
    }
    if (Object.keys(seen).length == WIDTHS.length) document.body.textContent = 'SEEN' + JSON.stringify(seen) + 'END'
  }
  document.body.append(frame)
}
</script></body>"""


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    folder = tmp_path_factory.mktemp("page")
    run = make_run(folder / "odd-run", make_dataset(folder / "dataset")[0])
    assert main([str(run), "--html"]) == 0
    return run / "report.html"


@functools.cache
def look(page, dark: bool) -> dict:
    """What the browser shows at each width."""
    frame = page.parent / "frame.html"
    frame.write_text(MEASURE.replace("WIDTHS", json.dumps(WIDTHS)).replace("PAGE", page.as_uri()))
    scheme = f"--blink-settings=preferredColorScheme={0 if dark else 1}"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", scheme]
    command += ["--virtual-time-budget=10000", "--dump-dom", frame.as_uri()]
    finished = subprocess.run(command, capture_output=True, text=True, timeout=120)
    found = re.search("SEEN(.*)END", finished.stdout, re.DOTALL)
    assert found, finished.stderr[-2000:]
    text = found[1].replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
    return json.loads(text)


def contrast(ink: str, paper: str) -> float:
    """Contrast ratio of two CSS colours (WCAG 2.2, relative luminance)."""

    def luminance(colour):
        channels = [int(value) / 255 for value in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return sum(weight * c for weight, c in zip((0.2126, 0.7152, 0.0722), linear, strict=True))

    low, high = sorted((luminance(ink), luminance(paper)))
    return (high + 0.05) / (low + 0.05)


def test_the_page_shows_the_run_on_a_phone_and_on_a_desktop(page):
    for width, seen in look(page, dark=False).items():
        assert seen["title"] == "odd-run: selection report"
        assert seen["content"] <= seen["inner"], f"it scrolls sideways at {width}"
        assert seen["numbers"]["method"] == "topk"
        assert seen["numbers"]["candidates"] == "48"
        assert seen["numbers"]["final val loss"] == "4.2000"
        captions = [figure["caption"] for figure in seen["figures"]]
        assert captions[:3] == [
            "Loss against steps",
            "Loss against seconds of training",
            "What was trained on, by source",
        ]
        assert len(captions) == 9
        for figure in seen["figures"]:
            assert figure["width"] > 0.8 * min(int(width), 550)
            assert figure["least"] > 9, figure["caption"]  # pixels: it can be read
        words = {word for figure in seen["figures"] for word in figure["words"]}
        assert {"step", "seconds of training", "loss (nats per token)", "pick rate", "candidates", "odd[red]"} <= words
        assert "Sources, by pick rate" in seen["headings"]
        assert seen["tables"] >= 2


def test_documents_unfold_and_their_html_stays_text(page):
    for seen in look(page, dark=False).values():
        assert len(seen["folded"]) > 10
        assert all(seen["folded"])
        texts = "\n".join(seen["opened"])
        assert "<script>document.title='run'</script>" in texts
        assert r"\x1b[31mred" in texts
        assert 'method = "topk"' in texts
        assert seen["foreign"] == 0


def test_it_can_be_read_in_light_and_in_dark(page):
    papers = []
    for dark in (False, True):
        seen = look(page, dark)[str(WIDTHS[0])]
        papers.append(seen["paper"])
        assert contrast(seen["ink"], seen["paper"]) > 7
        for figure in seen["figures"]:
            assert contrast(figure["ink"], seen["paper"]) > 7
    assert papers[0] != papers[1]
