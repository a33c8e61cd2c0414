"""The page of a run in a browser: whole, offline, for pointers, keys, phones and paper."""

import base64
import csv
import json
import re
import shutil

import pytest

from aggnets_jax.errors import UserError
from aggnets_jax.main import main
from aggnets_jax.reports.page import parts
from tests import browser as browsers

SECTIONS = (
    "results",
    "config",
    "training",
    "connections",
    "weights",
    "ablation",
    "grad_cam",
    "environment",
)
HOSTILE = "<script>window.attacked = true</script><img src=x onerror='window.attacked = true'>"


@pytest.fixture(scope="module")
def workdir(finished_run, tmp_path_factory):
    """Return the workdir of a run with its page."""
    workdir = shutil.copytree(finished_run, tmp_path_factory.mktemp("page") / "run")
    assert main(["report", f"--workdir={workdir}", "--html"]) == 0
    return workdir


@pytest.fixture(scope="module")
def browser():
    with browsers.open_browser() as browser:
        yield browser


@pytest.fixture
def page(browser, workdir):
    """The page on a wide screen."""
    browsers.set_screen(browser, 1280, 900)
    browser.get((workdir / "report.html").as_uri())
    return browser


def cuts_of(workdir):
    with (workdir / "ablation" / "links.csv").open() as file:
        return list(csv.DictReader(file))


def visible_tips(browser):
    return browser.execute_script(
        "return [...document.querySelectorAll('.tip')]"
        ".filter(e => getComputedStyle(e).visibility === 'visible').map(e => e.innerText)"
    )


def link_element(browser, cut):
    """The cell of a line of `links.csv`; stages and cells come in the order of the file."""
    number = int(cut["stage"].removeprefix("stage")) - 1
    grid = browser.find_elements("css selector", "[role=grid]")[number]
    place = f"[data-layer='{cut['layer']}'][data-source='{cut['source']}']"
    return grid.find_element("css selector", place)


def expected_tip(cut):
    """Return the expected texts: the change of the accuracy, its interval, and the loss."""
    change, low, high = (in_points(float(cut[name])) for name in ("delta", "ci_low", "ci_high"))
    return [f"accuracy {change} points", f"interval {low} to {high}", f"{float(cut['loss']):.4f}"]


def in_points(change):
    text = f"{100 * change:+.2f}"
    return "0.00" if float(text) == 0 else text.replace("-", "\u2212")


def test_the_page_is_one_file_and_says_nothing_to_the_console(page, workdir):
    browsers.requested(page)
    page.get_log("browser")
    page.get((workdir / "report.html").as_uri())
    urls = [url for url in browsers.requested(page) if not url.startswith("data:")]
    assert urls == [(workdir / "report.html").as_uri()]
    assert page.get_log("browser") == []
    assert page.execute_script("return performance.getEntriesByType('resource').length") == 0


def test_every_section_has_its_figures_and_all_are_rendered(page, workdir):
    sections = page.find_elements("css selector", "main > section")
    assert tuple(section.get_attribute("id") for section in sections) == SECTIONS
    assert page.find_elements("css selector", ".missing") == []
    counts = {
        section.get_attribute("id"): len(section.find_elements("css selector", "figure"))
        for section in sections
    }
    # Curves of losses and accuracy, one pattern for all stages that have it, and three stages.
    assert counts["training"] == 3 and counts["connections"] >= 1 and counts["grad_cam"] == 1
    assert counts["weights"] == counts["ablation"] == 3
    figures = page.execute_script(
        "return [...document.querySelectorAll('figure img')].map(e => [e.complete, e.naturalWidth,"
        " e.getBoundingClientRect().width, e.getBoundingClientRect().height, e.alt])"
    )
    assert len(figures) == sum(counts.values()) - counts["ablation"]
    for complete, natural, width, height, alt in figures:
        assert complete and natural > 100 and width > 100 and height > 50 and len(alt) > 20
    boxes = page.execute_script(
        "return [...document.querySelectorAll('.link')].map(e => e.getBoundingClientRect())"
    )
    assert len(boxes) == len(cuts_of(workdir))
    assert all(box["width"] > 15 and box["height"] > 15 for box in boxes)


