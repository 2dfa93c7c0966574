from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from clipcls.errors import ClipclsError, UsageError
from clipcls.labelfiles import FIELDS, LabelSet, load_labels, read_labels
from clipcls.labels import Label, is_chinese, label_set, parse_label, shared_names, split_labels


def names(*given: str | Label) -> list[str]:
    return [label.name for label in label_set(given)]


@pytest.mark.parametrize("text", ["大象,冰箱,蚂蚁", "大象，冰箱，蚂蚁", "大象、冰箱、蚂蚁", " 大象 ,，冰箱、, 蚂蚁,"])
def test_every_comma_separates(text: str) -> None:
    assert names(*split_labels(text)) == ["大象", "冰箱", "蚂蚁"]


def test_one_string_is_split_as_on_the_command_line() -> None:
    assert label_set("大象|象，冰箱、 polar  bear") == (
        Label("大象", synonyms=("象",)),
        Label("冰箱"),
        Label("polar bear"),
    )


def test_a_label_is_tidied_whatever_it_was_made_from() -> None:
    given_label = Label(" polar  bear ", " n1 ", ("ice\tbear", " "), " bear  (big) ", "a note", ("a {}",), "animals")
    assert label_set([given_label]) == (
        Label("polar bear", "n1", ("ice bear",), "bear (big)", "a note", ("a {}",), "animals"),
    )


def test_spaces_inside_a_label_stay() -> None:
    assert names(*split_labels("polar bear, C++")) == ["polar bear", "C++"]


def test_duplicates_are_dropped_with_one_warning(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert names("cat", "dog", " cat", "cat", "dog") == ["cat", "dog"]
    assert caplog.messages == ["dropped labels given more than once: cat, dog"]


def test_composed_and_decomposed_names_are_the_same_label() -> None:
    assert names("café", "cafe\u0301") == ["café"]


def test_labels_with_ids_may_share_a_name() -> None:
    labels = label_set([Label("missile", "n03773504"), Label("missile", "n04008634")])
    assert [label.column for label in labels] == ["missile [n03773504]", "missile [n04008634]"]
    assert len(label_set([Label("missile", "a"), Label("missile", "a")])) == 1


@pytest.mark.parametrize("given_labels", [[], [""], [" ", "\t"]])
def test_no_label_is_an_error(given_labels: list[str]) -> None:
    with pytest.raises(UsageError) as raised:
        label_set(given_labels)
    assert str(raised.value) == "no labels given: name at least one, as in --labels 大象,冰箱,蚂蚁"


def test_a_label_that_is_no_text_is_an_error() -> None:
    with pytest.raises(UsageError) as raised:
        label_set(["caf\udce9"])
    assert str(raised.value) == r"the label 'caf\\udce9' is not valid UTF-8 text; write it in UTF-8"


def test_a_file_holds_one_label_a_line(tmp_path: Path) -> None:
    file = tmp_path / "标签.txt"
    file.write_bytes("\ufeff大象\r\n# a comment\r\n\r\n  # another\r\npolar bear, big\r\nC#\r\n".encode())
    assert names(*read_labels(file).labels) == ["大象", "polar bear, big", "C#"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot read labels from .*: No such file"),
        (b"caf\xe9\n", "line 1: not UTF-8, UTF-16 or GBK text; save the file"),
        (b"\x89PNG\r\n\0\0", "a binary file, not text"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_clear_line(tmp_path: Path, content: bytes | None, message: str) -> None:
    file = tmp_path / "labels.txt"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(UsageError, match=message) as raised:
        read_labels(file)
    assert "\n" not in str(raised.value)


def test_the_line_of_bytes_that_are_no_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "labels.txt").write_bytes(b"cat\ndog\ncaf\xe9\n")
    with pytest.raises(UsageError, match="line 3"):
        read_labels(tmp_path / "labels.txt")


@pytest.mark.parametrize(
    ("text", "chinese"),
    [
        ("大象", True),
        ("冰箱 fridge", True),
        ("elephant", False),
        ("象のぬいぐるみ", False),
        ("ｱﾘ蟻", False),
        ("𠮷", True),
        ("㐂", True),
        ("\ufa11", True),
        ("㐂ㇰ", False),
    ],
)
def test_chinese_is_han_without_kana(text: str, chinese: bool) -> None:
    assert is_chinese(text) is chinese


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1))
def test_a_label_set_is_stable(given_labels: list[str]) -> None:
    try:
        once = label_set(given_labels)
    except UsageError:
        assert not any(name.strip() for name in given_labels)
    else:
        assert label_set(once) == once
        assert len({label.column for label in once}) == len(once)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("大象", ("大象",)),
        ("大象|象|elephant", ("大象", "象", "elephant")),
        (" 大象 | | polar  bear|", ("大象", "polar bear")),
        ("|象", ("象",)),
        ("|", ("",)),
    ],
)
def test_bars_separate_synonyms(text: str, expected: tuple[str, ...]) -> None:
    assert parse_label(text).names == expected


