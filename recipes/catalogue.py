"""Carry the figures of open_clip's published tables over into clipcls/encoders/catalogue.toml.

    python recipes/catalogue.py --tables DIR

DIR holds model_profile.csv, openclip_results.csv and openclip_multilingual_retrieval_results.csv of open_clip's folder
docs (github.com/mlfoundations/open_clip, commit 89fb801, MIT licence). What they lack of an architecture is counted
here, on torch's meta device and so without weights, in the way that gives the tables' own figures where they have some.
Only the figures whose source is one of these are rewritten; what people wrote stays.
"""

from __future__ import annotations

import argparse
import csv
import json
import re
import tomllib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
CATALOGUE = ROOT / "clipcls" / "encoders" / "catalogue.toml"
STARTER = ROOT / "clipcls" / "starter" / "open_clip_config.json"
OURS = ("results", "retrieval", "profile", "counted")
FACTS = ("licence", "download_mb", "imagenet", "chinese_retrieval", "image_params", "image_gflops")
CHINESE = "crossmodal3600 image_retrieval_recall@1 zh"

Figures = dict[str, tuple[float, str]]
"""By field the value and the key of its source."""


@dataclass(frozen=True, slots=True)
class Counted:
    """A model's size, from its architecture alone."""

    image_params: float
    """Millions."""
    image_gflops: float
    params: float | None
    """Millions, of both towers; None where the text tower's shape is on the hub."""


@dataclass(frozen=True, slots=True)
class Tables:
    """Rows of open_clip's tables, by architecture or by ARCH/TAG."""

    profile: dict[str, dict[str, str]]
    results: dict[str, dict[str, str]]
    retrieval: dict[str, dict[str, str]]

    @classmethod
    def read(cls, folder: Path) -> Tables:
        def rows(name: str, *key: str) -> dict[str, dict[str, str]]:
            with (folder / name).open(encoding="utf-8", newline="") as file:
                return {"/".join(row[part] for part in key): row for row in csv.DictReader(file)}

        return cls(
            rows("model_profile.csv", "model"),
            rows("openclip_results.csv", "name", "pretrained"),
            rows("openclip_multilingual_retrieval_results.csv", "model", "version"),
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="the folder of open_clip's CSV tables")
    text = CATALOGUE.read_text(encoding="utf-8")
    CATALOGUE.write_text(rewritten(text, Tables.read(parser.parse_args().tables), count), encoding="utf-8")


def rewritten(text: str, tables: Tables, counter: Callable[[str], Counted] | None) -> str:
    """The catalogue with its figures as the tables have them.

    Args:
        text: catalogue.toml.
        tables: open_clip's.
        counter: counts an architecture that the tables lack; without one the figures that were counted stay.
    """
    catalogue = tomllib.loads(text)
    parts = re.split(r"^(?=\[)", text, flags=re.MULTILINE)
    for at, part in enumerate(parts):
        alias = part[1 : part.find("]")]
        if part.startswith("[") and alias != "sources":
            parts[at] = _with_figures(part, catalogue[alias], tables, counter)
    return "".join(parts)


def _with_figures(part: str, table: dict[str, Any], tables: Tables, counter: Callable[[str], Counted] | None) -> str:
    figures = tabled(table, tables)
    if counter:
        figures = counted(table, counter) | figures
    # What people wrote has a better source than a count, and what the tables say is theirs alone to say.
    written = {name for name, fact in table.items() if isinstance(fact, dict) and fact["source"] not in OURS}
    stays = () if counter else ("counted",)
    lines = [
        line
        for line in part.rstrip("\n").split("\n")
        if not ((found := re.search(r'source = "(\w+)" }$', line)) and found[1] in OURS and found[1] not in stays)
    ]
    lines += [
        f'{name} = {{ value = {value:.10g}, source = "{source}" }}'
        for name, (value, source) in figures.items()
        if name not in written
    ]
    return "\n".join(_ordered(lines)) + part[len(part.rstrip("\n")) :]


def _ordered(lines: list[str]) -> list[str]:
    """The figures at the end, in the order in which they are listed; the rest as it was."""

    def place(line: str) -> int:
        name = line.split(" ")[0]
        return FACTS.index(name) if name in FACTS else -1

    return sorted(lines, key=place)


def tabled(table: dict[str, Any], tables: Tables) -> Figures:
    """What open_clip's tables say of a model."""
    spec = table["spec"]
    found: Figures = {}
    if row := tables.results.get(spec):
        found["imagenet"] = float(row["ImageNet 1k"]), "results"
    if row := tables.retrieval.get(spec):
        found["chinese_retrieval"] = float(row[CHINESE]), "retrieval"
    if row := tables.profile.get(table.get("image_tower") or spec.split("/")[0]):
        found["image_params"] = float(row["image_mparams"]), "profile"
        found["image_gflops"] = float(row["image_gflops"]), "profile"
    return found


def counted(table: dict[str, Any], counter: Callable[[str], Counted]) -> Figures:
    """What follows from a model's architecture."""
    spec = table["spec"]
    if ":" in spec:
        return {}
    size = counter(spec.split("/")[0])
    found: Figures = {
        "image_params": (round(size.image_params, 2), "counted"),
        "image_gflops": (round(size.image_gflops, 2), "counted"),
    }
    if size.params:
        found["download_mb"] = round(4 * size.params, -1 if size.params > 250 else 0), "counted"
    return found


def count(arch: str) -> Counted:
    """Parameters and floating-point operations of one of open_clip's architectures, or of the starter."""
    import open_clip
    import torch
    from open_clip.model import _build_text_tower, _build_vision_tower
    from torch.nn.attention import SDPBackend, sdpa_kernel
    from torch.utils.flop_counter import FlopCounterMode

    cfg = json.loads(STARTER.read_text("utf-8"))["model_cfg"] if arch == "starter" else open_clip.get_model_config(arch)
    quick_gelu, size = cfg.get("quick_gelu", False), cfg["vision_cfg"]["image_size"]
    with torch.device("meta"):
        image = _build_vision_tower(cfg["embed_dim"], cfg["vision_cfg"], quick_gelu).eval()
        text = None
        if "hf_model_name" not in cfg["text_cfg"]:
            text = _build_text_tower(cfg["embed_dim"], cfg["text_cfg"], quick_gelu)
        operations = FlopCounterMode(display=False)
        with sdpa_kernel(SDPBackend.MATH), operations:
            image(torch.empty(1, 3, size, size))
    image_params = _millions(image)
    return Counted(image_params, operations.get_total_flops() / 1e9, image_params + _millions(text) if text else None)


def _millions(tower: Any) -> float:
    return sum(parameter.numel() for parameter in tower.parameters()) / 1e6


if __name__ == "__main__":
    main()
