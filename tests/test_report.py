"""The report: a page that holds whatever names hold, is whole or not there, and works in a browser."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import os
import re
import threading
import time
from collections.abc import Callable, Iterator
from functools import cache
from html.parser import HTMLParser
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
import pytest
from browser import CHROMIUM, DRIVER, Browser, chromium
from conftest import IMAGES, Terminal, wait_for
from fakes import FakeDoor, picture
from PIL import Image

from clipcls.cli.commands import COMMANDS
from clipcls.cli.report import report
from clipcls.errors import OutputError
from clipcls.evaluation import Ranked, evaluate
from clipcls.probe import Curve, Shots
from clipcls.records import Failure, ImageRef, Prediction, Score
from clipcls.report import Figure, Item, Page, Probe, Truth, expected_size, link, render, thumbnails, write
from clipcls.sources import file_ref

Install = Callable[..., FakeDoor]
NASTY = (
    "</script><script>document.title='run'</script><img src=x onerror=\"document.title='run'\">'&amp;\u2028\u202e.jpg"
)


@cache
def stamp(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (160, 120)) -> bytes:
    """A thumbnail."""
    out = io.BytesIO()
    Image.new("RGB", size, colour).save(out, "WEBP")
    return out.getvalue()


def item(path: str, *ranked: tuple[str, float], sure: bool = True, **facts: Any) -> Item:
    scores = tuple(Score(label, probability, probability / 3) for label, probability in ranked)
    answer = (scores[0].label,) if sure else ()
    return Item(path, "ok" if sure else "uncertain", answer, scores, **{"thumbnail": stamp()} | facts)


class Parsed(HTMLParser):
    """A page as a browser parses it."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tags: list[str] = []
        self.data: dict[str, list[Any]] = {"page": [], "items": [], "thumbnails": []}
        self.scripts: list[str] = []
        self.styles: list[str] = []
        self.policy = self.title = self._into = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        facts = dict(attrs)
        self.tags.append(tag)
        self._into = tag
        if tag == "meta" and facts.get("http-equiv"):
            self.policy = facts["content"] or ""
        if tag == "script" and facts["type"] == "application/json":
            self._into = facts.get("id") or facts["class"] or ""

    def handle_data(self, data: str) -> None:
        if self._into in self.data:
            self.data[self._into].append(json.loads(data))
        elif self._into in ("script", "style"):
            (self.scripts if self._into == "script" else self.styles).append(data)
        elif self._into == "title":
            self.title += data
        self._into = ""

    @property
    def items(self) -> list[Any]:
        return [row for block in self.data["items"] for row in block]

    @property
    def sources(self) -> list[str]:
        return [url for block in self.data["thumbnails"] for url in block]


def parsed(page: Page) -> Parsed:
    return Parsed("".join(render(page)))