def test_a_name_is_no_synonym_of_itself() -> None:
    (label,) = label_set(["café|cafe\u0301|Kaffee| Kaffee"])
    assert label.names == ("café", "Kaffee")


def test_names_that_several_labels_share() -> None:
    labels = label_set(["crane|bird", Label("crane", "machine"), "cafe\u0301", "coffee|café"])
    assert shared_names(labels) == {"crane": ["crane", "crane [machine]"], "café": ["cafe\u0301", "coffee"]}


@pytest.mark.parametrize(
    "labels",
    [
        [Label("cat", display="animal"), Label("dog", display=" animal")],
        [Label("cat", display="dog"), "dog"],
        [Label("a", "b"), "a [b]"],
        [Label("a", "é"), Label("a", "e\u0301")],
    ],
)
def test_labels_that_results_could_not_tell_apart_are_an_error(labels: list[str | Label]) -> None:
    with pytest.raises(UsageError, match=r"two labels would both be called .* in results; rename one"):
        label_set(labels)


def test_empty_ids_and_displays_are_none() -> None:
    assert label_set([Label("a", "  ", display=" ")]) == (Label("a"),)


@pytest.mark.parametrize(
    "field", [{"id": "\ud800"}, {"synonyms": ("\ud800",)}, {"templates": ("\ud800",)}, {"display": "\udce9"}]
)
def test_no_field_may_be_no_text(field: dict[str, str]) -> None:
    with pytest.raises(UsageError, match="not valid UTF-8"):
        label_set([Label("a", **field)])  # type: ignore[arg-type]


# Files.

ELEPHANT = Label("大象", "n1", ("象", "elephant"), "象 (大)", "eats leaves", ("一头{}", "big ears"), "animals")
FORMS = {
    "a.toml": """
        name = "zoo"
        [[labels]]
        name = "大象"
        id = "n1"
        synonyms = ["象", "elephant"]
        display = "象 (大)"
        description = "eats leaves"
        templates = ["一头{}", "big ears"]
        group = "animals"
        [[labels]]
        name = "ant"
        id = 7
    """,
    "a.json": json.dumps(
        {
            "name": "zoo",
            "labels": [{key: getattr(ELEPHANT, key) for key in ELEPHANT.__slots__}, {"name": "ant", "id": 7}],
        }
    ),
    "a.yaml": """
        name: zoo
        labels:
        - {name: 大象, id: n1, synonyms: [象, elephant], display: 象 (大), description: eats leaves,
           templates: ["一头{}", big ears], group: animals}
        - name: ant
          id: 7
    """,
    "zoo.csv": "id,Name ,synonyms,display,description,templates,group\n"
    "n1,大象,象|elephant,象 (大),eats leaves,一头{} | big ears,animals\n\n7,ant\n",
}


def write(folder: Path, name: str, content: str | bytes) -> Path:
    (folder / name).write_bytes(content.encode() if isinstance(content, str) else content)
    return folder / name


@pytest.mark.parametrize("name", FORMS)
def test_every_form_holds_every_field(tmp_path: Path, name: str) -> None:
    assert read_labels(write(tmp_path, name, FORMS[name])) == LabelSet("zoo", (ELEPHANT, Label("ant", "7")))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("a.txt", "大象|象\n\n# none\nC#, 3|C\n"),
        ("a", "大象|象\nC#, 3|C"),
        ("a.csv", '大象|象\n\n"C#, 3|C"\n'),
        ("a.csv", "name;synonyms\n大象;象\nC#, 3;C\n"),
        ("a.csv", "name\tsynonyms\n大象\t象\nC#, 3\tC\n"),
        ("a.json", '[{"name": "大象|象"}, {"name": "C#, 3", "synonyms": ["C"]}]'),
        ("a.csv", 'name\n大象|象\n"C#, 3|C"\n'),
        ("a.csv", 'name,synonyms\n大象,象\n"C#, 3",C\n'),
        ("a.toml", 'labels = ["大象|象", "C#, 3|C"]'),
        ("a.json", '["大象|象", "C#, 3|C"]'),
        ("a.yml", '- 大象|象\n- "C#, 3|C"'),
        ("a.YML", 'labels:\n- 大象|象\n- {name: "C#, 3", synonyms: C}'),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8-sig", "utf-16", "gbk"])
