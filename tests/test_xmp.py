"""Keywords in sidecars: what other programs wrote stays, to the byte."""

from __future__ import annotations

import re
import stat
import tarfile
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable
from pathlib import Path

import pytest
from conftest import Terminal
from fakes import FakeDoor, picture
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcls.errors import OutputError
from clipcls.labels import Label
from clipcls.sinks import durable
from clipcls.sinks.xmp import sidecar, with_keywords, write_keywords

Install = Callable[..., FakeDoor]
RDF = "{http://www.w3.org/1999/02/22-rdf-syntax-ns#}"
SUBJECT = "{http://purl.org/dc/elements/1.1/}subject"
HIERARCHICAL = "{http://ns.adobe.com/lightroom/1.0/}hierarchicalSubject"
TAGS = "{http://www.digikam.org/ns/1.0/}TagsList"

LIGHTROOM = """<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="Adobe XMP Core 7.0-c000 1.000000">
 <rdf:RDF xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#">
  <rdf:Description rdf:about=""
    xmlns:xmp="http://ns.adobe.com/xap/1.0/"
    xmlns:dc="http://purl.org/dc/elements/1.1/"
    xmlns:lr="http://ns.adobe.com/lightroom/1.0/"
    xmlns:crs="http://ns.adobe.com/camera-raw-settings/1.0/"
   xmp:Rating="4"
   crs:Exposure2012="+0.35"
   crs:Look='a "quoted" > name'>
   <dc:subject>
    <rdf:Bag>
     <rdf:li>holiday &amp; sea</rdf:li>
     <rdf:li>猫</rdf:li>
    </rdf:Bag>
   </dc:subject>
   <lr:hierarchicalSubject>
    <rdf:Bag>
     <rdf:li>places|sea</rdf:li>
    </rdf:Bag>
   </lr:hierarchicalSubject>
   <!-- a note -->
   <crs:ToneCurve>
    <rdf:Seq><rdf:li>0, 0</rdf:li></rdf:Seq>
   </crs:ToneCurve>
  </rdf:Description>
 </rdf:RDF>
</x:xmpmeta>
"""

DIGIKAM = """<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>
<x:xmpmeta xmlns:x="adobe:ns:meta/" x:xmptk="XMP Core 4.4.0-Exiv2"><R:RDF
 xmlns:R="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><R:Description R:about="uuid:1"
 xmlns:digiKam="http://www.digikam.org/ns/1.0/" xmlns:dublin="http://purl.org/dc/elements/1.1/"
 ><digiKam:TagsList><R:Seq><R:li>Familie/海</R:li></R:Seq></digiKam:TagsList><dublin:subject><R:Bag/></dublin:subject
 ></R:Description></R:RDF></x:xmpmeta>
<?xpacket end="w"?>"""

CAT, DOG = Label("猫", group="动物"), Label("dog", group="动物")
SKY = Label("sky")


def words(data: bytes, name: str) -> list[str | None]:
    return [item.text for found in ElementTree.fromstring(data).iter(name) for item in found.iter(f"{RDF}li")]


def keywords(path: str | Path, name: str = SUBJECT) -> list[str | None]:
    return words(Path(path).read_bytes(), name)


def rest(data: bytes, *added: str) -> bytes:
    """A sidecar without some items and without what clipcls describes of its own."""
    for word in added:
        data = re.sub(rb"\s*<\w+:li>" + re.escape(word.encode()) + rb"</\w+:li>", b"", data)
    return re.sub(rb"\s*<rdf:Description rdf:about=\"[^\"]*\"\s+xmlns:rdf.*?</rdf:Description>", b"", data, flags=re.S)


def test_a_new_sidecar(here: Path) -> None:
    write_keywords(Path("a.xmp"), [CAT, SKY])
    assert keywords("a.xmp") == ["猫", "sky"]
    assert keywords("a.xmp", HIERARCHICAL) == ["动物|猫"]
    assert keywords("a.xmp", TAGS) == []
    assert "猫" in Path("a.xmp").read_text("utf-8") and [path.name for path in here.iterdir()] == ["a.xmp"]