def digest(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"


# What the page holds


def test_names_are_text_and_the_only_script_is_the_pages_own() -> None:
    nasty = item(NASTY, (NASTY, 0.9), ("b", 0.1), truth=NASTY, link="./a%20b")
    failed = Item(NASTY, "error", error=NASTY)
    page = Page(title=NASTY, items=(nasty, failed), labels=(NASTY, "b"), about=(("model", NASTY), ("labels", (NASTY,))))
    found, plain = parsed(page), parsed(Page(title="", items=(item("a", ("b", 1.0)),)))
    assert found.tags == plain.tags and len(found.scripts) == len(found.styles) == 1
    assert f"script-src {digest(found.scripts[0])}" in found.policy
    assert f"style-src {digest(found.styles[0])}" in found.policy
    assert "default-src 'none'" in found.policy and "unsafe" not in found.policy
    assert found.title == NASTY
    assert found.items[0]["path"] == found.items[1]["error"] == found.items[0]["ranked"][0][0] == NASTY
    assert found.data["page"][0]["about"] == [["model", NASTY], ["labels", [NASTY]]]


def test_it_names_no_other_place() -> None:
    text = "".join(render(Page(title="t", items=(item("a", ("b", 1.0)),))))
    assert set(re.findall(r"\w+://[^\s\"']*", text)) == {"http://www.w3.org/2000/svg"}


def test_text_that_is_not_unicode_is_told() -> None:
    found = parsed(Page(title="t", items=(item("a\udcff\ud800\0.jpg", ("b", 1.0)),)))
    assert found.items[0]["path"] == "a\\xff\\ud800\\x00.jpg"


def test_rows_say_what_the_records_say() -> None:
    ranked = (Score("cat", 0.6, 0.3), Score("dog", 0.4, 0.2))
    records = (
        Prediction("a", ranked),
        Prediction("b", ranked, sure=()),
        Prediction("c", (Score("cat", 0.2, 0.1),), sure=()),
        Prediction("d", ranked, sure=("cat", "dog")),
        Failure("e", "the file is empty"),
    )
    rows = parsed(Page(title="t", items=map(Item.of, records), threshold=0.5)).items
    assert [row.get("answer") for row in rows] == [["cat"], None, None, ["cat", "dog"], None]
    assert [row.get("held", False) for row in rows] == [False, True, False, False, False]  # no slider changes a margin
    assert rows[0]["ranked"] == [["cat", 0.6, 0.3], ["dog", 0.4, 0.2]] and rows[4]["error"] == "the file is empty"


def test_items_are_taken_as_the_page_is_written() -> None:
    taken = 0

    def items() -> Iterator[Item]:
        nonlocal taken
        for at in range(2000):
            taken = at
            yield item(f"{at}.jpg", ("a", 1.0))

    pieces = render(Page(title="t", items=items()))
    next(piece for piece in pieces if "0.jpg" in piece)
    assert taken < 1000
    assert sum(piece.count('"path":') for piece in pieces) >= 1700


def test_the_evaluation_becomes_the_truth() -> None:
    answers = Ranked(np.array([[0, 1], [1, 0], [0, 1]]), np.array([0.9, 0.8, 0.6]))
    found = evaluate(answers, np.array([0, 1, 1]), ("a", "b"))
    curve = Curve(3, 2 / 3, (Shots(1, 2, 0.5, 0.1, 5), Shots(None, 9, 0.9, 0.0, 1)))
    truth = Truth.of(found, curve)
    assert truth.labels == ("a", "b") and truth.confusion == ((1, 0), (1, 1))
    assert [each.name for each in truth.figures] == ["top1", "recall", "macro_f1", "ece"]
    assert truth.probe == Probe(2 / 3, ((1, 0.5, 0.1), (None, 0.9, 0.0)))
    shown = parsed(Page(title="t", items=(), truth=truth)).data["page"][0]["truth"]
    assert (
        shown["confusion"] == [[1, 0], [1, 1]] and len(shown["bins"]) == 15 and shown["probe"]["points"][1][0] is None
    )


# Writing


def test_a_page_is_there_whole_or_not_at_all(here: Path) -> None:
    def broken() -> Iterator[Item]:
        yield item("a", ("b", 1.0))
        raise RuntimeError

    with pytest.raises(RuntimeError):
        write(Page(title="t", items=broken()), here / "r.html")
    assert not list(here.iterdir())
    size = write(Page(title="one", items=()), here / "r.html")
    assert (here / "r.html").stat().st_size == size
    with pytest.raises(OutputError, match=r"r\.html exists: --overwrite replaces it"):
        write(Page(title="two", items=()), here / "r.html")
    with pytest.raises(RuntimeError):
        write(Page(title="two", items=broken()), here / "r.html", overwrite=True)
    assert "<title>one" in (here / "r.html").read_text("utf-8")
    write(Page(title="two", items=()), here / "r.html", overwrite=True)
    assert "<title>two" in (here / "r.html").read_text("utf-8") and len(list(here.iterdir())) == 1


@pytest.mark.parametrize(
    ("name", "reason"), [("no/r.html", "there is no folder no"), ("sub", "is a folder"), ("sub/a/r.html", "no folder")]
)
def test_a_place_that_cannot_be_written(here: Path, name: str, reason: str) -> None:
    (here / "sub").mkdir()
    with pytest.raises(OutputError, match=reason):
        write(Page(title="t", items=()), Path(name))


def test_what_the_system_refuses_is_told(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    page = Page(title="t", items=())
    with pytest.raises(OutputError, match="cannot be written: File name too long; name another place"):
        write(page, here / ("y" * 250 + ".html"))
    (here / "file").write_text("mine")
    with pytest.raises(OutputError, match="file is no folder; name another one for the thumbnails"):
        write(page, here / "r.html", thumbnails=here / "file")
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # to the tests' own root everything is open
    with pytest.raises(OutputError, match=r"r\.html: the folder .* cannot be written to"):
        write(page, here / "r.html")
    assert [path.name for path in here.iterdir()] == ["file"]


def test_thumbnails_in_a_folder(here: Path) -> None:
    (here / "out").mkdir()
    folder = here / "缩 #1%"
    items = [item(f"{at}", ("a", 1.0), thumbnail=None if at % 2 else stamp()) for at in range(600)]
    write(Page(title="t", items=items), here / "out" / "r.html", thumbnails=folder)
    found = Parsed((here / "out" / "r.html").read_text("utf-8"))
    links = [url for url in found.sources if url]
    assert len(found.sources) == 600 and len(links) == len(set(links)) == len(list(folder.iterdir())) == 300
    assert links[0] == "./../%E7%BC%A9%20%231%25/000001.webp"
    assert (here / "out" / unquote(links[-1])).read_bytes() == stamp()
    assert "img-src data: 'self' file:;" in found.policy
    with pytest.raises(OutputError, match="is not empty"):
        write(Page(title="t", items=()), here / "again.html", thumbnails=folder)


def test_a_link_is_never_a_script_or_another_site(here: Path) -> None:
    for name in ("javascript:alert(1)", "https://a.b/c", "//a.b", "a b#?.jpg", "\udcff"):
        found = link(here / f"x/{name}", here / "r.html")
        assert found.startswith("./x/") and not set(found) & set("#?: \"'<>")


def test_the_size_is_known_before() -> None:
    items = [item(f"folder/IMG_{at:04}.jpg", ("cat", 0.9), ("dog", 0.1), thumbnail=bytes(4000)) for at in range(500)]
    real = sum(len(piece.encode()) for piece in render(Page(title="t", items=items)))
    bare = sum(len(piece.encode()) for piece in render(Page(title="t", items=())))
    assert real - bare == pytest.approx(expected_size(items[:64], 500), rel=0.05)


# Thumbnails


def test_thumbnails_are_small_upright_and_in_order(here: Path) -> None:
    sizes = [(40 + at, 20) for at in range(30)]
    refs: list[ImageRef | None] = [
        file_ref(str(picture(here / f"{at}.png", size=size)), str(here)) for at, size in enumerate(sizes)
    ]
    (here / "broken.jpg").write_bytes(b"no")
    refs[7:7] = [file_ref("broken.jpg", str(here)), file_ref("gone.jpg", str(here)), None]
    found = [data and Image.open(io.BytesIO(data)) for data in thumbnails(refs, workers=3)]
    assert found[7:10] == [None] * 3
    assert [image.size for image in found if image] == sizes

    turned = Image.new("RGB", (800, 400))
    exif = turned.getexif()
    exif[0x112] = 6
    turned.save(here / "turned.jpg", exif=exif)
    (data,) = thumbnails([file_ref("turned.jpg", str(here))])
    assert data and Image.open(io.BytesIO(data)).size == (80, 160) and len(data) < 5000


def test_few_thumbnails_are_made_ahead() -> None:
    opened = 0
    lock = threading.Lock()

    def open_one() -> io.BytesIO:
        nonlocal opened
        with lock:
            opened += 1
        return io.BytesIO(stamp())

    made = thumbnails((ImageRef(str(at), "/", None, open_one) for at in range(500)), workers=2)
    for _ in range(3):
        next(made)
    time.sleep(0.1)
    assert opened <= 3 + 4 * 2 + 1
    made.close()  # type: ignore[attr-defined]


# The command


@pytest.fixture
def imgs(here: Path) -> Path:
    picture(here / "imgs" / "r<b>.png", (255, 0, 0))
    picture(here / "imgs" / "b.png", (0, 0, 255))
    (here / "imgs" / "broken.png").write_bytes(b"nothing")
    return here / "imgs"


def test_its_help_is_the_line_that_is_listed() -> None:
    assert COMMANDS["report"] == (report.__doc__ or "").splitlines()[0]


@pytest.mark.parametrize("name", ["out.csv", "out.jsonl"])
def test_a_report_of_results(fake: Install, imgs: Path, clipcls: Terminal, name: str) -> None:
    fake()
    clipcls("classify", "imgs", "-l", "red,blue", "-k", "2", "-o", name, code=3)
    clipcls("report", name, "-o", "r.html", "--page-lang", "zh")
    assert re.fullmatch(r"wrote r\.html: 3 images, 0\.\d MB\n", clipcls.err) and not clipcls.out
    found = Parsed(Path("r.html").read_text("utf-8"))
    assert [row["path"] for row in found.items] == ["imgs/b.png", "imgs/broken.png", "imgs/r<b>.png"]
    assert [row.get("answer") for row in found.items] == [["blue"], None, ["red"]]
    assert [bool(url) for url in found.sources] == [True, False, True]
    assert found.items[2]["link"] == "./imgs/r%3Cb%3E.png" and len(found.items[2]["ranked"]) == 2
    page = found.data["page"][0]
    about = dict(page["about"])
    assert page["labels"] == about["labels"] == ["red", "blue"] and page["lang"] == "zh"
    assert about["model"] == "starter (fp32)" and about["prompts"] and found.title == "out"


def test_a_report_of_pictures(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    clipcls(
        *("report", "imgs", "-l", "red,blue", "-p", "a photo of {}", "-o", "r.html", "--threshold", "0.5"),
        *("--title", "Mine", "--thumbnails", "small", "-q"),
        code=3,
    )
    assert not clipcls.err
    found = Parsed(Path("r.html").read_text("utf-8"))
    about = dict(found.data["page"][0]["about"])
    assert about["prompts"] == ["a photo of {}"] and about["threshold"] == "0.5" and found.title == "Mine"
    assert len(found.items[0]["ranked"]) == 2 and found.data["page"][0]["threshold"] == 0.5
    assert len(list(Path("small").iterdir())) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["imgs"], 2, "give labels with --labels or --labels-file, or name a .csv"),
        (["gone.csv"], 3, "gone.csv"),
        (["out.csv", "-l", "cat"], 2, "out.csv is classified already: leave out --labels"),
        (["out.csv", "--page-lang", "fr"], 2, "unknown language 'fr': --page-lang is zh or en"),
        (["imgs", "-l", "red,blue", "-o", "out.csv"], 7, "out.csv exists: --overwrite replaces it"),
    ],
)
def test_mistakes_are_one_line(
    fake: Install, imgs: Path, clipcls: Terminal, words: list[str], code: int, message: str
) -> None:
    fake()
    clipcls("classify", "imgs", "-l", "red,blue", "-o", "out.csv", "-q", code=3)
    clipcls("report", *words, *([] if "-o" in words else ["-o", "r.html"]), code=code)
    (line,) = clipcls.err.splitlines()
    assert line.startswith("error: ") and message in line and not Path("r.html").exists()