def test_labels_with_synonyms(tmp_path: Path, name: str, content: str, encoding: str) -> None:
    found = read_labels(write(tmp_path, name, content.replace("\n", "\r\n").encode(encoding)))
    assert found == LabelSet("a", (Label("大象", synonyms=("象",)), Label("C#, 3", synonyms=("C",))))


def test_a_list_on_one_line_of_a_text_file_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        read_labels(write(tmp_path, "a.txt", "猫, 咖啡、火箭\n"))
        read_labels(write(tmp_path, "b.txt", "polar bear, big\ncat\n"))
    (message,) = caplog.messages
    assert "a.txt holds one label, '猫, 咖啡、火箭': each label needs a line of its own" in message


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.toml", "labels = 3", "a.toml: it needs a list of labels, such as labels = "),
        ("a.toml", "names = ['a']", "it needs a list of labels"),
        ("a.toml", "labels = [2020-01-01]", "a label is a string, or a table with a name, and not of type date"),
        ("a.toml", "[[labels]]\nid = 'x'", "a label has no name"),
        ("a.csv", "name,synonym\na,b", "line 2: the label 'a': unknown field 'synonym'; known are name"),
        ("a.csv", "名称,同义词\n猫,小猫", "line 1: several columns, and no header with name"),
        ("a.csv", "name,synonyms\n猫,小猫,花猫", "a.csv, line 2: more fields than the header names: quote a field"),
        ("a.toml", "[[labels]]\nname = ' '", "a label has no name"),
        ("a.toml", "name = 3\nlabels = ['a']", "name must be a string"),
        ("a.json", "{}", "it needs a list of labels"),
        ("a.json", "[NaN]", "not of type float"),
        ("a.json", '[{"name": "a", "colour": "b"}]', "the label 'a': unknown field 'colour'; known are name, id, syn"),
        ("a.json", '[{"name": "a", "synonyms": [1]}]', "the label 'a': synonyms must be a list of strings"),
        ("a.json", '[{"name": "a", "group": 1}]', "the label 'a': group must be a string"),
        ("a.json", '[{"name": "a", "id": true}]', "the label 'a': id must be a string"),
        ("a.json", '[{"name": "a", "id": 1.5}]', "the label 'a': id must be a string"),
        ("a.yaml", "- {name: a, id: 0x" + "f" * 5000 + "}", "the label 'a': id must be a string"),
        ("a.yaml", "- {name: a, 2020-01-01: b}", "the label 'a': unknown field of type date"),
        ("a.yaml", "- {name: a, [b]: c}", "not valid YAML"),
        ("a.yaml", "- no: 1", "a label has no name"),
        ("a.yaml", "", "it needs a list of labels"),
        ("a.csv", 'name\na\n"b"c\n', "a.csv, line 3: not valid CSV"),
        ("a.csv", 'name\n"b\n', "a.csv, line 2: not valid CSV: unexpected end of data"),
        ("a.csv", "name,id\na,1\n ,2\n", "a.csv, line 3: a label has no name"),
        ("a.csv", "name\na\0b", "a binary file, not text"),
    ],
)
def test_a_file_with_a_mistake_is_one_clear_line(tmp_path: Path, name: str, content: str, message: str) -> None:
    with pytest.raises(UsageError) as raised:
        read_labels(write(tmp_path, name, content))
    assert message in str(raised.value) and "\n" not in str(raised.value) and len(str(raised.value)) < 300


