"""A certificate's page says its verdict first, all that is in the certificate, and fits a phone."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import pytest

from tests.fit.certificates import certify_fake, write_model
from vivace.errors import CertificateError
from vivace.fit.certificate import Candidate, Certificate, Prediction, QualityRecord, Rejection
from vivace.fit.certificate_page import render_certificate, write_page

if TYPE_CHECKING:
    from playwright.sync_api import Browser

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")

PAGES = {
    "kept": ("ttft_p99=50ms tpot_p99=5ms", "The budget is kept"),
    "barely kept": ("ttft_p99=41ms", "The budget is kept, if barely"),
    "missed": ("ttft_p99=20ms memory=500MB", "The budget is not kept"),
    "unknown": ("ttft_p99=50ms loss=2%", "Not all of the budget was measured"),
    "full": ("ttft_p99=50ms loss=2%", "The budget is kept"),
}


def make(directory: Path, name: str) -> Certificate:
    certificate = certify_fake(write_model(directory / "a<b"), PAGES[name][0])
    if name != "full":
        return certificate
    quality = QualityRecord(
        measure="perplexity", base=12.0, variant=12.1, loss=0.008, loss_low=0.004, loss_high=0.012, documents=200,
        data="talks.jsonl", data_sha256="0" * 64,
    )  # fmt: skip
    pareto = tuple(
        Candidate(
            name=f"candidate <{n}>", loss=0.01 * n, ttft_ms=9.0 / n, tpot_ms=2.0 / n, total_ms=60.0 / n,
            weight_bytes=10**7, measured=n < 3, chosen=n == 1,
        )
        for n in (1, 2, 3)
    )  # fmt: skip
    return msgspec.structs.replace(
        certificate,
        quality=quality,
        pareto=pareto,
        predictions=(Prediction(stage="simulated", figure="tpot_p99", predicted=3.0, measured=4.0),),
        rejected=(Rejection(name="int4 <everywhere>", reason="it loses too much", count=12),),
    )


@pytest.mark.parametrize("name", PAGES)
def test_the_verdict_comes_first_and_names_are_no_markup(tmp_path: Path, name: str) -> None:
    page = render_certificate(make(tmp_path, name))
    assert PAGES[name][1] in page.partition("</h1>")[0]
    assert "a<b" not in page
    assert "http://" not in page
    assert "https://" not in page


def test_the_page_has_what_the_certificate_has(tmp_path: Path) -> None:
    certificate = make(tmp_path, "full")
    page = render_certificate(certificate)
    for record in certificate.variant.files.values():
        assert record.sha256 in page
    assert "-25.0%" in page
    assert "candidate &lt;2&gt;" in page
    assert "int4 &lt;everywhere&gt; (12 of them): it loses too much" in page
    assert "0.800%, 95% interval 0.400% to 1.200%" in page


def test_a_page_that_cannot_be_written_is_our_error(tmp_path: Path) -> None:
    with pytest.raises(CertificateError, match="directory to write to"):
        write_page(make(tmp_path, "kept"), tmp_path / "nowhere")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed; pip install playwright")
    if CHROMIUM is None:
        pytest.skip("no Chromium on the path; apt-get install chromium")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.mark.browser
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("name", PAGES)
def test_the_page_fits_a_phone_and_asks_for_nothing(browser: Browser, tmp_path: Path, name: str, scheme: str) -> None:
    place = write_page(make(tmp_path, name), tmp_path)
    asked: list[str] = []
    problems: list[str] = []
    for width in (1280, 390):
        page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
        page.on("request", lambda request: asked.append(request.url))
        page.on("console", lambda message: problems.append(message.text))
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.goto(f"file://{place}")
        assert PAGES[name][1] in (page.locator("h1").text_content() or "")
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        page.close()
    assert asked == [f"file://{place}"] * 2
    assert problems == []
