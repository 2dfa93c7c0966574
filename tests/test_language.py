"""Messages in Chinese: that none lacks its translation, and that it is told where a person reads it.

``python tests/test_language.py`` prints what ``zh.toml`` lacks and what nothing uses any more.
"""

from __future__ import annotations

import ast
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterable, Iterator
from functools import cached_property
from pathlib import Path

import pytest
from conftest import IMAGES
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from clipcls.cli.language import CATALOGUE, chosen, line_ends, parts, speak, told
from clipcls.cli.tables import Column, show_table
from clipcls.encoders.catalogue import entries
from clipcls.errors import UsageError
from clipcls.languages import _LANGUAGES, NAMES
from clipcls.library import shipped_folder

PACKAGE = CATALOGUE.parent.parent
CLIPCLS = [str(Path(sys.executable).parent / "clipcls")]

TYPERS_OWN = (
    *("Arguments", "Commands", "Options", "Usage: ", "[default: {{}}]", "[required]"),
    *("Show this message and exit.", "Install completion for the current shell."),
    "Show completion for the current shell, to copy it or customize the installation.",
    *("no such command {}", "no such command {}, did you mean {}", "missing command"),
    *("no such option: {}", "no such option: {} (Possible options: {})", "missing option {}"),
    *("option {} requires an argument", "option {} does not take a value"),
    *("missing argument {}", "got unexpected extra argument(s) ({})", "invalid value for {}: {}"),
    *("{} is not in the range {}", "{} is not a valid int", "{} is not a valid int range"),
    "{} is not a valid float range",
)
"""What Typer says, as ``clipcls.cli`` words it."""
SETS = [tomllib.loads(path.read_text(encoding="utf-8"))["description"] for path in shipped_folder().rglob("*.toml")]
FILLED_IN = (
    *("No such file or directory", "Permission denied", "Is a directory", "Not a directory"),
    *("No space left on device", "Read-only file system"),
    *("damaged", "from a newer version", "none", ", in one folder a label"),
    *("there is nothing at this address", "there is nothing at this address (HTTP {})", "no answer in time"),
    *("no images found in {}; skipped {}", "{} (add --fps 1 to look at their frames)"),
    *("{} (pip install 'clipcls[camera]' reads them)", "probes of all images a label"),
    "a frame of a video: clipcls classify --video mean gives whole videos an answer",
    "in an archive, in a table or far away: only files on this machine can be sorted",
    *("a string", "a whole number", "true or false", "a string or a list of strings"),
    *("access denied; check your credentials", "access denied (HTTP {}); check your credentials"),
    *("the server answers with an error (HTTP {})", "the server cannot be reached, or breaks off"),
    *(*NAMES.values(), *_LANGUAGES, "Chinese and English", "English and Chinese", "--model {} or --model {}"),
    *("mean per-class recall", "macro F1", "calibration error (ECE)"),
    *("path", "probability", "group", "bytes", "image", "text", "error", "keep", "identical", "similar"),
    *("within noise", "worse", "better", "costs", "helps"),
    *(entry.description for entry in entries()),
    *("cannot be used: {}", *(description for description in SETS if description.isascii())),
    "{} image and {} text embeddings ({} MB) and what {} models need to run without torch",
)
"""What the system says, and words that are put together out of the test's sight."""
SAYING = {"say", "show", "watch", "warn_once", "complain", "confirm", "confirm_deleting"}
LOGGERS = {"log", "_log", "logger"}
WORD = re.compile(r"[A-Za-z]{3}")
"""What has none needs no translation."""


class Source:
    """One module's syntax tree."""

    def __init__(self, path: Path) -> None:
        self.name = path.relative_to(PACKAGE).as_posix()
        self.tree = ast.parse(path.read_text(encoding="utf-8"))
        self.constants = dict(assigned(self.tree.body))
        self.functions = [node for node in ast.walk(self.tree) if isinstance(node, ast.FunctionDef)]