class Keyboard(io.StringIO):
    """Somebody at a terminal."""

    def isatty(self) -> bool:
        return True


def test_a_large_page_is_asked_about(
    fake: Install, imgs: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    clipcls("classify", "imgs", "-l", "red,blue", "-o", "out.csv", "-q", code=3)
    monkeypatch.setattr("clipcls.cli.report._LARGE", 100)
    clipcls("report", "out.csv", "-o", "r.html", code=2)
    assert "r.html would have about 0.0 MB: --thumbnails DIR keeps the thumbnails beside it, --yes" in clipcls.err
    for answer, code in (("n\n", 0), ("", 130)):
        monkeypatch.setattr("sys.stdin", Keyboard(answer))
        clipcls("report", "out.csv", "-o", "r.html", code=code)
        assert "r.html would have about 0.0 MB (--thumbnails DIR keeps" in clipcls.err
    assert not list(Path().glob("r.html*"))
    monkeypatch.setattr("sys.stdin", Keyboard("y\n"))
    clipcls("report", "out.csv", "-o", "asked.html", "-q")
    assert Path("asked.html").is_file()
    clipcls("report", "out.csv", "-o", "r.html", "--yes", "-q")
    clipcls("report", "out.csv", "-o", "s.html", "--thumbnails", "small", "-q")


def test_pictures_that_have_gone_leave_their_rows(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    clipcls("classify", "imgs", "-l", "red,blue", "-o", "out.csv", "-q", code=3)
    (imgs / "b.png").unlink()
    clipcls("report", "out.csv", "-o", "r.html")
    found = Parsed(Path("r.html").read_text("utf-8"))
    assert found.sources[0] == "" and found.items[0]["answer"] == ["blue"]


# In a browser

needs_browser = pytest.mark.skipif(
    not (CHROMIUM and DRIVER), reason="needs Chromium and its chromedriver (Debian: chromium chromium-driver)"
)
LABELS = ("猫", "dog", "<b>ant</b>")
COUNT = 5000


def many() -> Iterator[Item]:
    """5,000 pictures: of every hundred one cannot be read, and four are uncertain."""
    stamps = [stamp((60 * at, 200 - 50 * at, 90)) for at in range(4)]
    for at in range(COUNT):
        if at % 100 == 99:
            yield Item(f"imgs/{at:04}.jpg", "error", error=NASTY)
            continue
        best, other = LABELS[at % 3], LABELS[(at + 1) % 3]
        probability = 0.4 if at % 25 == 7 else 0.6 + at % 40 / 100
        ranked = ((best, probability), (other, 1 - probability))
        truth = other if at % 10 == 0 else best
        name = NASTY if at == 0 else f"{at:04}.jpg"
        yield item(f"imgs/{name}", *ranked, sure=probability > 0.5, truth=truth, thumbnail=stamps[at % 4])


def whole() -> Page:
    truth = Truth(
        LABELS,
        (Figure("top1", 0.9, 0.89, 0.91), Figure("ece", 0.05)),
        ((1500, 150, 0), (0, 1500, 150), (150, 0, 1500)),
        tuple((at / 15, (at + 1) / 15, at, at / 15 + 0.03, at / 16) for at in range(15)),
        Probe(0.9, ((1, 0.5, 0.1), (2, 0.8, 0.1), (None, 0.95, 0.0))),
    )
    return Page(title=NASTY, items=many(), labels=LABELS, threshold=0.5, truth=truth, about=(("model", NASTY),))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Browser, Path]]:
    folder = tmp_path_factory.mktemp("browser")
    write(whole(), folder / "r.html")
    with chromium(folder, "--lang=en-US") as found:
        yield found, folder / "r.html"


