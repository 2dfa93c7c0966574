"""The catalogue of models, what they may be called, and ``clipcls models``."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import platformdirs
import pytest
from conftest import ROOT, Terminal, within
from huggingface_hub import constants

from clipcls.encoders.agreement import Agreement
from clipcls.encoders.catalogue import CATALOGUE, FIGURES, entries, find, recommended
from clipcls.encoders.ondisk import on_disk, parts
from clipcls.encoders.spec import STARTER_FOLDER, parse_spec
from clipcls.encoders.tags import _tags
from clipcls.errors import ModelError, OutputError, UsageError
from clipcls.settings import Settings, save_model

TABLES = ROOT.parent / "shared" / "open_clip-tables"
WANTED = (
    *("starter", "siglip2-b32", "siglip2-b16", "siglip2-so400m", "xlmr-b32", "nllb-siglip", "clip-b32"),
    *("clip-b32-openai", "clip-l14", "mobileclip2-s0", "mobileclip2-s2", "metaclip2-worldwide"),
    *("chinese-clip-b16", "chinese-clip-l14"),
)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache of the hub's."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def download(hub: Path, repo: str, **files: str) -> Path:
    """Files of a repository, as the hub's cache holds them; ``__`` in a name stands for a dot."""
    folder = hub / "--".join(("models", *repo.split("/")))
    snapshot = folder / "snapshots" / "c0ffee"
    snapshot.mkdir(parents=True, exist_ok=True)
    (folder / "refs").mkdir(exist_ok=True)
    (folder / "refs" / "main").write_text("c0ffee")
    for name, content in files.items():
        (snapshot / name.replace("__", ".")).write_text(content)
    return snapshot


def recipe() -> ModuleType:
    spec = importlib.util.spec_from_file_location("recipe_catalogue", ROOT / "recipes" / "catalogue.py")
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


# The catalogue.


def test_every_model_that_was_asked_for_is_listed_once() -> None:
    aliases = [entry.alias for entry in entries()]
    assert set(WANTED) <= set(aliases) and len(set(aliases)) == len(aliases)
    assert len({entry.spec for entry in entries()}) == len(aliases)


def test_every_fact_has_a_source_and_none_a_wild_value() -> None:
    for entry in entries():
        given = {name for name in FIGURES if getattr(entry, name) is not None}
        assert set(entry.source) == given | {"licence"} and all(entry.source.values())
        assert entry.languages and entry.description and entry.licence and "/" not in entry.alias
        assert all(0 < value < 1 for value in (entry.imagenet, entry.chinese_retrieval) if value is not None)
        assert all(importlib.util.find_spec(name) for name in entry.packages)
        if entry.image_params and entry.download_mb:
            assert entry.download_mb > 4 * entry.image_params * 0.9


def test_no_source_is_left_unused() -> None:
    tables = tomllib.loads(CATALOGUE.read_text("utf-8"))
    sources = tables.pop("sources")
    used = {fact["source"] for table in tables.values() for fact in table.values() if isinstance(fact, dict)}
    assert used == set(sources)


def test_the_names_are_those_of_open_clip() -> None:
    import open_clip

    for entry in entries():
        if ":" in entry.spec or entry.alias == "starter":
            continue
        arch, tag = entry.spec.split("/")
        known = open_clip.get_pretrained_cfg(arch, tag)
        assert known and open_clip.get_model_config(arch), entry.spec
        # Others would be computed with the wrong activation by whoever takes the name to open_clip itself.
        assert bool(known.get("quick_gelu")) == bool(open_clip.get_model_config(arch).get("quick_gelu")), entry.spec
        reads_only_english = "hf_tokenizer_name" not in open_clip.get_model_config(arch)["text_cfg"]
        assert (entry.languages == ("en",)) == reads_only_english
        assert ("transformers" in entry.packages) != reads_only_english