def assigned(body: Iterable[ast.AST]) -> Iterator[tuple[str, ast.expr]]:
    """What names are given, by assignments and by loops."""
    for node in body:
        match node:
            case (
                ast.Assign(targets=[ast.Name(id=name)], value=value)
                | ast.AnnAssign(target=ast.Name(id=name), value=ast.expr() as value)
                | ast.AugAssign(target=ast.Name(id=name), value=value)
                | ast.NamedExpr(target=ast.Name(id=name), value=value)
                | ast.For(target=ast.Name(id=name), iter=ast.Call() as value)
                | ast.comprehension(target=ast.Name(id=name), iter=value)
            ):
                yield name, value
            case ast.For(target=target) | ast.comprehension(target=target):
                yield from ((each.id, ast.Constant(None)) for each in ast.walk(target) if isinstance(each, ast.Name))
            case ast.Assign(targets=[ast.Tuple(elts=names)], value=ast.Tuple(elts=values)):
                yield from (
                    (name.id, value) for name, value in zip(names, values, strict=True) if isinstance(name, ast.Name)
                )


class Messages:
    """All messages in the package's sources, as keys of the catalogue, and where each was found."""

    def __init__(self) -> None:
        self.sources = [Source(path) for path in sorted(PACKAGE.rglob("*.py"))]
        self.found: dict[str, str] = dict.fromkeys(TYPERS_OWN, "Typer") | dict.fromkeys(FILLED_IN, "filled in")
        self.places: dict[tuple[str, int], str] = {}
        """By module and line a message that stands there."""
        self._followed: set[ast.FunctionDef] = set()
        self._errors = {
            each.name
            for source in self.sources
            for each in ast.walk(source.tree)
            if isinstance(each, ast.ClassDef)
            if any(ast.unparse(base).endswith(("Error", "Exception", "Fault")) for base in each.bases)
        }
        for source in self.sources:
            self._collect(source, source.tree, None)

    def _collect(self, source: Source, within: ast.AST, function: ast.FunctionDef | None) -> None:
        for node in ast.iter_child_nodes(within):
            place = Place(source, function, getattr(node, "lineno", 0))
            for text in said(node, self._errors, in_cli=source.name.startswith("cli/")):
                self.add(text, place)
            if isinstance(node, ast.FunctionDef) and is_command(node, source):
                for paragraph in (ast.get_docstring(node) or "").split("\n\n"):
                    self.note(escaped(" ".join(paragraph.split())), place)
            self._collect(source, node, node if isinstance(node, ast.FunctionDef) else function)

    def add(self, text: ast.expr, place: Place, *, part: bool = False) -> None:
        """A message, in all its forms."""
        for key in self.forms(text, place):
            if not part or " " in key.strip():
                self.note(key, place)

    def note(self, key: str, place: Place) -> None:
        key = re.sub(r"(\{\}){2,}", "{}", key).strip(" \n;,").removeprefix(": ")
        if not key.startswith("clipcls ") and WORD.search("".join(parts(key)[0])):
            self.found.setdefault(key, f"{place.source.name}:{place.line}")
            self.places.setdefault((place.source.name, place.line), key)

    def forms(self, text: ast.expr, place: Place) -> list[str]:
        """Every key that a text can have; what only the run will tell is a gap."""
        match text:
            case ast.Constant(value=str(words)):
                return [escaped(words)]
            case ast.JoinedStr(values=values):
                return joined(self.forms(each, place) for each in values)
            case ast.FormattedValue(value=value, conversion=-1, format_spec=None):
                return self.forms(value, place)
            case ast.Call(func=ast.Name(id="printable" | "str" | "told"), args=[value]):
                return self.forms(value, place)
            case ast.IfExp(body=one, orelse=other):
                return [*self.forms(one, place), *self.forms(other, place)]
            case ast.BoolOp(values=values):
                for each in values:
                    self.add(each, place, part=True)
            case ast.BinOp(left=left, op=ast.Add(), right=right):
                return joined([self.forms(left, place), self.forms(right, place)])
            case ast.BinOp(left=ast.Constant(value=str(plural)), op=ast.Mult()):
                return [f"{{{plural}}}"]
            case ast.Tuple(elts=values) | ast.List(elts=values):
                return [form for each in values for form in self.forms(each, place)]
            case ast.Name(id=name):
                return self._named(name, place)
            case ast.Subscript(value=ast.Name(id=name)) if isinstance(place.source.constants.get(name), ast.Dict):
                return self.forms(ast.Tuple(place.source.constants[name].values), place)
            case ast.Call(func=ast.Name(id=name)) if template := template_of(name, place.source):
                return self.forms(template, Place(place.source, None, place.line))
            case ast.Call(func=ast.Attribute(attr="join"), args=[value]):
                self.forms(value, place)
            case ast.Call(func=ast.Attribute(value=ast.Name() as words, attr="format")):
                return [form.replace("{{}}", "{}") for form in self.forms(words, place)]
            case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name)) | ast.Attribute(attr=name):
                self._follow(name, place.source, called=isinstance(text, ast.Call))
        return ["{}"]

    def _named(self, name: str, place: Place) -> list[str]:
        values = place.values.get(name, [])
        if len(values) == 1:
            return self.forms(values[0], Place(place.source, place.function, place.line, place.depth + 1))
        for value in values:
            self.add(value, Place(place.source, place.function, place.line, place.depth + 1), part=True)
        if not values:
            for source in (place.source, *self.sources):
                if isinstance(value := source.constants.get(name), ast.Constant | ast.JoinedStr):
                    return self.forms(value, Place(source, None, value.lineno, place.depth + 1))
        return ["{}"]

    def _follow(self, name: str, source: Source, *, called: bool) -> None:
        """What a function says that fills a gap: the module's own of that name, or else any."""
        everywhere = [(each, function) for each in self.sources for function in each.functions if function.name == name]
        for each, function in [pair for pair in everywhere if pair[0] is source] or everywhere:
            is_property = any(getattr(decorator, "id", "") == "property" for decorator in function.decorator_list)
            if (
                function in self._followed
                or is_property is called
                or "str" not in ast.unparse(function.returns or function)
            ):
                continue
            self._followed.add(function)
            for node in ast.walk(function):
                if isinstance(node, ast.Return | ast.Yield | ast.YieldFrom) and node.value:
                    self.add(node.value, Place(each, function, node.lineno), part=True)