@pytest.fixture
def browser(shared: tuple[Browser, Path]) -> Iterator[Browser]:
    """A browser that shows the page of 5,000, and at the end has had nothing to complain of."""
    found, page = shared
    found.devtools("Emulation.setDeviceMetricsOverride", width=1200, height=800, deviceScaleFactor=1, mobile=False)
    found.emulate("prefers-color-scheme", "light")
    found("url", url="about:blank")
    found.log("browser"), found.log("performance")
    found.open(page)
    yield found
    assert not found.log("browser")
    events = [json.loads(entry["message"])["message"] for entry in found.log("performance")]
    asked = [each["params"]["request"]["url"] for each in events if each["method"] == "Network.requestWillBeSent"]
    assert {url for url in asked if not url.startswith("data:")} == {page.as_uri()}
    assert not [each for each in events if each["method"] == "Page.javascriptDialogOpening"]


def choose(browser: Browser, name: str, value: str | float) -> None:
    """Set a control, and tell the page as a person's touch does."""
    browser.run(
        "const node = document.getElementById(arguments[0]); node.value = arguments[1];"
        "for (const kind of ['input', 'change']) node.dispatchEvent(new Event(kind, {bubbles: true}));",
        name,
        value,
    )


def groups(browser: Browser) -> dict[str, int]:
    script = "return [...document.querySelectorAll('h3')].map((each) => [...each.children].map((n) => n.textContent))"
    return {name: int(count.replace(",", "")) for name, count in browser.run(script)}


