"""What a maintainer asks for when something does not work: versions, devices, folders, settings, and a self-test.

Without the self-test nothing is imported that could be broken, and no network is asked.
"""

from __future__ import annotations

import json
import locale
import os
import platform
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from clipcls import __version__
from clipcls.cores import cores
from clipcls.errors import ClipclsError
from clipcls.settings import Settings

_PACKAGES = (
    *("torch", "torchvision", "open_clip_torch", "transformers", "onnxruntime", "tokenizers", "huggingface_hub"),
    *("safetensors", "numpy", "pillow", "typer", "rich"),
)
_VARIABLES = (
    *("HF_ENDPOINT", "HF_HOME", "HF_HUB_CACHE", "HF_HUB_OFFLINE", "HF_HUB_DISABLE_XET", "CUDA_VISIBLE_DEVICES"),
    *("OMP_NUM_THREADS", "PYTHONUTF8", "PYTHONIOENCODING", "LANG", "LC_ALL"),
)
_SECRET = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy", "HF_TOKEN")
"""Whether they are set may matter; what they hold may be a password."""
_GPU_QUERY = ("nvidia-smi", "--query-gpu=name,memory.total,driver_version", "--format=csv,noheader")
_GPU_SECONDS = 0.6
_HUB_SECONDS = 2.0
_TORCH_SECONDS = 120.0
_IMPORT_TORCH = "import torch; print(torch.__version__, 'CUDA', torch.version.cuda, torch.cuda.is_available())"
_LAST = "self-test.json"


@dataclass(frozen=True, slots=True)
class Check:
    """One part of a self-test."""

    what: str
    ok: bool
    said: str
    seconds: float


def report(settings: Settings) -> Iterator[tuple[str, str]]:
    """Everything that is known without importing torch or asking a network, as pairs of a name and a value."""
    yield "clipcls", f"{__version__}, {Path(__file__).parent}"
    yield "python", f"{platform.python_version()}, {sys.executable}"
    yield "system", f"{platform.platform()}, {locale.getpreferredencoding(False)}"
    yield "packages", ", ".join(f"{name} {_version(name)}" for name in _PACKAGES)
    yield "extras", ", ".join(f"{name}: {state}" for name, state in _extras())
    yield "cores", f"{cores()} at hand of {os.cpu_count()}"
    yield "graphics cards", _graphics_cards()
    yield "settings", ", ".join(f"{field.name}={getattr(settings, field.name)!r}" for field in fields(settings))
    yield "environment", _environment() or "nothing that matters is set"
    yield "embedding cache", _size(settings.cache_folder)
    yield "hub cache", _size(_hub_cache())
    yield "last self-test", _last(settings)


def self_test(settings: Settings) -> Iterator[Check]:
    """Import torch, reach the hub, and put one image and one text through the chosen model; and remember it all."""
    checks = []
    steps: tuple[tuple[str, Callable[[], str]], ...] = (
        ("torch", _import_torch),
        ("hub", _reach_hub),
        (f"model {settings.model}", lambda: _use_model(settings)),
    )
    for what, step in steps:
        began = time.perf_counter()
        try:
            said, ok = step(), True
        except Exception as exc:  # a broken installation fails in ways of its own
            said, ok = " ".join(str(exc).split()) or type(exc).__name__, False
        checks.append(Check(what, ok, said, round(time.perf_counter() - began, 2)))
        yield checks[-1]
    with suppress(OSError):
        settings.cache_folder.mkdir(parents=True, exist_ok=True)
        kept = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "checks": [asdict(check) for check in checks]}
        (settings.cache_folder / _LAST).write_text(json.dumps(kept, ensure_ascii=False), "utf-8")


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "missing"


def _extras() -> Iterator[tuple[str, str]]:
    """Each extra, and which of its packages are missing."""
    needed: dict[str, list[str]] = {}
    with suppress(PackageNotFoundError):
        for line in requires("clipcls") or ():
            requirement, _, marker = line.partition(";")
            if "extra ==" in marker and not requirement.startswith("clipcls"):
                name = requirement.strip().split("[")[0].rstrip("<>=!~.,0123456789 ")
                needed.setdefault(marker.split("extra ==")[1].strip(" '\""), []).append(name)
    for extra, packages in needed.items():
        missing = [name for name in packages if _version(name) == "missing"]
        yield extra, f"without {', '.join(missing)}" if missing else "installed"