class Place:
    """Where a text stands, and what names mean there."""

    def __init__(self, source: Source, function: ast.FunctionDef | None, line: int, depth: int = 0) -> None:
        self.source, self.function, self.line, self.depth = source, function, line, depth

    @cached_property
    def values(self) -> dict[str, list[ast.expr]]:
        """What the function assigns to each name; beyond some steps nothing, for a name may stand in its own value."""
        found: dict[str, list[ast.expr]] = {}
        if self.function and self.depth < 4:
            parameters = {each.arg for each in [*self.function.args.args, *self.function.args.kwonlyargs]}
            for name, value in assigned(ast.walk(self.function)):
                if name not in parameters:
                    found.setdefault(name, []).append(value)
        return found


def said(node: ast.AST, errors: set[str], *, in_cli: bool) -> Iterator[ast.expr]:
    """The texts that a node of a syntax tree tells a person."""
    match node:
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *more]) if name in errors:
            yield more[0] if name == "FileFault" else first
        case ast.Call(func=ast.Attribute(value=ast.Call(func=ast.Name(id="super")), attr="__init__"), args=[text]):
            yield text  # of an error that words itself
        case ast.Call(func=ast.Attribute(value=ast.Name(id=logger)), args=[text, *fills]) if logger in LOGGERS:
            yield from (from_percent(text), *fills)
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[text, *_]) if name in SAYING:
            yield text
        case ast.Call(func=ast.Name(id="told"), args=[ast.Call() | ast.Name() as text]):
            yield text
        case ast.Call(func=ast.Name(id="Column"), args=[heading, *_]) if in_cli:
            yield heading
        case ast.Call(func=ast.Name(id="map"), args=[ast.Name(id="Column"), headings]):
            yield headings
        case ast.Call(func=ast.Name(id="read_text"), args=[_, what, *_]):
            yield what  # as "cannot read … from FILE" names it
        case ast.Tuple(elts=[_, ast.Constant(value="error" | "warning"), text]):
            yield text  # of prompts check
        case ast.Assign(targets=[ast.Name(id="COMMANDS")], value=ast.Dict(values=lines)):
            yield from lines
    if isinstance(node, ast.Call) and in_cli:
        yield from (each.value for each in node.keywords if each.arg in ("help", "rich_help_panel"))