def in_view(browser: Browser) -> None:
    browser.run("document.querySelector('.toolbar').scrollIntoView(); dispatchEvent(new Event('scroll'))")
    wait_for(lambda: browser.run("return document.querySelectorAll('.tile img').length > 5"))


def focused(browser: Browser, fact: str) -> Any:
    return browser.run(f"return document.activeElement.{fact}")


@needs_browser
def test_five_thousand_pictures_are_there_within_two_seconds(browser: Browser) -> None:
    assert browser.run("return performance.getEntriesByType('navigation')[0].loadEventEnd") < 2000
    assert groups(browser) == {"猫": 1584, "dog": 1583, "<b>ant</b>": 1583, "Uncertain": 200, "Unreadable": 50}
    assert browser.text("#summary") == "5,000 pictures · 3 labels · 200 uncertain · 50 unreadable"
    in_view(browser)
    assert browser.run("return document.querySelectorAll('.tile').length") < 200
    assert browser.run("return [...document.images].filter((i) => i.src).every((i) => i.complete && i.naturalWidth)")


@needs_browser
def test_scrolling_to_any_place_builds_its_tiles(browser: Browser) -> None:
    took = browser.run(
        """
        const step = document.body.scrollHeight / 60, took = [];
        for (let at = 0; at <= 60; at++) {
          const began = performance.now();
          scrollTo(0, at * step);
          dispatchEvent(new Event("scroll"));  // else it comes with the next frame
          document.body.offsetHeight;
          took.push(performance.now() - began);
        }
        return took;
        """
    )
    assert sorted(took)[30] < 50  # milliseconds
    wait_for(lambda: browser.run("return document.querySelectorAll('.tile.broken').length"))
    assert browser.run("return document.querySelectorAll('.tile').length") < 200