def test_what_lightroom_wrote_stays(here: Path) -> None:
    before = LIGHTROOM.encode()
    after = with_keywords(before, [CAT, DOG, SKY])
    assert words(after, SUBJECT) == ["holiday & sea", "猫", "dog", "sky"]
    assert words(after, HIERARCHICAL) == ["places|sea", "动物|猫", "动物|dog"]
    assert b"\n     <rdf:li>dog</rdf:li>\n     <rdf:li>sky</rdf:li>\n    </rdf:Bag>" in after
    assert rest(after, "dog", "sky", "动物|猫", "动物|dog") == rest(before)
    assert with_keywords(after, [CAT, DOG, SKY]) == after
    replaced = with_keywords(after, [DOG])
    assert words(replaced, SUBJECT) == ["holiday & sea", "猫", "dog"]  # the cat was there before us
    assert words(replaced, HIERARCHICAL) == ["places|sea", "动物|dog"]
    gone = with_keywords(replaced, [])
    assert words(gone, SUBJECT) == ["holiday & sea", "猫"] and words(gone, HIERARCHICAL) == ["places|sea"]
    assert with_keywords(gone, []) == gone and rest(gone) == rest(before)


def test_what_digikam_wrote_stays(here: Path) -> None:
    before = DIGIKAM.encode()
    after = with_keywords(before, [CAT, SKY])
    assert words(after, TAGS) == ["Familie/海", "动物/猫", "sky"]
    assert words(after, SUBJECT) == ["猫", "sky"] and words(after, HIERARCHICAL) == ["动物|猫"]
    assert after.startswith(before[: before.index(b"<R:Seq>")]) and after.endswith(b'<?xpacket end="w"?>')
    assert after.count(b'about="uuid:1"') == 2  # one resource, described twice
    assert with_keywords(after, [CAT, SKY]) == after
    assert words(with_keywords(after, [DOG]), TAGS) == ["Familie/海", "动物/dog"]


def test_another_program_may_write_the_sidecar_anew() -> None:
    after = with_keywords(LIGHTROOM.encode(), [DOG])
    tree = ElementTree.fromstring(after)
    anew = ElementTree.tostring(tree)  # other prefixes, other white space, no comments
    assert words(with_keywords(anew, [DOG]), SUBJECT) == ["holiday & sea", "猫", "dog"]
    assert words(with_keywords(anew, [SKY]), SUBJECT) == ["holiday & sea", "猫", "sky"]
    assert with_keywords(anew, [DOG]) == anew


def test_hostile_labels(here: Path) -> None:
    hostile = ["</rdf:li>&<>\"'", "]]>", "<!-- x", "&amp;", "a\nb", "=1+1", "😀\x00\ud800"]
    write_keywords(Path("a.xmp"), [Label(name) for name in hostile])
    assert keywords("a.xmp") == [*hostile[:4], "a\\x0ab", "=1+1", "😀\\x00\\ud800"]
    before = Path("a.xmp").read_bytes()
    write_keywords(Path("a.xmp"), [Label(name) for name in hostile])
    assert Path("a.xmp").read_bytes() == before


NAMES = st.lists(st.text(st.characters(exclude_characters="\ufffe\uffff"), min_size=1, max_size=5), max_size=4)