def template_of(name: str, source: Source) -> ast.JoinedStr | None:
    """The text of one of the module's small helpers that does nothing but fill it in."""
    for function in source.functions:
        match function.body[-1]:
            case ast.Return(value=ast.JoinedStr() as text) if function.name == name and len(function.body) == 1:
                return text
    return None


def is_command(function: ast.FunctionDef, source: Source) -> bool:
    """Whether a person calls it by name: it has ``--debug``, as every command has."""
    public = source.name.startswith("cli/") and not function.name.startswith("_")
    return public and any(each.arg == "debug" for each in function.args.args)


def from_percent(text: ast.expr) -> ast.expr:
    """A text of logging with its ``%s`` as gaps."""
    if not isinstance(text, ast.Constant):
        return text
    words = re.split(r"%[-+ #0-9.,]*[sdrfg]", str(text.value))
    filled = [[ast.Constant(word.replace("%%", "%")), ast.FormattedValue(ast.Name("_"), -1)] for word in words]
    return ast.JoinedStr(list(itertools.chain(*filled))[:-1])


def joined(several: Iterable[list[str]]) -> list[str]:
    return ["".join(each) for each in itertools.product(*several)]


def escaped(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def as_toml(keys: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f'{json.dumps(key, ensure_ascii=False)} = ""  # {place}' for key, place in keys)


@pytest.fixture(scope="module")
def messages() -> dict[str, str]:
    return Messages().found


@pytest.fixture(scope="module")
def catalogue() -> dict[str, str]:
    return tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))


@pytest.fixture
def chinese() -> Iterator[None]:
    speak("zh")
    yield
    speak("en")


def test_no_message_lacks_a_translation(messages: dict[str, str], catalogue: dict[str, str]) -> None:
    missing = as_toml((key, place) for key, place in messages.items() if not catalogue.get(key))
    assert not missing, f"clipcls/cli/zh.toml lacks:\n{missing}"


def test_no_translation_is_for_nothing(messages: dict[str, str], catalogue: dict[str, str]) -> None:
    assert not (unused := "\n".join(catalogue.keys() - messages)), (
        f"clipcls/cli/zh.toml has, and nothing says:\n{unused}"
    )


def test_a_translation_fills_in_all_that_the_message_does(catalogue: dict[str, str]) -> None:
    for key, translation in catalogue.items():
        gaps = [gap for gap in parts(key)[1] if not gap]
        holes = [hole.rstrip("*") for hole in parts(translation)[1]]
        numbers = [int(hole) for hole in holes] if any(holes) else [*range(len(holes))]
        assert sorted(numbers) == [*range(len(gaps))], (key, translation)


def test_the_collector_finds_what_it_should(messages: dict[str, str]) -> None:
    assert messages["error: {}"].startswith("cli/__init__.py")
    for key in (
        "no images found in {}",
        "{} image{s}, {} failed, {} uncertain, {} s, {} images/s, {} from the cache",
        "{} has no place for the label: write {{label}} or {{类别}} into it",
        "dropped labels given more than once: {}",
        "Rank labels for every image.",
        "top-1 over {}",
        "Answer",
    ):
        assert key in messages, key