def test_a_link_shows_its_numbers_to_the_pointer(page, workdir):
    from selenium.webdriver import ActionChains

    assert visible_tips(page) == []
    for cut in (cuts_of(workdir)[1], cuts_of(workdir)[-1]):
        ActionChains(page).move_to_element(link_element(page, cut)).perform()
        (tip,) = visible_tips(page)
        for text in (f"{cut['stage']}, ", *expected_tip(cut)):
            assert text in tip
    ActionChains(page).move_to_element(page.find_element("css selector", "h1")).perform()
    assert visible_tips(page) == []


def test_keys_go_from_link_to_link(page, workdir):
    from selenium.webdriver import ActionChains, Keys

    cuts = [cut for cut in cuts_of(workdir) if cut["stage"] == "stage1"]
    (first, *_) = sorted(cuts, key=lambda cut: (int(cut["source"]), int(cut["layer"])))
    page.execute_script("arguments[0].focus()", link_element(page, first))
    (right, *_) = [c for c in cuts if c["source"] == first["source"] and c != first]
    (below, *_) = [c for c in cuts if c["layer"] == right["layer"] and c["source"] > "0"]
    for key, cut in [
        (Keys.ARROW_UP, first),
        (Keys.ARROW_RIGHT, right),
        (Keys.ARROW_DOWN, min([below], key=lambda cut: int(cut["source"]))),
    ]:
        ActionChains(page).send_keys(key).perform()
        (tip,) = visible_tips(page)
        for text in expected_tip(cut):
            assert text in tip
    # A map is one stop.
    ActionChains(page).send_keys(Keys.TAB).perform()
    where = page.execute_script("return document.activeElement.closest('figure').innerText")
    assert "stage2" in where


def test_a_phone_shows_all_within_its_width_and_a_tap_shows_numbers(page, workdir):
    browsers.set_screen(page, 390, 844, mobile=True)
    page.get((workdir / "report.html").as_uri())
    width, too_wide = page.execute_script(
        "return [document.documentElement.scrollWidth, [...document.querySelectorAll('body *')]"
        ".filter(e => !e.closest('.scroll') && e.getBoundingClientRect().right > 390.5)"
        ".map(e => e.outerHTML.slice(0, 80))]"
    )
    assert (width, too_wide) == (390, [])
    images = page.execute_script(
        "return [...document.querySelectorAll('figure img')].map(e => e.getBoundingClientRect())"
    )
    assert all(image["width"] > 250 for image in images)
    # What is cut off at an edge says so, by a hint or a shadow; tables that fit don't scroll.
    cut_off = page.execute_script(
        "return [...document.querySelectorAll('.scroll')].filter(e => e.checkVisibility()"
        " && e.scrollWidth > e.clientWidth + 1).map(e => [e.className,"
        " getComputedStyle(e).backgroundImage.split('linear-gradient').length,"
        " e.querySelector('img, [role=grid]') !== null,"
        " e.previousElementSibling?.className === 'hint'"
        " && e.previousElementSibling.checkVisibility()])"
    )
    assert cut_off  # Grad-CAM keeps its width
    for name, shadows, is_picture, has_hint in cut_off:
        assert shadows == 5 and (has_hint or not is_picture), name
    config = page.find_element("css selector", ".config")
    assert config.size["width"] <= 390

    cut = cuts_of(workdir)[2]
    box = page.execute_script(
        "arguments[0].scrollIntoView({block: 'center', behavior: 'instant'});"
        "const box = arguments[0].getBoundingClientRect();"
        "return [box.x + box.width / 2, box.y + box.height / 2]",
        link_element(page, cut),
    )
    for kind, touched in [("touchStart", [dict(zip("xy", box, strict=True))]), ("touchEnd", [])]:
        touch = {"type": kind, "touchPoints": touched}
        page.execute_cdp_cmd("Input.dispatchTouchEvent", touch)
    (tip,) = visible_tips(page)
    for text in expected_tip(cut):
        assert text in tip