@pytest.mark.parametrize("content", ["标签\n猫\n狗\n", "标签,\n猫,\n狗,\n"], ids=["one column", "an empty one more"])
def test_a_header_that_is_no_name_is_told(content: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    found = read_labels(write(tmp_path, "a.csv", content))
    assert [label.name for label in found.labels] == ["标签", "猫", "狗"]
    assert "标签 is taken for a label; a column of labels is called name" in caplog.messages[0]


def test_a_header_of_several_columns_is_an_error_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with pytest.raises(UsageError, match="several columns, and no header with name"):
        read_labels(write(tmp_path, "a.csv", "label,synonyms\n猫,喵\n"))
    assert not caplog.messages


def test_a_file_that_unfolds_without_end_is_refused_at_once(tmp_path: Path) -> None:
    layers = "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{', '.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(12))
    for labels in ("[*m]", "[{name: *m}]", "[{name: a, synonyms: *m}]", "[a]\nname: *m"):
        with pytest.raises(UsageError):
            read_labels(write(tmp_path, "a.yaml", f"a: &a [x]\n{layers}labels: {labels}"))
    with pytest.raises(UsageError):
        read_labels(write(tmp_path, "a.yaml", "labels: &a [*a]"))


SUFFIXES = st.sampled_from([".toml", ".csv", ".json", ".yaml", ".yml", ".txt", ""])
PIECES = st.sampled_from(
    [*"=:[]{},'\"|-&*#\n\r\\1~<>?", "!!", "<<", "0x", "NaN", "true", "2020-01-01", "大象", "\\ud800", *FIELDS, "labels"]
)


@settings(deadline=None)
@given(SUFFIXES, st.binary() | st.lists(PIECES).map(lambda parts: " ".join(parts).encode()))
def test_any_bytes_are_labels_or_an_error(
    tmp_path_factory: pytest.TempPathFactory, suffix: str, content: bytes
) -> None:
    try:
        found = read_labels(write(tmp_path_factory.getbasetemp(), f"any{suffix}", content))
        label_set(found.labels)
    except ClipclsError as exc:
        assert "\n" not in str(exc)


TEXTS = st.text(st.characters(exclude_categories=["Cs"]))


NAMES = st.text(st.characters(exclude_categories=["Cs", "Cc", "Z"], exclude_characters="|"), min_size=1)


@settings(deadline=None)
@given(
    st.builds(
        Label,
        NAMES,
        st.none() | TEXTS,
        st.lists(TEXTS.filter(str.strip)).map(tuple),
        st.none() | TEXTS,
        TEXTS,
        st.lists(TEXTS.filter(str.strip)).map(tuple),
        TEXTS,
    )
)
def test_any_label_is_read_back_from_json(tmp_path_factory: pytest.TempPathFactory, label: Label) -> None:
    fields = {key: getattr(label, key) for key in Label.__slots__ if getattr(label, key) is not None}
    content = json.dumps([fields], ensure_ascii=True)
    assert read_labels(write(tmp_path_factory.getbasetemp(), "any.json", content)).labels == (label,)


# Named sets.


def test_the_projects_set_wins_then_the_users(here: Path, own_folders: Path) -> None:
    user = own_folders / "config" / "clipcls" / "prompts" / "labels"
    user.mkdir(parents=True)
    write(user, "cifar-10.csv", "user")
    assert load_labels("cifar-10").labels == (Label("user"),)
    (here / "prompts" / "labels").mkdir(parents=True)
    write(here / "prompts" / "labels", "cifar-10.txt", "project|mine")
    assert load_labels("cifar-10").labels == (Label("project", synonyms=("mine",)),)
    assert len(load_labels("cifar-10-zh").labels) == 10


def test_a_set_wins_over_a_folder_of_its_name(here: Path) -> None:
    (here / "cifar-10").mkdir()
    assert load_labels("cifar-10").name == "cifar-10"


def test_a_file_needs_no_suffix(here: Path) -> None:
    assert load_labels(str(write(here, "mine", "a\nb"))).labels == (Label("a"), Label("b"))


@pytest.mark.parametrize("wanted", ["nothing", "", "a" * 300, "a\0b", "大" * 100 + "，", "../cifar-10"])
def test_an_unknown_set_tells_what_there_is(here: Path, wanted: str) -> None:
    with pytest.raises(UsageError, match=r"no label set and no file named .*imagenet-1k-zh.*\.csv"):
        load_labels(wanted)


def test_a_missing_file_is_named(here: Path) -> None:
    with pytest.raises(UsageError, match=r"cannot read labels from nothing\.csv: No such file"):
        load_labels("nothing.csv")
