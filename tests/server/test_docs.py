"""The description of the API, for programs and for people."""

from __future__ import annotations

import re

import pytest

from tests.server.serving import serving
from vivace.models.model import Model
from vivace.server.openapi import describe_api

pytestmark = pytest.mark.anyio


async def test_the_page_shows_every_path_and_loads_nothing_from_elsewhere(model: Model) -> None:
    async with serving(model) as server:
        page = await server.http.get("/docs")
        assert page.headers["content-type"] == "text/html; charset=utf-8"
        assert "default-src 'none'" in page.headers["content-security-policy"]
        for path in describe_api("tiny", False)["paths"]:
            assert path in page.text
        assert "https://" not in page.text
        assert "<script" not in page.text
        loaded = re.findall(r'<link rel="\w+" href="([^"]+)"', page.text)
        assert loaded == ["/static/icon.svg", "/docs/style.css"]
        for target in re.findall(r'href="#([^"]+)"', page.text):
            assert f'id="{target}"' in page.text
        style = await server.http.get("/docs/style.css")
        assert style.headers["content-type"].startswith("text/css")
        assert "url(" not in style.text


async def test_the_description_is_that_of_the_page(model: Model) -> None:
    async with serving(model) as server:
        assert (await server.http.get("/openapi.json")).json() == describe_api("tiny", False)