def test_without_scripts_nothing_is_missing(page, workdir):
    from selenium.webdriver import ActionChains

    page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        page.get((workdir / "report.html").as_uri())
        links = page.find_elements("css selector", ".link[tabindex='0']")
        assert len(links) == len(cuts_of(workdir))
        ActionChains(page).move_to_element(links[3]).perform()
        assert links[3].find_element("css selector", ".tip").is_displayed()
        page.find_element("css selector", "summary").click()
        assert '"total_steps": 12' in page.find_element("css selector", "pre").text
    finally:
        page.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})


def test_printed_pages_have_all_figures_whole_and_what_is_folded(page):
    pdf = base64.b64decode(
        page.execute_cdp_cmd(
            "Page.printToPDF", {"paperWidth": 8.27, "paperHeight": 11.69, "generateTaggedPDF": True}
        )["data"]
    )
    assert pdf.startswith(b"%PDF")
    figures = page.find_elements("css selector", "figure, figure img")
    assert len(re.findall(rb"/S /Figure", pdf)) == len(figures)
    assert len(re.findall(rb"/Type /Page\b(?!s)", pdf)) >= 3

    width, height = 178 / 25.4 * 96, 265 / 25.4 * 96  # A4 without the margins of @page
    browsers.set_screen(page, int(width), 900)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": "print"})
    try:
        boxes = page.execute_script(
            "return [...document.querySelectorAll('figure')].map(e => e.getBoundingClientRect())"
        )
        # A figure that is no higher than a page is not cut, as it is not broken inside.
        assert all(box["right"] <= width and 0 < box["height"] < height for box in boxes)
        for folded in page.find_elements("css selector", "details > :not(summary)"):
            assert folded.size["height"] > 100
        assert page.execute_script("return document.documentElement.scrollWidth") <= width
    finally:
        page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"media": ""})


def test_each_figure_has_a_caption_and_each_section_a_heading(page):
    for figure in page.find_elements("css selector", "figure"):
        assert len(figure.find_element("css selector", "figcaption").text) > 15
    for section in page.find_elements("css selector", "main > section"):
        title = page.find_element("id", section.get_attribute("aria-labelledby"))
        assert title.tag_name == "h2" and title.text
    for link in page.find_elements("css selector", "nav a"):
        assert page.find_element("id", link.get_attribute("href").partition("#")[2])


def copy_of(workdir, folder, *, without=("checkpoints", "best")):
    """A workdir whose page takes no time, for nothing in it can be computed anew."""
    return shutil.copytree(workdir, folder, ignore=shutil.ignore_patterns(*without))


def change(file, fields):
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


def make_page(workdir, *flags):
    assert main(["report", f"--workdir={workdir}", "--html", *flags]) == 0
    return (workdir / "report.html").read_bytes()


def test_names_that_are_html_stay_text(browser, workdir, tmp_path, monkeypatch):
    copy = copy_of(workdir, tmp_path / "<b>run<")
    config = json.loads((copy / "config.json").read_text())
    paper = {**config["paper"], "remark": HOSTILE}
    change(copy / "config.json", {"file": HOSTILE, "paper": paper})
    network = json.loads((copy / "summary.json").read_text())["network"]
    hostile = {
        "network": {**network, "name": HOSTILE},
        "hardware": HOSTILE,
        "commit": HOSTILE,
        "versions": {HOSTILE: HOSTILE},
        "config_changes": [{"step": 1, "changes": [HOSTILE]}],
    }
    change(copy / "summary.json", hostile)
    record = json.loads((copy / "ablation" / "ablation.json").read_text())
    for link in record["sweeps"]["links"]:
        link["stage"] += HOSTILE
    change(copy / "ablation" / "ablation.json", {"sweeps": record["sweeps"]})

    def other_classes(*arguments):
        raise UserError(f"the data set has other classes: missing are {HOSTILE}")

    monkeypatch.setattr(parts, "restore_network", other_classes)
    page = make_page(copy)
    assert page.isascii() and page.count(b"<script") == 1 and b"<img src=x" not in page
    browser.get_log("browser")
    browser.get((copy / "report.html").as_uri())
    assert browser.execute_script("return window.attacked") is None
    assert browser.get_log("browser") == []  # nor did the policy have anything to stop
    assert browser.find_element("css selector", "h1").text == HOSTILE
    assert HOSTILE in browser.find_element("css selector", ".missing").text
    assert len(browser.find_elements("css selector", ".link")) == len(cuts_of(workdir))


