"""Every page of a report in a real browser: it needs nothing else, it fits, and it says what the numbers say."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from tests.bench.test_compare import columns
from tests.bench.test_summary import measure, observe
from vivace.bench.compare import compare
from vivace.bench.documents import sweep_document
from vivace.bench.experiment import Experiment, describe_environment
from vivace.bench.report import render
from vivace.bench.schedule import Load
from vivace.bench.search import Highest, Trial
from vivace.bench.summary import raw_arrays, summarize_run
from vivace.bench.workload import Workload
from vivace.budget import NO_BUDGET, Budget

if TYPE_CHECKING:
    from playwright.sync_api import Browser

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
EVIL = "</script><script>window.pwned=1</script><img src=x onerror=window.pwned=1>"


def describe_run(*, failed: int = 0, limits: Budget = NO_BUDGET, rate: float = 50.0, n: int = 700) -> dict[str, Any]:
    from datetime import UTC, datetime

    from vivace.bench.experiment import describe

    seen = [observe(i, 100 + i / 50, 0.02 + (i % 50) / 1000, 0.2, tokens=4, characters=9) for i in range(n)]
    for one in seen[:failed]:
        one.error, one.message = "timeout", EVIL
    load = Load(rate=rate, duration_s=n / 50)
    experiment = Experiment("http://127.0.0.1:1/v1", Workload(model=EVIL), load, limits)
    measured = measure(*seen)
    document = describe(experiment, datetime.now(UTC)) | summarize_run(measured, load, limits, 0.99, None, 0)
    return document | {"resources": None, "raw": raw_arrays(measured)}


def describe_comparison() -> dict[str, Any]:
    a, b = columns(), columns(1.1, seed=1)
    side = {"offered": 200, "answered": 200}
    return describe_run() | {
        "kind": "compare",
        "measured": "in turn",
        "sides": [{"url": "http://a"} | side, {"url": "http://b"} | side],
        "comparison": compare(a, b, 0.01),
    }


def describe_search(low: float = 3.0) -> dict[str, Any]:
    from vivace.bench.documents import find_max_document

    trials = (Trial(3.0, bool(low), True, 99, 100, 1.0), Trial(4.0, False, False, 80, 100, 1.0))
    experiment = Experiment("http://h/v1", Workload(model="m"), Load(rate=1, duration_s=1), Budget(ttft_ms=5))
    return find_max_document(experiment, Highest(low, 4.0, trials))


PAGES: dict[str, tuple[Callable[[], dict[str, Any]], str]] = {
    "run": (describe_run, "First token in"),
    "kept": (lambda: describe_run(limits=Budget(ttft_ms=500)), "Budget kept"),
    "missed": (lambda: describe_run(limits=Budget(ttft_ms=40)), "Budget missed"),
    "failed": (lambda: describe_run(failed=20), "20 requests failed"),
    "nothing answered": (lambda: describe_run(failed=5, n=5), "5 requests failed"),
    "sweep": (lambda: sweep_document([describe_run(), describe_run(rate=20.0)]), "Up to"),
    "search": (describe_search, "Between 3 and 4"),
    "no rate": (lambda: describe_search(0.0), "No rate"),
    "comparison": (describe_comparison, "B is worse than A"),
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path; apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("name", PAGES)
def test_a_page_says_its_verdict_first_and_fits_a_phone(browser: Browser, tmp_path: Path, name: str) -> None:
    make, verdict = PAGES[name]
    (tmp_path / "r.html").write_text(render(make()), encoding="utf-8")
    asked: list[str] = []
    problems: list[str] = []
    for width in (1280, 390):
        page = browser.new_page(viewport={"width": width, "height": 800})
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"file://{tmp_path}/r.html")
        title = page.locator("h1")
        assert verdict in (title.text_content() or "").replace("\N{THIN SPACE}", " ")
        box = title.bounding_box()
        assert box is not None
        assert box["y"] < 200
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        before = page.evaluate("getComputedStyle(document.body).backgroundColor")
        page.get_by_role("button").click()
        assert page.evaluate("getComputedStyle(document.body).backgroundColor") != before
        assert page.evaluate("window.pwned") is None
        page.close()
    assert [url for url in asked if not url.startswith("file://")] == []
    assert problems == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_no_other_place(name: str) -> None:
    text = render(PAGES[name][0]()).replace("img src=x", "")
    assert re.findall(r"(?:src|href|url\(|@import)[=(]?", text) == []
    assert not re.search(r"\bnan\b", text)


def test_the_environment_is_told() -> None:
    found = describe_environment()
    assert found["cores"] >= 1
    assert found["memory_bytes"] > 2**20
