"""Draws docs/report.png from the report of a run: python docs/report.py runs/sparse/report.html.

Needs Chromium with its driver, and selenium.
"""

import io
import shutil
import sys
from pathlib import Path

from PIL import Image
from selenium import webdriver

# Parts of the page, by column of the picture.
COLUMNS = (("header", "#training"), ("#ablation",), ("#grad_cam",))
WIDTH, HEIGHT = 760, 1290  # of a column, in pixels of the page

_BOXES = """return Array.from(arguments[0], part => {
  const box = document.querySelector(part).getBoundingClientRect();
  return [box.top, box.bottom];
});"""


def screenshots(page: Path) -> list[list[Image.Image]]:
    """Return a picture of each part, by column."""
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium")
    # The window holds the whole page.
    for flag in ("--headless=new", "--no-sandbox", f"--window-size={WIDTH},8000"):
        options.add_argument(flag)
    service = webdriver.ChromeService(shutil.which("chromedriver"))
    with webdriver.Chrome(options=options, service=service) as browser:
        browser.get(page.resolve().as_uri())
        whole = Image.open(io.BytesIO(browser.get_screenshot_as_png())).convert("RGB")
        boxes = [browser.execute_script(_BOXES, column) for column in COLUMNS]
    return [[whole.crop((0, top, WIDTH, bottom)) for top, bottom in column] for column in boxes]


def draw(page: Path, file: Path) -> None:
    """Draw the columns side by side."""
    picture = Image.new("RGB", (WIDTH * len(COLUMNS), HEIGHT), "white")
    for column, parts in enumerate(screenshots(page)):
        top = 0
        for part in parts:
            picture.paste(part, (column * WIDTH, top))
            top += part.height
    picture.resize((1600, HEIGHT * 1600 // picture.width)).quantize(128).save(file, optimize=True)


if __name__ == "__main__":
    draw(Path(sys.argv[1]), Path(__file__).with_suffix(".png"))