WORDS = st.text("abcxyzABC/.'’猫狗0123", min_size=1, max_size=12)


@given(data=st.data())
def test_what_is_filled_in_stays(data: st.DataObject) -> None:
    key = data.draw(st.sampled_from(sorted(tomllib.loads(CATALOGUE.read_text(encoding="utf-8")))))
    literals, gaps = parts(key)
    fills = [gap or data.draw(WORDS) for gap in gaps]
    text = "".join(itertools.chain(*itertools.zip_longest(literals, fills, fillvalue="")))
    speak("zh")
    try:
        found = told(text)
    finally:
        speak("en")
    assert found != text or not WORD.search("".join(literals)) or found == text == key
    assert all(fill in found for gap, fill in zip(gaps, fills, strict=True) if not gap), (text, found)


def test_a_message_in_a_message_is_told_too(chinese: None) -> None:
    assert told("error: imgs: no such file or folder; check the spelling") == (
        "错误：imgs：没有这个文件或文件夹；请检查拼写"
    )
    assert told("warning: a/b.jpg: this folder is left out: Permission denied") == (
        "警告：a/b.jpg：跳过这个文件夹：没有权限"
    )
    assert (
        told("error: x.toml, line 3: a line without path or label") == "错误：x.toml 第 3 行：有一行没有 path 或 label"
    )
    assert told("error: x.toml: no templates in it") == "错误：x.toml：里面没有模板"
    assert told("2 labels; 2 images, 0 failed, 1.0 s, 2.0 images/s, 0 from the cache") == (
        "2 个标签；2 张图片，失败 0 张，用时 1.0 秒，每秒 2.0 张，0 张来自缓存"
    )
    assert told("4 done before; 1 image, 0 failed, 1.0 s, 1.0 images/s, 0 from the cache; skipped 2 .heic") == (
        "之前已完成 4 张；1 张图片，失败 0 张，用时 1.0 秒，每秒 1.0 张，0 张来自缓存；跳过 2 .heic"
    )


def test_what_is_joined_is_told_part_by_part(chinese: None) -> None:
    assert told(
        "error: out.csv cannot be resumed, the earlier run was another one: labels: 猫 then, 狗 now; "
        "top k: 1 then, 2 now. Ask for the same again, or start over with --overwrite"
    ) == (
        "错误：out.csv 不能接着做，上次运行的设置不同：标签：原来是 猫，现在是 狗；top k：原来是 1，现在是 2。"
        "请用同样的设置，或用 --overwrite 从头来"
    )


def test_a_persons_own_words_are_not_translated(chinese: None) -> None:
    assert told("error: no images found in labels") == "错误：在 labels 中没有找到图片"
    assert told("error: no images found in ./a; skipped 2 .mp4 (add --fps 1 to look at their frames)") == (
        "错误：在 ./a 中没有找到图片；跳过了 2 .mp4（加上 --fps 1 可以逐帧查看）"
    )
    assert told("error: clipcls.toml: workers: must be a whole number") == "错误：clipcls.toml: workers：必须是整数"
    assert told("warning: dropped labels given more than once: a; b") == "警告：去掉了重复给出的标签：a; b"
    assert told("nobody has translated this") == "nobody has translated this"