@given(NAMES, NAMES, st.sampled_from([LIGHTROOM, DIGIKAM]))
@settings(max_examples=60, deadline=None)
def test_any_labels_come_and_go(first: list[str], then: list[str], sidecar: str) -> None:
    before = sidecar.encode()
    data = with_keywords(before, [Label(name, group="g") for name in first])
    data = with_keywords(data, [Label(name) for name in then])
    own = words(before, SUBJECT)
    assert words(data, HIERARCHICAL) == words(before, HIERARCHICAL)
    assert words(data, SUBJECT)[: len(own)] == own
    assert words(with_keywords(data, []), SUBJECT) == own


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "no sound XML (line 1: no element found)"),
        ("<x:xmpmeta", "no sound XML"),
        (LIGHTROOM.replace("</dc:subject>", ""), "no sound XML (line 26"),
        ("<html/>", "it holds no XMP"),
        ('<!DOCTYPE x [<!ENTITY e "boom">]>' + LIGHTROOM, "it declares a document type"),
        ('<?xml version="1.0" encoding="GBK"?>' + LIGHTROOM.replace("猫", "x"), "it is not in UTF-8"),
        (re.sub("<rdf:Bag>.*?</rdf:Bag>", "sea", LIGHTROOM, count=1, flags=re.S), "its dc:subject is no list"),
        (LIGHTROOM.replace('xmp:Rating="4"', 'dc:subject="sea"'), "its dc:subject is no list"),
    ],
)
def test_what_cannot_be_merged_is_left_alone(here: Path, text: str, reason: str) -> None:
    Path("a.xmp").write_text(text, "utf-8")
    with pytest.raises(OutputError) as caught:
        write_keywords(Path("a.xmp"), [CAT])
    assert str(caught.value).startswith("a.xmp is left as it was: ") and reason in str(caught.value)
    assert Path("a.xmp").read_text("utf-8") == text
    for wide in (LIGHTROOM.encode("utf-16"), LIGHTROOM.replace("猫", "x").encode("utf-16-be")):
        Path("a.xmp").write_bytes(wide)
        with pytest.raises(OutputError, match="not in UTF-8"):
            write_keywords(Path("a.xmp"), [CAT])
    Path("folder.xmp").mkdir()
    with pytest.raises(OutputError, match=r"^folder\.xmp cannot be read: Is a directory$"):
        write_keywords(Path("folder.xmp"), [CAT])


def test_what_a_sidecar_is_called(here: Path) -> None:
    image = Path("a.b.jpg")
    assert sidecar(image, full=False) == Path("a.b.xmp") and sidecar(image, full=True) == Path("a.b.jpg.xmp")
    Path("a.b.jpg.xmp").touch()
    assert sidecar(image, full=False) == Path("a.b.jpg.xmp")
    Path("a.b.xmp").touch()
    assert sidecar(image, full=False) == Path("a.b.xmp")


# The command


@pytest.fixture
def imgs(here: Path) -> Path:
    picture(here / "imgs" / "红.png", (255, 0, 0))
    picture(here / "imgs" / "b.png", (0, 0, 255))
    picture(here / "imgs" / "b.jpg", (0, 0, 255))
    (here / "labels.toml").write_text('[[labels]]\nname = "red"\ngroup = "warm"\n[[labels]]\nname = "blue"\n', "utf-8")
    return Path("imgs")


