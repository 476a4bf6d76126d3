"""result/report.html, opened in Chromium."""

import os
import re
import shutil

import pytest
import report_samples
from report_samples import HOSTILE, SAMPLES

from alignment.files import CannotRun
from alignment.page import anchor, render_page, write_page

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
INSTALL = "no Chromium to open the page in: apt-get install -y chromium"
WIDTHS = (360, 768, 1440)
MOST_BYTES = 2_000_000
PATIENCE = 60_000  # ms; that a page opens at all


@pytest.fixture(scope="module")
def browser():
    if CHROMIUM is None and os.environ.get("CI"):
        pytest.fail(INSTALL)
    if CHROMIUM is None:
        pytest.skip(INSTALL)
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """{name: path of the page of this sample}, each written when first asked for."""
    folder = tmp_path_factory.mktemp("pages")

    class Files(dict):
        def __missing__(self, name):
            self[name] = folder / f"{name}.html"
            write_page(SAMPLES[name](), self[name])
            return self[name]

    return Files()


@pytest.fixture
def opened(browser, files):
    """function (sample, link, width, **context) -> page, which must be silent until the end.

    What a test means to be told on the console, it takes out of page.told.
    """
    pages = []

    def open_page(sample, link="", width=1440, **context):
        context = {"locale": "en-US", "color_scheme": "light", **context}
        page = browser.new_context(viewport={"width": width, "height": 900}, **context).new_page()
        page.told, page.requests = [], []
        page.on("console", lambda message: page.told.append(message.text))
        page.on("pageerror", lambda error: page.told.append(str(error)))
        page.on("dialog", lambda dialog: (page.told.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: page.requests.append(request.url))
        pages.append(page)
        page.goto(files[sample].as_uri() + link, timeout=PATIENCE, wait_until="load")
        return page

    yield open_page
    for page in pages:
        assert page.told == []
        fetched = [url for url in page.requests if not url.startswith(("file:", "data:image/png"))]
        assert (
            fetched == []
            and len({url.split("#")[0] for url in page.requests if url.startswith("file:")}) == 1
        )
        page.context.close()


def shown_rows(page, block=".filtered"):
    return page.locator(f"{block} >> nth=0").locator(".row:visible").count()


@pytest.mark.parametrize("sample", SAMPLES)
def test_no_page_scrolls_sideways(sample, opened):
    page = opened(sample)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    for language in ("English", "中文"):
        page.get_by_label(language).check()
        for width in WIDTHS:
            page.set_viewport_size({"width": width, "height": 900})
            too_wide = page.evaluate("document.documentElement.scrollWidth - innerWidth")
            assert too_wide <= 0, (width, language)


@pytest.mark.parametrize("sample", ["red_forward", "red_training", "red_data"])
def test_it_says_what_the_text_says(sample, opened):
    report = SAMPLES[sample]()
    page = opened(sample)
    assert page.locator("h1").inner_text().strip() == report["verdict"] == page.title()
    seen = page.locator("main").inner_text()
    for part in report["parts"]:
        assert part["verdict"] in seen
        for finding in part["findings"]:
            for each in ("where", "quantity", "port", "reference", "hint", "text"):
                assert finding[each] in seen
            title = f"{finding['title']}: " if finding["title"] else ""
            assert f"{title}{finding['text']}" in seen
    for part in report["parts"]:
        # In words, beside the colour.
        point = page.locator(f".point[href='#{part['name']}']")
        assert part["status"] in point.inner_text()


def test_first_screen(opened):
    page = opened("red_forward")
    for selector in ("h1", ".points", ".limits .count", ".power"):
        box = page.locator(selector).bounding_box()
        assert box["y"] + box["height"] <= 900, selector
    assert "30-fold" in page.locator(".power").inner_text()
    assert page.locator(".limits .count").inner_text() == "3"
    line = SAMPLES["red_forward"]()["parts"][1]["not_compared"][0]
    assert not page.get_by_text(line).first.is_visible()
    page.locator(".left-out summary").click()
    assert page.locator(".left-out").get_by_text(line).is_visible()


def test_the_first_layer_that_differs_is_marked_with_its_settings(opened):
    page = opened("red_forward")
    card = page.locator(".first-layer")
    assert "features.1.block.0.1" in card.inner_text()
    assert card.locator(".settings .differs").inner_text().split() == ["epsilon", "1e-05", "0.001"]
    assert card.locator(".settings tbody tr").count() == 2
    assert card.locator(".statistics tbody tr").count() == 4
    assert page.locator(".layers .row.first code").inner_text() == "features.1.block.0.1"
    assert page.locator(".chart .here").count() == 1
    assert page.locator(".findings a").first.get_attribute("href") == (
        "#01_test_forward.features.1.block.0.1"
    )


def test_without_scripts_the_result_can_be_read(opened):
    """As in the page viewers of CI servers, which allow none."""
    page = opened("red_forward", java_script_enabled=False)
    assert page.locator("h1").inner_text().startswith("Not aligned")
    assert page.locator(".first-layer .settings .differs").is_visible()
    assert page.locator(".layers .row").first.is_visible()


def test_filters(opened):
    page = opened("red_forward")
    block = page.locator(".filtered").first
    assert shown_rows(page) == 60 and block.locator(".shown").inner_text() == "60 of 60 shown"
    assert block.locator(".shown").get_attribute("aria-live") == "polite"
    block.get_by_label("Name").fill("BLOCK.1.2")
    assert shown_rows(page) == 10 and block.locator(".shown").inner_text() == "10 of 60 shown"
    block.get_by_label("Name").fill("")
    block.get_by_label("differs only").check()
    assert shown_rows(page) == 53
    block.get_by_label("Kind").select_option("BatchNorm2D")
    rows = block.locator(".row:visible")
    assert {rows.nth(i).get_attribute("data-kind") for i in range(rows.count())} == {"BatchNorm2D"}
    assert rows.count() == 18
    block.get_by_label("Name").fill("no such layer")
    assert shown_rows(page) == 0 and block.locator(".shown").inner_text() == "0 of 60 shown"
    weights = page.locator(".filtered").nth(1)
    weights.locator("summary").click()
    weights.get_by_label("Rule").select_option("ignored")
    assert weights.locator(".row:visible").count() == 1


def test_a_row_opens_by_keyboard_and_shows_both_sides(opened):
    page = opened("red_forward")
    button = page.get_by_role("button", name="features.0.block.0.1", exact=True)
    button.focus()
    page.keyboard.press("Enter")
    assert button.get_attribute("aria-expanded") == "true"
    more = page.locator(".more")
    assert more.locator(".settings tbody tr").count() == 2
    assert more.locator(".settings .differs").count() == 0
    assert more.locator(".statistics tbody tr").count() == 4
    page.locator(".filtered").first.get_by_label("differs only").check()
    assert not more.is_visible()
    page.locator(".filtered").first.get_by_label("differs only").uncheck()
    assert more.is_visible()
    page.keyboard.press("Escape")
    button.press("Enter")
    assert not more.is_visible()


@pytest.mark.parametrize("sample", ["green", "red_forward"])
@pytest.mark.parametrize("link", ["#01_test_forward.features.9.block.1.2", "#features.9.block.1.2"])
def test_a_link_to_a_layer_opens_it(sample, link, opened):
    """Also where the list is folded up, and by the layer's name alone."""
    page = opened(sample, link)
    row = page.locator("[id='01_test_forward.features.9.block.1.2']")
    row.wait_for(state="visible")
    assert row.evaluate("each => each === document.activeElement")
    assert row.locator(".open").get_attribute("aria-expanded") == "true"
    page.wait_for_function(
        "each => { const { top, bottom } = each.getBoundingClientRect();"
        " return top >= 0 && bottom <= innerHeight; }",
        arg=row.element_handle(),
    )


def test_a_link_finds_a_layer_that_is_filtered_out(opened):
    page = opened("red_forward")
    page.locator(".filtered").first.get_by_label("Name").fill("features.9")
    page.locator(".first-layer a").click()
    row = page.locator(".row.first")
    row.wait_for(state="visible")
    assert shown_rows(page) == 60


def test_each_link_has_its_target(opened):
    for sample in SAMPLES:
        page = opened(sample)
        missing = page.evaluate(
            "[...document.querySelectorAll('a[href]')].map(each => each.getAttribute('href'))"
            ".filter(link => !link.startsWith('#')"
            " || document.getElementById(decodeURIComponent(link.slice(1))) === null)"
        )
        assert missing == [], sample
        page.context.close()


def test_ids_are_the_same_in_a_link(opened):
    assert anchor("features.4.block-1_a") == "features.4.block-1_a"
    ids = {anchor(name) for name in [*HOSTILE, "a b", "a~20b", "a%20b"]}
    assert len(ids) == len(HOSTILE) + 3
    for each in ids:
        assert re.fullmatch(r"[A-Za-z0-9._~-]*", each)
    page = opened("hostile")
    for name in HOSTILE:
        assert page.locator(f"[id='compare.{anchor(name)}']").count() == 1


def test_language(opened):
    page = opened("red_forward")
    page.evaluate("window.before = 1")
    page.get_by_label("中文").check()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    assert page.locator("h1").inner_text().strip().startswith("未对齐：先看 01_test_forward")
    assert page.title().startswith("未对齐")
    assert page.locator(".point").first.inner_text().split() == ["01", "前向", "未对齐", "4.2", "s"]
    block = page.locator(".filtered").first
    assert block.locator(".shown").inner_text() == "显示 60 / 60"
    block.get_by_label("名称").fill("features.9")
    assert block.locator(".shown").inner_text() == "显示 6 / 60"
    assert page.locator(".chart").first.get_attribute("aria-label").startswith("逐层相对误差")
    # As the next page that is opened: remembered, without a reload before.
    assert page.evaluate("window.before") == 1
    page.reload()
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    page.get_by_label("English").check()
    assert page.locator("h1").inner_text().startswith("Not aligned")
    assert page.locator(".chart").first.get_attribute("aria-label").startswith("Relative error")


def test_language_of_the_browser(opened):
    assert opened("green", locale="zh-CN").locator("h1").inner_text().startswith("已对齐")


def test_each_fixed_text_is_there_in_both_languages(opened):
    page = opened("hostile")
    pairs = page.evaluate(
        "[...document.querySelectorAll('.l[lang=en]')].map("
        "each => [each.textContent, each.nextElementSibling.textContent])"
    )
    assert len(pairs) > 100
    for english, chinese in pairs:
        assert english.strip() and re.search("[\u4e00-\u9fff]", chinese), english
        assert not re.search("[\u4e00-\u9fff]", english), english


def test_theme(opened):
    page = opened("green")
    background = "getComputedStyle(document.body).backgroundColor"
    light = page.evaluate(background)
    page.get_by_role("radio", name="Dark").check()
    dark = page.evaluate(background)
    assert dark != light
    page.reload()
    assert page.evaluate(background) == dark
    page.get_by_role("radio", name="Light").check()
    assert page.evaluate(background) == light
    page.get_by_role("radio", name="Auto").check()
    page.emulate_media(color_scheme="dark")
    assert page.evaluate(background) == dark


CONTRAST = """
() => {
  const parse = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = ([r, g, b]) => {
    const [x, y, z] = [r, g, b].map((v) => v / 255).map(
      (v) => (v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4));
    return 0.2126 * x + 0.7152 * y + 0.0722 * z;
  };
  const behind = (each) => {
    for (let at = each; at; at = at.parentElement) {
      const colour = parse(getComputedStyle(at).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const each of document.querySelectorAll("body *")) {
    const own = [...each.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    if (!own || !each.checkVisibility({ contentVisibilityAuto: false })) continue;
    const style = getComputedStyle(each);
    const ink = parse(each instanceof SVGElement ? style.fill : style.color);
    const [a, b] = [luminance(ink), luminance(behind(each))];
    const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    found.push([ratio, each.className.toString(), each.textContent.slice(0, 40)]);
  }
  return found;
}
"""


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_contrast(scheme, opened):
    """WCAG AA, of every text."""
    for sample in ("green", "red_forward", "red_training", "red_data"):
        page = opened(sample, color_scheme=scheme)
        page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
        found = page.evaluate(CONTRAST)
        assert len(found) > 50
        assert [each for each in found if each[0] < 4.5] == [], sample
        page.context.close()


MISTAKES = """
() => {
  const all = (selector) => [...document.querySelectorAll(selector)];
  const name = (each) => each.getAttribute("aria-label")
    || [...(each.labels ?? [])].map((label) => label.innerText).join("").trim()
    || each.innerText.trim();
  const found = [];
  const require = (selector, holds, what) => {
    for (const each of all(selector)) {
      if (!holds(each)) found.push([what, each.outerHTML.slice(0, 90)]);
    }
  };
  require("table", (each) => each.caption?.innerText.trim(), "a caption");
  require("th", (each) => each.scope, "a scope");
  require("input, select, button", name, "a name");
  require("img", (each) => each.alt, "a text");
  require("[role=img], [role=region], nav", (each) => each.getAttribute("aria-label"), "a label");
  const labels = (each) => document.getElementById(each.getAttribute("aria-labelledby"));
  require("[aria-labelledby]", labels, "what labels it");
  require("svg", (each) => each.closest("[aria-hidden], [role=img]"), "to be left out or labelled");
  const ids = new Set();
  require("[id]", (each) => !ids.has(each.id) && ids.add(each.id), "an id of its own");
  let level = 0;
  require("h1, h2, h3, h4", (each) => {
    const earlier = level;
    level = Number(each.tagName[1]);
    return level <= earlier + 1;
  }, "a level above it");
  for (const tag of ["h1", "header", "main", "nav", "footer"]) {
    if (all(tag).length !== 1) found.push(["once", tag]);
  }
  return found;
}
"""


@pytest.mark.parametrize("sample", [name for name in SAMPLES if name != "large"])
def test_what_a_screen_reader_needs(sample, opened):
    page = opened(sample)
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    page.evaluate("document.querySelector('.open')?.click()")
    assert page.evaluate(MISTAKES) == []


def test_keyboard(opened):
    page = opened("red_forward")
    page.keyboard.press("Tab")
    assert page.evaluate("document.activeElement.className") == "skip"
    page.keyboard.press("Tab")
    page.keyboard.press("ArrowRight")
    assert page.locator("html").get_attribute("lang") == "zh-Hans"
    for _ in range(3):
        page.keyboard.press("Tab")
    assert "point" in page.evaluate("document.activeElement.className")
    width = "parseFloat(getComputedStyle(document.activeElement).outlineWidth)"
    assert page.evaluate(width) >= 2
    page.keyboard.press("Enter")
    assert page.evaluate("location.hash") == "#02_test_data"


def test_hostile_names_do_nothing(opened):
    page = opened("hostile")
    page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    for each in page.locator(".open").all():
        each.click()
    page.get_by_label("中文").check()
    page.get_by_label("English").check()
    for made in ("img:not([src^='data:image/png'])", "[onload]", "main script:not([type])"):
        assert page.locator(made).count() == 0
    shown = page.locator("main").inner_text()
    for name in ("<script>alert(1)</script>", '"><img src=x onerror=alert(2)>', "{{ 7 * 7 }}"):
        assert shown.count(name) > 10
    assert "\u202e" not in page.content() and "\\u202e" in shown
    more = page.locator(".more .settings td").first
    assert more.inner_text() == "<script>alert(1)</script>"


def test_what_is_no_picture_is_not_shown(opened):
    page = opened("red_data")
    images = page.locator("img")
    assert images.count() == 3
    sizes = [images.nth(i).evaluate("each => [each.naturalWidth, each.width]") for i in range(3)]
    assert all(natural == 48 and shown > 200 for natural, shown in sizes)
    assert images.first.evaluate("each => getComputedStyle(each).imageRendering") == "pixelated"
    assert "example.com" not in page.content()
    assert "CenterCrop" in page.locator(".images").inner_text()


def test_nothing_else_is_run_or_fetched(opened):
    """Were something not escaped, the page's policy would still stop it."""
    page = opened("green")
    page.evaluate(
        """() => {
            const script = document.createElement("script");
            script.textContent = "window.hit = 1";
            const image = new Image();
            image.src = "https://127.0.0.1:9/x.png";
            document.body.append(script, image);
        }"""
    )
    page.wait_for_timeout(200)
    assert page.evaluate("window.hit") is None
    assert len(page.told) == 2 and all("Content Security Policy" in each for each in page.told)
    page.told.clear()
    page.requests[:] = [url for url in page.requests if not url.startswith("https://127.0.0.1")]


def test_five_hundred_layers(files, opened):
    assert files["large"].stat().st_size < MOST_BYTES
    page = opened("large", "#features.80.block.1.0")
    row = page.locator("[id='01_test_forward.features.80.block.1.0']")
    row.wait_for(state="visible", timeout=PATIENCE)
    assert shown_rows(page) == 500
    page.locator(".filtered").first.get_by_label("differs only").check()
    assert shown_rows(page) == 299


def test_what_findings_have_in_common_is_told_once(browser, tmp_path):
    report = report_samples.red_forward()
    part = report["parts"][0]
    common = {"detail": ["in step 0"], "hint": "the biased variance"}
    names = [layer["name"] for layer in part["layers"]]
    part["findings"] = [
        report_samples.finding("training", f"{name}._variance", "running statistic", **common)
        for name in names
    ]
    part["findings"][0]["where"] = f"{names[0]} and 59 more"
    write_page(report, tmp_path / "report.html")
    page = browser.new_page()
    page.goto((tmp_path / "report.html").as_uri())
    assert page.locator(".findings").get_by_text("the biased variance").count() == 1
    assert page.locator(".findings").get_by_text("in step 0").count() == 1
    rows = page.locator(".findings th a")
    assert rows.count() == 60 and not rows.last.is_visible()
    page.get_by_text("48 more differences").click()
    assert rows.last.is_visible()
    assert rows.first.get_attribute("href") == f"#01_test_forward.{names[0]}"
    assert rows.last.get_attribute("href") == f"#01_test_forward.{names[-1]}"
    page.close()


def test_weights_are_told_once(opened):
    page = opened("large")
    assert page.locator(".weights").count() == 1
    page.get_by_role("link", name="01_test_forward", exact=True).click()
    row = page.locator(".weights .row").first
    row.wait_for(state="visible", timeout=PATIENCE)
    assert "features.0.block.0.0.weight" in row.inner_text()


def test_what_was_not_run_is_not_compared(opened):
    page = opened("red_data")
    points = page.locator(".point")
    states = [points.nth(i).locator(".state").inner_text().strip() for i in range(points.count())]
    assert states == [
        "not run",
        "not aligned",
        "not aligned",
        "could not run",
        "not run",
        "not run",
    ]
    assert page.locator(".limits .count").inner_text() == str(3 + 1)
    page.locator(".left-out summary").click()
    assert "05_test_backward" in page.locator(".left-out").inner_text()
    assert opened("hostile").locator(".point").count() == 1  # compare alone


def test_training_charts(opened):
    page = opened("red_training")
    part = page.locator("section[aria-labelledby=align_training]")
    assert "Over the bound from step 4 on" in part.inner_text()
    update = part.locator(".heat tbody tr", has_text="update").locator("td")
    assert update.count() == 12
    marked = ["▲" in update.nth(i).inner_text() for i in range(12)]
    assert marked == [False] * 4 + [True] * 8
    assert part.locator(".curve.port").count() == 2 and part.locator(".band").count() == 1


def test_on_paper(opened):
    page = opened("red_forward", color_scheme="dark")
    page.emulate_media(media="print")
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
    for selector in (".switches", ".filters", ".open"):
        assert not page.locator(selector).first.is_visible()
    page.set_viewport_size({"width": 688, "height": 1000})  # A4 without its margins, at 96 dpi
    too_wide = page.evaluate(
        "[...document.querySelectorAll('table')].map(each => each.getBoundingClientRect())"
        ".filter(place => place.right > 688).length"
    )
    assert too_wide == 0
    assert page.evaluate("document.documentElement.scrollWidth") <= 688
    assert page.pdf(prefer_css_page_size=True).startswith(b"%PDF")


def test_written_whole_or_not_at_all(tmp_path):
    path = tmp_path / "report.html"
    path.write_text("before")
    with pytest.raises(KeyError):
        write_page({"aligned": True}, path)
    assert path.read_text() == "before"
    write_page(report_samples.green(), path)
    assert path.read_text(encoding="utf-8").startswith("<!DOCTYPE html>")
    assert [each.name for each in tmp_path.iterdir()] == ["report.html"]
    with pytest.raises(CannotRun, match=r"cannot write .*report.html"):
        write_page(report_samples.green(), path / "report.html")


def test_the_report_is_left_as_it_was():
    report = report_samples.red_forward()
    render_page(report)
    assert report == report_samples.red_forward()