def test_headings_and_our_sentences_on_a_terminal_alone(chinese: None, monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    columns = (
        *(Column("label"), Column("images", right=True), Column("folder", given=True), Column("top-1 over zh")),
        Column("when", told=True),
    )
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("TERM", "dumb")
    for stream, lines in (
        (
            Terminal(),
            ["标签  图片数  folder  top-1 比 zh  适用", "none       1  2       3            没有这个文件或文件夹"],
        ),
        (io.StringIO(), ["label,images,folder,top-1 over zh,when", "none,1,2,3,No such file or directory"]),
    ):
        monkeypatch.setattr("sys.stdout", stream)
        show_table(columns, [("none", "1", "2", "3", "No such file or directory")])
        assert [line.rstrip() for line in stream.getvalue().splitlines()] == lines


def test_lines_break_where_chinese_may() -> None:
    text = "提示词集（clipcls prompts list）、文件，或一个模板，如 '一张照片'；可以重复。"
    for width in range(11, 60):
        ends = [0, *line_ends(text, width), len(text)]
        lines = [text[start:end] for start, end in itertools.pairwise(ends)]
        assert all(cell_len(line.rstrip()) <= width for line in lines), (width, lines)
        assert not any(line.startswith(tuple("，。、；）")) for line in lines) and "".join(lines) == text
    assert line_ends("a" * 25, 10) == [10, 20]


@pytest.mark.parametrize(
    ("environment", "language"),
    [
        ({"LANG": "zh_CN.UTF-8"}, "zh"),
        ({"LANG": "zh_TW"}, "zh"),
        ({"LANG": "en_US.UTF-8"}, "en"),
        ({"LANG": "de_DE.UTF-8"}, "en"),
        ({"LANG": "C.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_MESSAGES": "en_GB.UTF-8"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "LC_ALL": "C"}, "en"),
        ({"LANG": "en_US.UTF-8", "LANGUAGE": "zh_CN:en"}, "zh"),
        ({"LANG": "zh_CN.UTF-8", "LANGUAGE": "en_US"}, "en"),
        ({"LC_ALL": "C", "LANGUAGE": "zh"}, "en"),
        ({"LANG": "zh_CN.UTF-8", "CLIPCLS_LANG": "en"}, "en"),
        ({"LANG": "C", "CLIPCLS_LANG": "zh"}, "zh"),
    ],
)
def test_the_locale_chooses(environment: dict[str, str], language: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLIPCLS_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert chosen([]) == language


def test_a_chinese_windows(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("CLIPCLS_LANG", "LANGUAGE", "LC_ALL", "LC_MESSAGES", "LANG"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("locale.getlocale", lambda: ("Chinese (Simplified)_China", "936"))
    assert chosen([]) == "zh"


@pytest.mark.parametrize(
    ("words", "left", "language"),
    [
        (["classify", "a", "--lang", "zh", "-l", "b"], ["classify", "a", "-l", "b"], "zh"),
        (["--lang=zh", "classify", "a"], ["classify", "a"], "zh"),
        (["--lang", "zh", "--lang=en"], [], "en"),
        (["classify", "--", "--lang", "zh"], ["classify", "--", "--lang", "zh"], "en"),
    ],
)
def test_the_flag_goes_first_and_is_taken_out(words: list[str], left: list[str], language: str) -> None:
    assert chosen(words) == language and words == left


@pytest.mark.parametrize("words", [["--lang", "xx"], ["--lang=xx"], ["--lang"]])
def test_an_unknown_language_is_refused(words: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UsageError, match="use zh or en"):
        chosen(words)
    monkeypatch.setenv("CLIPCLS_LANG", "xx")
    with pytest.raises(UsageError, match="in CLIPCLS_LANG: use zh or en"):
        chosen([])


def clipcls_says(*words: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    surroundings = {name: value for name, value in os.environ.items() if name != "CLIPCLS_LANG"}
    surroundings |= {"LC_ALL": "C.UTF-8", "COLUMNS": "100"} | environment
    return subprocess.run(
        [*CLIPCLS, *map(str, words)], capture_output=True, encoding="utf-8", env=surroundings, timeout=60
    )


ZH = {"LC_ALL": "zh_CN.UTF-8"}


def test_help_in_chinese() -> None:
    top = clipcls_says("--lang", "zh", "--help")
    assert top.returncode == 0
    for words in ("用法：clipcls", "选项", "命令", "为每张图片排出标签的名次。", "--lang", "显示这页帮助并退出。"):
        assert words in top.stdout
    own = clipcls_says("classify", "--help", **ZH).stdout
    for words in (
        "用法：clipcls classify",
        "答案",
        "图片、文件夹、通配符、表格",
        "[默认：",
        "[必填]",
        "大象,冰箱,蚂蚁",
    ):
        assert words in own
    below = clipcls_says("labels", "check", "--help", **ZH).stdout
    assert "检查一个标签集" in below and "用法：clipcls labels check" in below
    for page in (top.stdout, own, below):
        assert not (left := re.findall(r"[A-Za-z]+ [a-z]+ [a-z]+ [a-z]+ [a-z]+", page)), left
        assert "…" not in page


def test_help_in_english_reads_no_catalogue(unmeasured: None) -> None:
    code = (
        "import sys\nfrom clipcls.cli import run\ncode = run(['--help'])\n"
        "assert 'tomllib' not in sys.modules\nraise SystemExit(code)"
    )
    environment = os.environ | {"CLIPCLS_LANG": "en"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, encoding="utf-8", env=environment)
    assert done.returncode == 0 and "Rank labels for every image." in done.stdout, done.stderr
    for locale in ("C.UTF-8", "en_US.UTF-8"):
        assert (
            clipcls_says("--help", LC_ALL=locale, COLUMNS="80").stdout
            == clipcls_says("--help", "--lang", "en", COLUMNS="80").stdout
        )


def test_misuse_is_one_line_in_both_languages() -> None:
    for words, english, chinese in (
        (["classify", "x", "--foo"], "no such option: --foo", "没有选项 --foo"),
        (["clasify"], "no such command 'clasify', did you mean 'classify'", "没有命令 'clasify'，是不是 'classify'"),
        (["classify"], "missing argument 'PATH...'", "缺少参数 'PATH...'"),
        (["classify", "x", "-k", "0"], "0 is not in the range x>=1", "0 不在范围 x>=1 内"),
    ):
        command = "clipcls classify" if words[0] == "classify" else "clipcls"
        plain, told_in_chinese = clipcls_says(*words), clipcls_says(*words, **ZH)
        assert plain.returncode == told_in_chinese.returncode == 2
        assert plain.stderr.startswith("error: ") and english in plain.stderr
        assert plain.stderr.endswith(f"; see {command} --help\n")
        assert told_in_chinese.stderr.startswith("错误：") and chinese in told_in_chinese.stderr
        assert told_in_chinese.stderr.endswith(f"；见 {command} --help\n")
        assert len(plain.stderr.splitlines()) == len(told_in_chinese.stderr.splitlines()) == 1


def test_a_run_in_chinese(tmp_path: Path) -> None:
    words = ("classify", IMAGES / "chelsea.jpg", "-l", "猫,狗,猫")
    chinese, english = clipcls_says(*words, **ZH), clipcls_says(*words)
    assert chinese.returncode == 0 and chinese.stdout == english.stdout, "CSV in a pipe is the same"
    assert "重复给出的标签：猫" in chinese.stderr and "正在使用自带的小模型 starter" in chinese.stderr
    assert chinese.stderr.splitlines()[-1].startswith("1 张图片，失败 0 张，用时 ")
    assert "given more than once: 猫" in english.stderr and "1 image, 0 failed" in english.stderr
    failed = clipcls_says("classify", tmp_path / "nowhere", "-l", "猫", "--lang", "zh")
    assert failed.returncode == 3 and failed.stderr == f"错误：{tmp_path}/nowhere：没有这个文件或文件夹；请检查拼写\n"
    refused = clipcls_says("classify", "x", "--lang", "xx")
    assert refused.returncode == 2 and refused.stderr == "error: unknown language 'xx': use zh or en\n"


if __name__ == "__main__":
    MESSAGES = Messages().found
    TRANSLATED = tomllib.loads(CATALOGUE.read_text(encoding="utf-8"))
    print(as_toml((key, place) for key, place in MESSAGES.items() if key not in TRANSLATED))
    print("\n".join(f"not used: {key}" for key in TRANSLATED if key not in MESSAGES))