def test_what_cannot_be_computed_is_said_in_its_place(workdir, tmp_path, capsys):
    copy = copy_of(workdir, tmp_path / "run", without=("checkpoints", "best", "ablation"))
    page = make_page(copy).decode()
    assert page.count("Not shown: no checkpoint in") == 3
    assert "Further analyses" not in page
    assert capsys.readouterr().err == ""
    assert make_page(copy).decode() == page


def test_pictures_that_analyses_have_left_are_shown(workdir, tmp_path):
    def made():
        return {part.id: part for part in parts.make_parts(copy, None)}

    copy = copy_of(workdir, tmp_path / "run")
    assert list(made()) == ["weights", "ablation", "grad_cam"]
    (copy / "analysis").mkdir()
    for name in ("weights", "gates"):
        shutil.copy(workdir / "curves.png", copy / "analysis" / f"{name}.png")
    png = base64.b64encode((workdir / "curves.png").read_bytes()).decode()
    assert list(made()) == ["weights", "ablation", "grad_cam", "analyses"]
    # One in the place of what can't be computed any more, one besides.
    for name in ("weights", "analyses"):
        (picture,) = made()[name].pictures
        assert picture.source == f"data:image/png;base64,{png}"
    assert made()["analyses"].pictures[0].caption.startswith("Gates of HCGNet")
    (copy / "analysis" / "gates.png").write_text("gates")
    assert "gates.png is damaged: it is no PNG" in made()["analyses"].missing


def test_networks_without_weights_and_data_that_is_missing(workdir, tmp_path, monkeypatch):
    copy = copy_of(workdir, tmp_path / "run", without=("ablation",))
    monkeypatch.setattr(parts.weights, "link_weights", lambda restored: {})
    page = make_page(copy, "--data_dir=/nowhere").decode()
    assert "Not shown: the links of sparsenet10_k4 have no weights" in page
    assert page.count("/nowhere") == 2


def test_a_sweep_that_is_there_is_not_made_again(workdir, tmp_path, monkeypatch):
    def refuse(*arguments, **keywords):
        raise UserError("a sweep is made")

    def ablation():
        return next(part for part in parts.make_parts(copy, None) if part.id == "ablation")

    monkeypatch.setattr(parts, "ablate", refuse)
    monkeypatch.setattr(parts._Network, "seed", 0)
    copy = copy_of(workdir, tmp_path / "run")
    assert len(ablation().ablation.cuts) == len(cuts_of(workdir))
    file = copy / "ablation" / "ablation.json"
    change(file, {"sweeps": {"links": [{"stage": "stage1"}]}})
    assert "ablation.json is damaged: links[0].layer must be" in ablation().missing
    for sweeps in ({}, {"sources": []}, None):
        change(file, {"sweeps": sweeps})
        assert ablation().missing == "Not shown: a sweep is made."


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["eval", "--html"], "--html is for aggnets report, not for aggnets eval"),
        (["report", "--data_dir=D"], "--data_dir is for --html"),
    ],
)
def test_flags_of_the_page_are_for_the_page(flags, message, tmp_path, capsys):
    assert main([*flags, f"--workdir={tmp_path}"]) == 2
    assert message in capsys.readouterr().err