def _graphics_cards() -> str:
    try:
        done = subprocess.run(_GPU_QUERY, capture_output=True, text=True, timeout=_GPU_SECONDS, check=True)
    except FileNotFoundError:
        return "no NVIDIA driver (there is no nvidia-smi)"
    except subprocess.TimeoutExpired:
        return f"nvidia-smi did not answer within {_GPU_SECONDS} s"
    except (OSError, subprocess.CalledProcessError) as exc:
        return f"nvidia-smi failed: {' '.join(str(exc).split())}"
    return "; ".join(done.stdout.strip().splitlines()) or "none"


def _environment() -> str:
    names = (*_VARIABLES, *sorted(name for name in os.environ if name.startswith("CLIPCLS_")))
    shown = [f"{name}={os.environ[name]}" for name in names if os.environ.get(name)]
    return ", ".join([*shown, *(f"{name} is set" for name in _SECRET if os.environ.get(name))])


def _hub_cache() -> Path:
    """As huggingface_hub finds it, which takes a fifth of a second to import."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "huggingface")
    return Path(os.environ.get("HF_HUB_CACHE") or Path(home, "hub")).expanduser()


def _size(folder: Path) -> str:
    if not folder.is_dir():
        return f"{folder}, which does not exist yet"
    size = 0
    for root, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):
                size += os.lstat(os.path.join(root, name)).st_size  # links lead to what is counted already
    return f"{folder}, {size / 1e6:,.1f} MB" + ("" if os.access(folder, os.W_OK) else ", not writable")


def _last(settings: Settings) -> str:
    try:
        kept = json.loads((settings.cache_folder / _LAST).read_text("utf-8"))
        checks = [f"{check['what']} {'ok' if check['ok'] else 'FAILED: ' + check['said']}" for check in kept["checks"]]
        return f"{kept['time']}: {'; '.join(checks)}"
    except (OSError, ValueError, KeyError, TypeError):
        return "none yet (clipcls doctor --self-test)"


def _import_torch() -> str:
    """In a process of its own: a broken torch may take its process with it."""
    from clipcls.isolated import python

    done = subprocess.run(python(_IMPORT_TORCH), capture_output=True, text=True, timeout=_TORCH_SECONDS, check=False)
    if done.returncode:
        last = (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        raise ClipclsError(f"cannot be imported: {last}; pip install --force-reinstall torch torchvision")
    return done.stdout.strip()


def _reach_hub() -> str:
    endpoint = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        return f"{endpoint} was not asked: HF_HUB_OFFLINE is set"
    if not endpoint.startswith(("http://", "https://")):
        raise ClipclsError(f"HF_ENDPOINT is no web address: {endpoint}")
    answer: Future[str] = Future()
    # In a thread, since looking a name up has no time limit of its own.
    threading.Thread(target=_ask, args=(endpoint, answer), daemon=True).start()
    try:
        return f"{endpoint} answers {answer.result(_HUB_SECONDS)}"
    except OSError as exc:
        reason = getattr(exc, "reason", None) or str(exc) or f"no answer within {_HUB_SECONDS:g} s"
        raise ClipclsError(f"{endpoint} cannot be reached: {reason}; a mirror is set by HF_ENDPOINT") from exc


def _ask(endpoint: str, answer: Future[str]) -> None:
    from urllib.error import HTTPError
    from urllib.request import Request, urlopen

    try:
        with urlopen(Request(endpoint, method="HEAD"), timeout=_HUB_SECONDS) as page:
            answer.set_result(str(page.status))
    except HTTPError as exc:  # it is there, whatever it has to say
        answer.set_result(str(exc.code))
    except Exception as exc:
        answer.set_exception(exc)


def _use_model(settings: Settings) -> str:
    """One picture and one text through both towers."""
    import tempfile

    from PIL import Image

    from clipcls.classifier import Classifier

    with tempfile.TemporaryDirectory() as folder:
        picture = Path(folder, "green.png")
        Image.new("RGB", (64, 64), (30, 160, 60)).save(picture)
        with Classifier.load(
            settings.model, device=settings.device, precision=settings.precision, cache=False
        ) as classifier:
            image, text = classifier.embed_images(picture), classifier.embed_texts("一张照片")
            info = classifier.info
    cosine = float((image @ text.T)[0, 0])
    return f"works: {info.dim} dimensions, {info.precision}, {info.fingerprint}, cosine {cosine:.4f}"
