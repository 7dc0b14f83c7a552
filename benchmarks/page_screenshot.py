"""Writes ``docs/figures/page.png``: the page of ``framefill serve`` with an utterance parsed by two bundles, in Chromium.

python -m benchmarks.page_screenshot
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from urllib.parse import quote

from playwright.sync_api import sync_playwright

from benchmarks.serving import served


def main() -> None:
    """Serves, opens the page, and writes what it looks like."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--bundles", type=Path, nargs="+", default=[Path("models/conv-nar-topv2"), Path("models/raf-topv2")]
    )
    options.add_argument("--utterance", default="Remind me to call mum at 6 tomorrow")
    options.add_argument("--out", type=Path, default=Path("docs/figures/page.png"))
    given = options.parse_args()
    browser_path = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if browser_path is None:
        raise SystemExit("this needs chromium (apt-get install chromium)")
    words = [word for bundle in given.bundles for word in ("--bundle", str(bundle))]
    with (
        tempfile.TemporaryDirectory() as scratch,
        served(Path(scratch), "--port", "0", *words) as (port, _),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=browser_path, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1100, "height": 760})
        page.set_default_timeout(120_000)
        page.goto(f"http://127.0.0.1:{port}/#{quote(given.utterance)}")
        for bundle in given.bundles:
            page.locator(f"input[value={bundle.name}]").check()
            page.locator(f"article[aria-label={bundle.name}]").wait_for()
        page.locator("button").click()  # once more, now that all is loaded, for latencies as they usually are
        page.wait_for_timeout(3000)
        page.screenshot(path=str(given.out))
        browser.close()
    print(given.out)


if __name__ == "__main__":
    main()
