"""Take the pictures of README and docs/look.md: `python docs/take_pictures.py runs`, after README's first command.

They show the page of `gpt look` with the run `shakespeare` below the given folder. Needs the extra `browser` and
Chromium; a picture that it replaces is one of the repository's.
"""

import re
import shutil
import subprocess
import sys
from pathlib import Path
from urllib.parse import urlencode

from playwright.sync_api import Page, sync_playwright

PICTURES = Path(__file__).with_name("pictures")
TEXT = "ROMEO:\nWhat say you, my lord? I am your servant, my lord, and your"
PROGRAMS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


def write(page: Page) -> None:
    page.get_by_label("number of tokens").fill("40")
    page.get_by_role("button", name="Write", exact=True).click()
    page.get_by_text(re.compile(r"^40 tokens, [\d.,]+ per second$")).wait_for()
    page.locator(".strip .token.from-drawn").nth(12).click()


def attention(page: Page) -> None:
    page.locator(".thumbnail").nth(8).click()
    page.locator(".reads-table tbody tr").first.wait_for()


def lens(page: Page) -> None:
    page.locator(".view-lens h3").first.wait_for()


def learn(page: Page) -> None:
    page.get_by_role("button", name="One step", exact=True).click()
    page.locator(".outcome").wait_for()


def backward(page: Page) -> None:
    page.locator(".view-backward select").first.select_option("unfused")
    page.locator(".steps-table").get_by_role("button", name="0.044715 x²", exact=True).click()
    page.locator(".view-backward .step .gradient").first.wait_for()


def training(page: Page) -> None:
    page.get_by_text("newest first").wait_for()


VIEWS = {write: 950, attention: 1010, lens: 950, learn: 2500, backward: 1440, training: 1500}  # and their heights


def main(runs: str) -> None:
    """Serve the runs below a folder, and take each picture of the page, 1,200 pixels wide."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    command = [sys.executable, "-m", "gpt", "look", runs, "--no-browser", "--port", "0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server, sync_playwright() as playwright:
        try:
            address = server.stdout.readline().strip()
            browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox"])
            for view, height in VIEWS.items():
                page = browser.new_page(viewport={"width": 1200, "height": height})
                page.goto(f"{address}#{view.__name__}?{urlencode({'run': 'shakespeare', 'text': TEXT})}")
                page.locator(f"#view.view-{view.__name__} h2").wait_for()
                view(page)
                page.wait_for_load_state("networkidle")
                page.mouse.move(1199, 0)
                page.evaluate("scrollTo(0, 0)")
                page.wait_for_timeout(500)  # transitions
                page.screenshot(path=PICTURES / f"look-{view.__name__}.png")
                page.close()
            browser.close()
        finally:
            server.terminate()


if __name__ == "__main__":
    if len(sys.argv) != 2 or not Path(sys.argv[1], "shakespeare").is_dir():
        sys.exit("give the folder of the run shakespeare, which README's first command trains: take_pictures.py runs")
    main(sys.argv[1])