@needs_browser
def test_names_do_nothing(browser: Browser) -> None:
    in_view(browser)
    choose(browser, "search", "onerror")
    wait_for(lambda: browser.run("return document.querySelectorAll('.tile').length") == 1)
    browser.run("document.querySelector('.tile').click()")
    assert browser.text("#view-name") == f"imgs/{NASTY}"
    choose(browser, "search", "")
    choose(browser, "status", "error")
    browser.run("document.getElementById('view').close(); document.querySelector('.tile').click()")
    assert NASTY in browser.text(".verdict")
    assert browser.run("return document.title") == NASTY
    assert browser.run("return document.querySelectorAll('img[onerror], b b, #gallery script').length") == 0


@needs_browser
def test_the_filters_change_what_is_shown(browser: Browser) -> None:
    choose(browser, "label", "dog")
    assert set(groups(browser)) == {"dog", "Uncertain"} and groups(browser)["dog"] == 1583
    choose(browser, "status", "ok")
    assert groups(browser) == {"dog": 1583} and browser.text("#found").startswith("1,583 of 5,000")
    choose(browser, "search", "0001.JPG")
    assert groups(browser) == {"dog": 1}
    browser.run("document.getElementById('reset').click()")
    assert len(groups(browser)) == 5 and browser.run("return document.getElementById('search').value") == ""
    choose(browser, "status", "wrong")
    assert sum(groups(browser).values()) == 500
    choose(browser, "search", "nothing has this name")
    assert groups(browser) == {} and browser.text("#found") == "No picture fits these filters."