def test_classify_writes_sidecars(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    words = ("classify", imgs, "--labels-file", "labels.toml", "--write-xmp")
    plain = clipcls(*words[:-1])
    assert not list(imgs.glob("*.xmp"))
    assert clipcls(*words) == plain
    assert sorted(path.name for path in imgs.glob("*.xmp")) == ["b.jpg.xmp", "b.png.xmp", "红.xmp"]
    assert keywords(imgs / "红.xmp") == ["red"] and keywords(imgs / "红.xmp", HIERARCHICAL) == ["warm|red"]
    assert keywords(imgs / "b.png.xmp") == ["blue"]
    written = {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in imgs.glob("*.xmp")}
    clipcls(*words)
    assert {path: (path.stat().st_mtime_ns, path.stat().st_ino) for path in written} == written
    clipcls("classify", imgs, "-l", "green,blue", "--threshold", "0.9", "--write-xmp")
    assert keywords(imgs / "红.xmp") == [] == keywords(imgs / "红.xmp", HIERARCHICAL)
    clipcls(*words, "--xmp-name", "full")
    assert keywords(imgs / "红.png.xmp") == ["red"]
    clipcls(*words, "--xmp-name", "long", code=2)
    assert "unknown --xmp-name 'long'" in clipcls.err


def test_uncertain_and_unreadable_images_get_none(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    (imgs / "broken.png").touch()
    clipcls("classify", imgs, "-l", "red,red wall", "--threshold", "0.99", "--write-xmp", code=3)
    assert not list(imgs.glob("*.xmp"))


def test_several_labels(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    clipcls("classify", imgs / "红.png", "-l", "red,red wall", "--multi-label", "--threshold", "0.01", "--write-xmp")
    assert sorted(map(str, keywords(imgs / "红.xmp"))) == ["red", "red wall"]


def test_a_sidecar_that_cannot_be_written_is_told(
    fake: Install, imgs: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake()
    (imgs / "红.xmp").write_text("<broken", "utf-8")
    rows = clipcls.rows("classify", imgs, "-l", "red,blue", "--write-xmp", code=7)
    assert len(rows) == 3 and keywords(imgs / "b.jpg.xmp") == ["blue"]
    assert "warning: imgs/红.xmp is left as it was: it is no sound XML" in clipcls.err.replace(f"{Path.cwd()}/", "")
    assert "error: 1 sidecar could not be written, for the reasons above; all other results are complete" in clipcls.err

    def read_only(path: Path, text: str) -> None:
        raise PermissionError(13, "Permission denied", str(path))

    (imgs / "红.xmp").unlink()
    monkeypatch.setattr("clipcls.sinks.xmp.write_whole", read_only)
    clipcls("classify", imgs / "红.png", "-l", "red,blue", "--write-xmp", "-o", "r.csv", code=7)
    assert "红.xmp cannot be written: Permission denied" in clipcls.err
    assert Path("r.csv").exists() and not (imgs / "红.xmp").exists()


def test_what_is_no_file_has_no_sidecar(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    with tarfile.open("b.tar", "w") as archive:
        archive.add(imgs / "b.png", "b.png")
        archive.add(imgs / "红.png", "红.png")
    clipcls("classify", "b.tar", imgs / "b.png", "-l", "red,blue", "--write-xmp", "--xmp-name", "full")
    assert [path.as_posix() for path in Path().rglob("*.xmp")] == ["imgs/b.png.xmp"]
    assert "warning: images without a sidecar: 2; rows of tables, members of archives" in clipcls.err


def test_a_sidecar_stays_open_to_whom_it_was(here: Path) -> None:
    Path("a.xmp").write_text(LIGHTROOM, "utf-8")
    Path("a.xmp").chmod(0o660)
    write_keywords(Path("a.xmp"), [SKY])
    assert stat.S_IMODE(Path("a.xmp").stat().st_mode) == 0o660 and "sky" in keywords("a.xmp")


def test_a_disk_that_fills_up_leaves_no_half_of_a_sidecar(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OutputError, match=r"^a\.xmp cannot be written: No space left"):
        write_keywords(Path("a.xmp"), [SKY])
    assert not list(here.iterdir())


def test_a_resumed_run_must_write_sidecars_as_well(fake: Install, imgs: Path, clipcls: Terminal) -> None:
    fake()
    words = ("classify", imgs, "-l", "red,blue", "-o", "r.jsonl")
    clipcls(*words, "--write-xmp")
    clipcls(*words, "--write-xmp", "--resume")
    assert "nothing to do" in clipcls.err
    clipcls(*words, "--resume", code=7)
    assert "write_xmp: short then, None now" in clipcls.err


def test_two_that_write_one_file_at_once_leave_it_whole(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = Path("a.xmp")

    def meanwhile(source: Path, target: Path) -> None:
        monkeypatch.setattr(durable, "move", move)
        with monkeypatch.context() as refusing, pytest.raises(OSError, match="full"):
            refusing.setattr("os.fsync", refused)
            durable.write_whole(path, "the other's")
        move(source, target)

    def refused(_: int) -> None:
        raise OSError(28, "full")

    move = durable.move
    monkeypatch.setattr(durable, "move", meanwhile)
    durable.write_whole(path, "ours")
    assert path.read_text() == "ours" and [each.name for each in Path().iterdir()] == ["a.xmp"]


def test_a_disk_that_keeps_no_permissions_keeps_sidecars(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Path("a.xmp").write_text("old")

    def refused(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    monkeypatch.setattr("shutil.copymode", refused)
    durable.write_whole(Path("a.xmp"), "new")
    assert Path("a.xmp").read_text() == "new"