def test_every_name_of_open_clip_is_found_without_open_clip() -> None:
    import open_clip

    for arch, tag in open_clip.list_pretrained():
        if open_clip.get_model_config(arch) is None or not open_clip.get_pretrained_cfg(arch, tag).get("hf_hub"):
            continue
        *texts, weights = parts(parse_spec(f"{arch}/{tag}"))
        assert weights.place == open_clip.get_pretrained_cfg(arch, tag)["hf_hub"].rpartition("/")[0]
        text_cfg = open_clip.get_model_config(arch)["text_cfg"]
        wanted = (text_cfg.get("hf_model_name"), text_cfg.get("hf_tokenizer_name"))
        assert [part.place for part in texts] == [name for name in wanted if name]


def test_the_figures_are_those_of_open_clips_tables() -> None:
    if not TABLES.is_dir():
        pytest.skip("open_clip's tables are not on this machine")
    made, text = recipe(), CATALOGUE.read_text("utf-8")
    tables = made.Tables.read(TABLES)
    assert made.rewritten(text, tables, None) == text
    wrong = text.replace("value = 0.6236", "value = 0.7")
    assert wrong != text and made.rewritten(wrong, tables, None) == text
    lacking = text.replace('chinese_retrieval = { value = 0.5369, source = "retrieval" }\n', "")
    assert lacking != text and made.rewritten(lacking, tables, None) == text


@pytest.mark.slow
def test_the_counted_figures_are_counted_as_the_tables_are() -> None:
    if not TABLES.is_dir():
        pytest.skip("open_clip's tables are not on this machine")
    made, text = recipe(), CATALOGUE.read_text("utf-8")
    tables = made.Tables.read(TABLES)
    assert made.rewritten(text, tables, made.count) == text
    for arch in ("ViT-B-32", "ViT-L-14", "ViT-B-16-SigLIP"):
        counted, row = made.count(arch), tables.profile[arch]
        assert counted.image_params == pytest.approx(float(row["image_mparams"]), abs=0.01)
        assert counted.image_gflops == pytest.approx(float(row["image_gflops"]), abs=0.01)


# Names.


@pytest.mark.parametrize("alias", [*WANTED, "nllb-siglip-large"])
def test_an_alias_is_the_model_that_it_stands_for(alias: str) -> None:
    entry = find(alias)
    assert entry and entry.alias == alias and find(entry.spec) is entry
    given, meant = parse_spec(alias), parse_spec(entry.spec)
    assert (given.given, given.kind, given.target, given.key) == (alias, meant.kind, meant.target, meant.key)
    assert given.languages == meant.languages == entry.languages and meant.entry is entry


def test_an_alias_is_the_same_everywhere(here: Path) -> None:
    (here / "clip-b32").mkdir()
    assert parse_spec("clip-b32").kind == "tag"
    with pytest.raises(ModelError, match="is not a model folder"):
        parse_spec("./clip-b32")


def test_models_for_transformers(here: Path) -> None:
    spec = parse_spec("hf:tiny/model")
    assert (spec.kind, spec.target, spec.key, spec.languages) == ("hf", "tiny/model", "hf:tiny/model", ())
    folder = here / "saved"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    with pytest.raises(ModelError, match=r"holds no open_clip_config.json, nor config.json and preprocessor_config"):
        parse_spec("./saved")
    with pytest.raises(ModelError, match=r"must hold config.json and preprocessor_config.json$"):
        parse_spec("hf:./saved")
    (folder / "processor_config.json").write_text("{}")
    assert parse_spec("hf:./saved").target == str(folder)  # said outright
    (folder / "preprocessor_config.json").write_text("{}")
    for name in ("./saved", "saved", "hf:./saved", f"hf:{folder}", str(folder), "local-dir:saved"):
        assert (parse_spec(name).kind, parse_spec(name).target) == ("hf", str(folder))
    (folder / "open_clip_config.json").write_text("{}")
    assert parse_spec("./saved").kind == "folder" and parse_spec("hf:./saved").kind == "hf"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("siglip2-b31", "did you mean siglip2-b32"),
        ("Clip-B32", "did you mean clip-b32"),
        ("what", "unknown model 'what': use an alias"),
        ("a/b/c", "unknown model 'a/b/c': use an alias"),
        ("", "the model's name is empty"),
        ("hf:", "written hf:ORGANISATION/REPOSITORY"),
        ("hf:one", "written hf:ORGANISATION/REPOSITORY"),
        ("hf:a/", "written hf:ORGANISATION/REPOSITORY"),
        ("hf:./nowhere", "it does not exist; check the path, or see clipcls models list"),
        ("./nowhere", "it does not exist; check the path, or see clipcls models list"),
        ("hf-hub:a/b/c", "written hf-hub:ORGANISATION/REPOSITORY"),
        ("~nobody-here-at-all/x", "no model folder"),
    ],
)
def test_what_is_no_name(here: Path, name: str, message: str) -> None:
    with pytest.raises(ModelError, match=message):
        parse_spec(name)