@needs_browser
def test_the_slider_moves_pictures_between_answered_and_uncertain(browser: Browser) -> None:
    counts = []
    for share in (0.3, 0.7, 1):
        choose(browser, "threshold", share)
        counts.append(groups(browser).get("Uncertain", 0))
    assert counts[0] == 0 and 1000 < counts[1] < 2000 and counts[2] == 4950
    assert browser.text("#share") == "100%"
    choose(browser, "threshold", 0.5)
    assert groups(browser)["Uncertain"] == 200


@needs_browser
def test_a_cell_of_the_confusion_matrix_shows_its_pictures(browser: Browser) -> None:
    browser.run("document.querySelectorAll('.confusion tbody tr')[1].querySelectorAll('button')[0].click()")
    assert browser.text("#found").endswith("that show dog and were called dog")
    assert browser.run("return document.querySelectorAll('.plots svg').length") == 2
    assert "90.0%" in browser.text(".figures")


@needs_browser
def test_the_keyboard_is_enough(browser: Browser) -> None:
    in_view(browser)
    columns = browser.run("return document.querySelector('.row').children.length")
    browser.run("document.querySelector('.tile[tabindex=\"0\"]').focus()")
    for key, place in (
        ("ArrowRight", 1),
        ("ArrowDown", 1 + columns),
        ("ArrowLeft", columns),
        ("ArrowUp", 0),
        ("ArrowUp", 0),
        ("End", 4999),
        ("ArrowUp", 4998),
        ("Home", 0),
    ):
        browser.press(key)
        assert int(focused(browser, "dataset.place")) == place
        box = browser.run("const b = document.activeElement.getBoundingClientRect(); return [b.top, b.bottom]")
        assert box[0] >= 60 and box[1] <= 800
    assert browser.run("return getComputedStyle(document.activeElement).outlineStyle") == "solid"
    assert browser.run("return document.querySelectorAll('.tile[tabindex=\"0\"]').length") == 1
    browser.press("ArrowRight")
    browser.press("Enter")
    first = browser.text("#view-name")
    assert browser.run("return document.getElementById('view').open")
    assert browser.run("return document.querySelectorAll('#view tbody tr').length") == 2
    browser.press("ArrowRight")
    assert browser.text("#view-name") != first
    browser.press("Escape")
    assert not browser.run("return document.getElementById('view').open")
    wait_for(lambda: focused(browser, "dataset.place") == "2")  # the browser tells of the closing a moment later


@needs_browser
def test_every_control_has_a_name(browser: Browser) -> None:
    in_view(browser)
    nameless = browser.run(
        "return [...document.querySelectorAll('button, input, select, a, dialog')].filter((each) => !("
        "each.getAttribute('aria-label') || each.getAttribute('aria-labelledby') || each.textContent.trim()"
        " || each.labels?.length)).map((each) => each.outerHTML)"
    )
    assert nameless == []


@needs_browser
def test_both_languages_and_both_themes(browser: Browser) -> None:
    assert browser.run("return document.documentElement.lang") == "en"
    browser.run("document.getElementById('lang').click()")
    assert browser.run("return document.documentElement.lang") == "zh"
    assert browser.text("#summary") == "5,000 张图片 · 3 个标签 · 200 张不确定 · 50 张无法读取"
    assert groups(browser)["不确定"] == 200

    def paper() -> str:
        return str(browser.run("return getComputedStyle(document.body).backgroundColor"))

    light = paper()
    browser.run("document.getElementById('theme').click()")
    dark = paper()
    browser.run("document.getElementById('theme').click()")
    assert paper() == light != dark
    browser.run("delete document.documentElement.dataset.theme")
    browser.emulate("prefers-color-scheme", "dark")
    assert paper() == dark


@needs_browser
def test_both_languages_have_the_same_words(browser: Browser) -> None:
    script = "".join(render(Page(title="", items=()))).partition("const TEXT = ")[2].partition("};\n")[0] + "}"
    shape = f"const t = {script}; const keys = (o) => Object.entries(o).flatMap(([k, v]) => v.constructor === Object ?"
    found = browser.run(shape + " keys(v).map((x) => k + '.' + x) : [k]); return [keys(t.en), keys(t.zh)]")
    assert found[0] == found[1] and len(found[0]) > 60


@needs_browser
def test_a_phone_shows_it_without_scrolling_sideways(browser: Browser) -> None:
    browser.devtools("Emulation.setDeviceMetricsOverride", width=390, height=844, deviceScaleFactor=2, mobile=True)
    in_view(browser)
    assert browser.run("return document.documentElement.scrollWidth") == 390
    assert browser.run("return document.querySelector('.row').children.length") == 3
    browser.run("document.getElementById('more').click()")
    assert browser.run("return document.getElementById('threshold').offsetHeight > 0")
    browser.run("document.querySelector('.tile').click()")
    box = browser.run("const b = document.getElementById('view').getBoundingClientRect(); return [b.width, b.height]")
    assert box == [390, 844]


@needs_browser
def test_a_page_can_begin_in_chinese(shared: tuple[Browser, Path], tmp_path: Path) -> None:
    browser, _ = shared
    write(Page(title="t", items=(item("a", ("b", 1.0)),), lang="zh"), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    assert browser.text("#summary") == "1 张图片 · 1 个标签"


@needs_browser
def test_several_labels_a_picture_follow_the_slider(shared: tuple[Browser, Path], tmp_path: Path) -> None:
    browser, _ = shared
    ranked = (Score("cat", 0.9, 0.3), Score("dog", 0.7, 0.2), Score("ant", 0.2, 0.1))
    records = (Prediction("both", ranked, sure=("cat", "dog")), Prediction("none", ranked[2:], sure=()))
    items = tuple(map(Item.of, records))
    write(Page(title="t", items=items, threshold=0.5, multi_label=True, lang="en"), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    assert groups(browser) == {"cat": 1, "dog": 1, "Uncertain": 1}
    assert browser.text(".picture") == "No thumbnail"
    for share, expected in ((0.8, {"cat": 1, "Uncertain": 1}), (0.1, {"cat": 1, "dog": 1, "ant": 2})):
        choose(browser, "threshold", share)
        assert groups(browser) == expected
    choose(browser, "label", "ant")
    assert groups(browser) == {"ant": 2}


@needs_browser
def test_a_picture_held_back_by_a_margin_stays_uncertain(shared: tuple[Browser, Path], tmp_path: Path) -> None:
    browser, _ = shared
    ranked = (Score("cat", 0.51, 0.3), Score("dog", 0.49, 0.3))
    items = (Item.of(Prediction("close", ranked, sure=())), Item.of(Prediction("mended", ranked, sure=("dog",))))
    write(Page(title="t", items=items, lang="en"), tmp_path / "r.html")
    browser.open(tmp_path / "r.html")
    for share, expected in (
        (0, {"dog": 1, "Uncertain": 1}),
        (0.2, {"dog": 1, "Uncertain": 1}),
        (0.6, {"Uncertain": 2}),
    ):
        choose(browser, "threshold", share)
        assert groups(browser) == expected


@needs_browser
def test_thumbnails_beside_the_page_are_shown(shared: tuple[Browser, Path], tmp_path: Path) -> None:
    browser, _ = shared
    page = Page(title="t", items=(item("a", ("b", 1.0)),))
    write(page, tmp_path / "r.html", thumbnails=tmp_path / "缩 #?%41")
    browser.open(tmp_path / "r.html")
    wait_for(lambda: browser.run("return document.querySelector('.tile img').naturalWidth") == 160)


def test_the_shipped_photographs_have_small_thumbnails() -> None:
    sizes = [len(data or b"") for data in thumbnails(file_ref(str(path), "/") for path in sorted(IMAGES.glob("*.jpg")))]
    assert max(sizes) < 8000