def test_the_catalogue_is_read_only_where_it_can_help() -> None:
    code = (
        "import sys; from clipcls.encoders.spec import parse_spec; parse_spec('starter').languages;"
        "parse_spec('a/b'); parse_spec('hf-hub:a/b'); print('clipcls.encoders.catalogue' in sys.modules);"
        "parse_spec('xlmr-b32'); print('clipcls.encoders.catalogue' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["False", "True"]


# On disk.


def test_a_tag_is_on_disk_when_all_its_parts_are(hub: Path) -> None:
    spec = parse_spec("xlmr-b32")
    assert on_disk(parts(spec)) == "no"
    weights = download(hub, "laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k", pytorch_model__bin="x")
    assert on_disk(parts(spec)) == "no"  # another program's
    (weights / "open_clip_pytorch_model.bin").write_text("weights")
    assert on_disk(parts(spec)) == "partly"
    download(hub, "xlm-roberta-base", config__json="{}")
    assert on_disk(parts(spec)) == "partly"
    download(hub, "xlm-roberta-base", tokenizer__json="{}")
    assert on_disk(parts(spec)) == "yes"
    assert parts(spec)[-1].path == weights / "open_clip_pytorch_model.bin"
    (weights / "open_clip_model.safetensors").write_text("weights")
    assert parts(spec)[-1].path == weights / "open_clip_model.safetensors"


def test_a_link_to_a_file_that_is_gone_is_not_on_disk(hub: Path) -> None:
    folder = download(hub, "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K")
    (folder / "open_clip_model.safetensors").symlink_to("../../blobs/gone")
    assert on_disk(parts(parse_spec("clip-b32"))) == "no"


def test_models_of_the_hub(hub: Path) -> None:
    spec = parse_spec("hf-hub:tiny/model")
    assert on_disk(parts(spec)) == "no"
    config = {"model_cfg": {"text_cfg": {"hf_model_name": "tiny/text", "hf_tokenizer_name": "."}}}
    download(hub, "tiny/model", open_clip_config__json=json.dumps(config), open_clip_model__safetensors="x")
    assert [(part.what, part.place, bool(part.path)) for part in parts(spec)] == [
        ("configuration", "tiny/model", True),
        ("text tower", "tiny/text", False),
        ("tokenizer", "tiny/model", False),
        ("weights", "tiny/model", True),
    ]
    download(hub, "tiny/model", vocab__txt="a")
    download(hub, "tiny/text", config__json="{}")
    assert on_disk(parts(spec)) == "yes"


def test_models_for_transformers_whole_and_in_pieces(hub: Path) -> None:
    spec = parse_spec("chinese-clip-b16")
    repo = spec.target
    download(hub, repo, config__json="{}", preprocessor_config__json="{}", vocab__txt="a")
    assert on_disk(parts(spec)) == "partly"
    download(hub, repo, pytorch_model__bin="x")
    assert on_disk(parts(spec)) == "yes"
    index = json.dumps({"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}})
    download(hub, repo, **{"model__safetensors__index__json": index, "model-1__safetensors": "x"})
    assert on_disk(parts(spec)) == "partly"
    download(hub, repo, **{"model-2__safetensors": "x"})
    assert on_disk(parts(spec)) == "yes"


def test_an_exported_tokenizer_lies_in_a_folder_of_its_own(here: Path) -> None:
    config = {"model_cfg": {"text_cfg": {"hf_tokenizer_name": "tokenizer"}}}
    (here / "model" / "tokenizer").mkdir(parents=True)
    (here / "model" / "open_clip_config.json").write_text(json.dumps(config))
    (here / "model" / "tokenizer" / "tokenizer.json").write_text("{}")
    _, tokenizer, _ = parts(parse_spec("./model"))
    assert tokenizer.place == str(here / "model")
    assert tokenizer.path == here / "model" / "tokenizer" / "tokenizer.json"


def test_an_imported_model_has_its_name_everywhere(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_DATA_HOME", str(here / "data"))
    folder = Path(platformdirs.user_data_dir("clipcls", appauthor=False), "models", "mine")
    folder.mkdir(parents=True)
    (folder / "open_clip_config.json").write_text("{}")
    (here / "mine").mkdir()
    assert (parse_spec("mine").kind, parse_spec("mine").target) == ("folder", str(folder))


@pytest.mark.parametrize("content", ["", "[]", "{", '{"model_cfg": {}}', '{"model_cfg": {"text_cfg": 1}}'])
def test_a_damaged_configuration_stops_nobody(here: Path, content: str) -> None:
    (here / "model").mkdir()
    (here / "model" / "open_clip_config.json").write_text(content)
    found = parts(parse_spec("./model"))
    assert [part.what for part in found] == ["configuration", "weights"] and on_disk(found) == "partly"


# clipcls models.


def test_list(clipcls: Terminal, hub: Path) -> None:
    rows = {row["name"]: row for row in clipcls.rows("models", "list")}
    assert set(WANTED) <= set(rows)
    assert rows["xlmr-b32"]["ImageNet"] == "62.4%" and rows["xlmr-b32"]["Chinese"] == "53.7%"
    assert rows["starter"]["on disk"] == "yes" and rows["clip-b32"]["on disk"] == "no"
    assert rows["mobileclip2-s0"]["licence"] == "Apple AMLR, research only"
    found = {each["alias"]: each for each in json.loads(clipcls("models", "list", "--json"))}
    assert found["xlmr-b32"]["imagenet"] == 0.6236 and found["starter"]["on_disk"] == "yes"


def test_list_is_quick_and_imports_nothing_heavy(unmeasured: None) -> None:
    code = (
        "import sys; from clipcls.cli import run; code = run(['models', 'list']);"
        "heavy = {'torch', 'open_clip', 'transformers', 'numpy', 'onnxruntime', 'httpx'} & set(sys.modules);"
        "print(code, heavy or 'none', file=sys.stderr)"
    )
    with within(0.5):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr.split() == ["0", "none"] and done.stdout.count("\n") > 14


def test_info_tells_each_fact_with_its_source(clipcls: Terminal, hub: Path) -> None:
    told = clipcls("models", "info", "xlmr-b32")
    assert "ImageNet zero-shot top-1, English labels: 62.4% (open_clip, docs/openclip_results.csv" in told
    assert "weights: not on disk, it is in laion/CLIP-ViT-B-32-xlm-roberta-base-laion5B-s13B-b90k" in told
    assert clipcls("models", "info", "xlm-roberta-base-ViT-B-32/laion5b_s13b_b90k") == told
    assert "not published" in clipcls("models", "info", "chinese-clip-b16")
    found = json.loads(clipcls("models", "info", "starter", "--json"))
    assert found["on_disk"] == "yes" and found["files"][-1]["path"].endswith("open_clip_model.safetensors")


def test_info_of_what_is_not_listed(clipcls: Terminal, hub: Path, here: Path) -> None:
    told = clipcls("models", "info", "ViT-B-16/openai")
    assert "not in the catalogue" in told and "timm/vit_base_patch16_clip_224.openai" in told
    assert json.loads(clipcls("models", "info", "hf-hub:tiny/x", "--json"))["on_disk"] == "no"
    clipcls("models", "info", "siglip2-b31", code=4)
    assert "did you mean siglip2-b32" in clipcls.err
    clipcls("models", "info", "ViT-B-32/nothing", code=4)
    assert "open_clip knows no weights 'nothing' of ViT-B-32" in clipcls.err
    assert "known are openai, " in clipcls.err and " more" in clipcls.err and len(clipcls.err) < 200
    clipcls("models", "info", "ViT-B-32/opneai", code=4)
    assert "did you mean openai?" in clipcls.err
    clipcls("models", "info", "ViT-B32/openai", code=4)
    assert "did you mean ViT-B-32" in clipcls.err
    clipcls("models", "info", "org/repo", code=4)
    assert "write hf-hub:org/repo" in clipcls.err


def test_info_measures_a_precision(clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []

    def measure(model: str, precisions: list[str], device: str, traced: object) -> Iterator[Agreement]:
        asked.append((model, *precisions, device))
        yield Agreement(precisions[0], 0.99, 0.98, 0.97, 0.955, 1.5, 200)

    monkeypatch.setattr("clipcls.encoders.agreement.agreements", measure)
    found = json.loads(clipcls("models", "info", "starter", "--json", "--precision", "int8"))
    assert found["measured"]["precision"] == "int8" and found["measured"]["same"] == 0.955
    told = clipcls("models", "info", "starter", "--precision", "int8", "--device", "cpu")
    assert told.endswith(
        "int8 against fp32: cosine of images at least 0.9900 (0.9700 less their mean), of texts 0.9800; "
        "the same best label for 95.5% of 200 pictures; 1.50 times as fast\n"
    )
    assert asked == [("starter", "int8", "auto"), ("starter", "int8", "cpu")]
    for words, message in (
        (("--precision", "fp8"), "unknown precision 'fp8'"),
        (("--precision", "int8", "--device", "tpu"), "unknown device 'tpu'"),
        (("--device", "cpu"), "give --precision too"),
    ):
        assert clipcls("models", "info", "starter", *words, code=2) == "" and message in clipcls.err
    assert len(asked) == 2


@pytest.mark.parametrize(
    "source",
    [
        *("", "what(", "_PRETRAINED = 1", "_PRETRAINED = {'a': {'b': {}}}", "for a in b: 1"),
        *("_PRETRAINED = {}", "_PRETRAINED = {'a': {'b': {'hf_hub': 1}}}"),
    ],
)
def test_an_open_clip_of_another_make_is_told_in_one_line(
    clipcls: Terminal, hub: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str
) -> None:
    (tmp_path / "constants.py").touch()
    (tmp_path / "pretrained.py").write_text(source)
    monkeypatch.setattr("clipcls.encoders.tags.open_clip_folder", lambda: tmp_path)
    _tags.cache_clear()
    try:
        clipcls("models", "info", "ViT-B-32/openai", code=4)
    finally:
        _tags.cache_clear()
    (line,) = clipcls.err.splitlines()
    assert "the installed open_clip 3." in line and "is not understood" in line and "pip install" in line


def test_a_narrow_terminal_leaves_names_whole(clipcls: Terminal, hub: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "60")
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    words = clipcls("models", "list").split()
    assert {entry.alias for entry in entries()} <= set(words)


def test_a_narrow_terminal_leaves_out_columns_rather_than_break_numbers(
    clipcls: Terminal, hub: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "120")
    wide = clipcls("models", "list")
    assert all(word in wide for word in ("Mparams", "GFLOPs", "needs", " 220.46 ", " 427.89 ", " transformers "))
    monkeypatch.setenv("COLUMNS", "80")
    narrow = clipcls("models", "list")
    assert all(word in narrow for word in ("ImageNet", "Chinese", "MB", " 83.4% ", " 4540 "))
    assert not any(word in narrow for word in ("Mparams", "GFLOPs", "needs", "transformers"))


def test_path(clipcls: Terminal, hub: Path) -> None:
    assert (Path(clipcls("models", "path", "starter").strip()) / "open_clip_model.safetensors").is_file()
    clipcls("models", "path", "clip-b32", code=4)
    assert "are not on disk: clipcls models pull clip-b32" in clipcls.err
    folder = download(hub, "laion/CLIP-ViT-B-32-DataComp.XL-s13B-b90K", open_clip_model__safetensors="x")
    assert clipcls("models", "path", "clip-b32") == f"{folder}\n"


def user_config() -> Path:
    return Path(platformdirs.user_config_dir("clipcls", appauthor=False)) / "config.toml"


def test_use_writes_the_default(clipcls: Terminal, hub: Path, here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clipcls("models", "use", "siglip2-b32")
    assert user_config().read_text("utf-8") == 'model = "siglip2-b32"\n'
    assert "it is not all on disk" in clipcls.err and "warning" not in clipcls.err
    assert Settings.load().model == "siglip2-b32"
    clipcls("models", "use", "starter", "--project")
    assert Path("clipcls.toml").read_text("utf-8") == 'model = "starter"\n' and "not all on disk" not in clipcls.err
    clipcls("models", "use", "clip-b32")
    assert "warning: here the default is still starter, by clipcls.toml or CLIPCLS_MODEL" in clipcls.err
    monkeypatch.setenv("CLIPCLS_MODEL", "clip-l14")
    clipcls("models", "use", "xlmr-b32", "--project")
    assert "warning: here the default is still clip-l14, by CLIPCLS_MODEL" in clipcls.err


def test_use_of_a_folder_means_it_from_everywhere(clipcls: Terminal, here: Path) -> None:
    folder = here / "模型"
    folder.mkdir()
    (folder / "open_clip_config.json").write_text("{}")
    clipcls("models", "use", "./模型", "--project")
    assert Path("clipcls.toml").read_text("utf-8") == 'model = "./模型"\n'
    clipcls("models", "use", "./模型")
    assert tomllib.loads(user_config().read_text("utf-8")) == {"model": str(folder)}
    clipcls("models", "use", os.path.relpath(STARTER_FOLDER))
    assert Settings.load({"model": None}).model == "./模型" and "still ./模型" in clipcls.err
    assert tomllib.loads(user_config().read_text("utf-8")) == {"model": "starter"}


@pytest.mark.parametrize("name", ["what", "ViT-B-32/nothing", "no/such", "./nowhere", ""])
def test_use_refuses_what_is_no_model(clipcls: Terminal, here: Path, name: str) -> None:
    clipcls("models", "use", name, code=4)
    assert not user_config().exists()


KEPT = {
    "empty": ("", "{}\n"),
    "comments": ("# mine\ndevice = 'cpu'  # slow\n", "# mine\ndevice = 'cpu'  # slow\n{}\n"),
    "no last line end": ("batch_size = 8", "batch_size = 8\n{}\n"),
    "replaced": ("# mine\nmodel = 'a/b'  # old\nworkers = 2\n", "# mine\n{}  # old\nworkers = 2\n"),
    "escapes": ('model = "a\\"b#c"\nworkers = 2\n', "{}\nworkers = 2\n"),
    "quoted key": ("'model'='a/b'\n", "'model'=\"clip-b32\"\n"),
    "in a string": ("prompts = '''\nthe model = {{}}\n'''\n", "prompts = '''\nthe model = {{}}\n'''\n{}\n"),
    "a table": ("[other]\nmodel = 'x'\n", "{}\n[other]\nmodel = 'x'\n"),
    "Windows": ("# mine\r\nmodel = 'a/b'\r\nworkers = 2\r\n", "# mine\r\n{}\r\nworkers = 2\r\n"),
}


@pytest.mark.parametrize(("old", "new"), KEPT.values(), ids=KEPT)
def test_everything_else_in_the_file_stays(tmp_path: Path, old: str, new: str) -> None:
    file = tmp_path / "config.toml"
    file.write_bytes(old.replace("{{}}", "{}").encode())
    file.chmod(0o600)
    save_model(file, "clip-b32")
    expected = new.replace("{{}}", "\0").replace("{}", 'model = "clip-b32"').replace("\0", "{}")
    assert file.read_bytes().decode() == expected
    assert file.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("old", ["model = '''a'''\n", "prompts = '''\nmodel = 'x'\n'''\nmodel = 'y'\n"])
def test_what_cannot_be_changed_safely_stays(tmp_path: Path, old: str) -> None:
    file = tmp_path / "config.toml"
    file.write_text(old)
    with pytest.raises(UsageError, match="change it by hand to model = "):
        save_model(file, "clip-b32")
    assert file.read_text() == old


def test_a_broken_or_unwritable_file_is_told(tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text("model = \n")
    with pytest.raises(UsageError, match="not valid TOML"):
        save_model(file, "clip-b32")
    (tmp_path / "plain").write_text("")
    with pytest.raises(OutputError, match="cannot be written"):
        save_model(tmp_path / "plain" / "config.toml", "clip-b32")


def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "dotfiles.toml").write_text("workers = 2\n")
    link = tmp_path / "config.toml"
    link.symlink_to("dotfiles.toml")
    save_model(link, "starter")
    assert link.is_symlink() and (tmp_path / "dotfiles.toml").read_text() == 'workers = 2\nmodel = "starter"\n'


def names(clipcls: Terminal, *words: str) -> list[str]:
    found: dict[str, Any] = json.loads(clipcls("models", "recommend", "--json", *words))
    assert all(each["why"] and each["command"] == f"clipcls models use {each['alias']}" for each in found["models"])
    return [each["alias"] for each in found["models"]]


def test_recommend_goes_by_language_then_accuracy_then_speed(clipcls: Terminal) -> None:
    assert names(clipcls, "-l", "大象,猫", "--device", "cpu")[0] == "xlmr-b32"
    assert names(clipcls, "-l", "cat", "--device", "cuda")[0] == "siglip2-so400m"
    quick = names(clipcls, "-l", "cat", "--device", "cpu", "--fast")
    assert "mobileclip2-s0" in quick and "siglip2-b16" not in quick
    assert names(clipcls, "-l", "大象,猫", "--device", "cpu", "--fast")[-1] == "starter"


@pytest.mark.parametrize(("labels", "reading"), [("大象", "zh"), ("cat,大象", "zh"), ("слон", "mul"), ("ゾウ", "mul")])
@pytest.mark.parametrize("device", ["cpu", "cuda:1", "mps"])
@pytest.mark.parametrize("fast", [(), ("--fast",)])
def test_every_recommended_model_reads_the_labels(
    clipcls: Terminal, labels: str, reading: str, device: str, fast: tuple[str, ...]
) -> None:
    found = names(clipcls, "-l", labels, "--device", device, *fast)
    assert 2 <= len(found) <= 3
    for alias in found:
        entry = find(alias)
        assert entry and (reading in entry.languages or "mul" in entry.languages)


def test_models_are_described_in_chinese(clipcls: Terminal, hub: Path) -> None:
    told = clipcls("--lang", "zh", "models", "recommend", "-l", "大象,cat", "--device", "cpu")
    assert told.startswith("xlmr-b32：在 CPU 上够快的模型里中文最好；英文稍弱\n    看得懂中文\n    看得懂拉丁字母\n")
    assert "\n    按中文句子能找到 53.7% 的图片（Crossmodal-3600）\n" in told
    told = clipcls("--lang", "zh", "models", "info", "xlmr-b32")
    assert "\n许可证：MIT (the hub" in told
    assert "\n在硬盘上：否\n  text tower：不在硬盘上，在 xlm-roberta-base 里\n" in told
    assert "\n不用 torch：可以，计算图随它一起在 " in clipcls("--lang", "zh", "models", "info", "starter")


def test_recommend_says_why_and_what_to_type(clipcls: Terminal) -> None:
    told = clipcls("models", "recommend", "--labels", "cat,dog", "--device", "cpu")
    assert "    clipcls models use siglip2-b16\n" in told and "reads Latin script" in told and "on cpu" in told
    assert "not for commercial use (Apple AMLR, research only)" in told
    assert "    reads your labels\n" in clipcls("models", "recommend", "--labels", "1,2")
    clipcls("models", "recommend", code=2)
    assert "no labels given" in clipcls.err


def test_what_is_too_slow_comes_last() -> None:
    ranked, budget = recommended(lambda entry: True, chinese=True, device="cpu")
    costs = [(entry.image_gflops or 0) > budget for entry in ranked]
    assert costs == sorted(costs) and any(costs)


def test_the_catalogue_is_in_the_wheel(tmp_path: Path) -> None:
    import zipfile

    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=os.environ | {"PYTHONPATH": ""})
    (wheel,) = tmp_path.glob("*.whl")
    assert "clipcls/encoders/catalogue.toml" in zipfile.ZipFile(wheel).namelist()
