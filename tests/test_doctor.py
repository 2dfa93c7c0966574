from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import Terminal, within
from fakes import FakeDoor, FakeEncoder
from hub import Hub

from clipcls import doctor
from clipcls.encoders.agreement import Agreement
from clipcls.errors import ClipclsError, DeviceError
from clipcls.settings import Settings


def lines(text: str) -> dict[str, str]:
    return dict(line.split(": ", 1) for line in text.splitlines())


def test_it_tells_what_a_maintainer_asks_for(clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://me:secret@proxy")
    told = lines(clipcls("doctor"))
    assert "torch 2." in told["packages"] and told["clipcls"].startswith("0.")
    assert "camera" in told["extras"] and "model='starter'" in told["settings"]
    assert "HTTPS_PROXY is set" in told["environment"] and "secret" not in clipcls.out
    assert "HF_HUB_OFFLINE=1" in told["environment"]


def test_without_the_self_test_it_is_quick_and_imports_nothing_heavy(here: Path, unmeasured: None) -> None:
    check = "from clipcls.cli import run; import sys; assert run(['doctor']) == 0; print('torch' in sys.modules)"
    with within(1):
        done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, timeout=300, check=True)
    assert done.stdout.splitlines()[-1] == "False"


def test_a_broken_torch_is_told(here: Path, clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    (here / "broken" / "torch").mkdir(parents=True)
    (here / "broken" / "torch" / "__init__.py").write_text("raise OSError('libcudart.so: cannot open shared object')")
    monkeypatch.setenv("PYTHONPATH", str(here / "broken"))
    done = subprocess.run(
        [sys.executable, "-m", "clipcls", "doctor", "--self-test"], capture_output=True, text=True, timeout=60
    )
    told = lines(done.stdout)
    assert told["torch"].startswith("FAILED: cannot be imported: OSError: libcudart.so")
    assert told["model starter"].startswith("ok: works: 384 dimensions") and done.returncode == 0
    assert "libcudart" in lines(clipcls("doctor"))["last self-test"]


def test_a_torch_that_takes_its_process_with_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_IMPORT_TORCH", "import os; os._exit(7)")
    with pytest.raises(ClipclsError, match="cannot be imported: exit code 7; pip install --force-reinstall torch"):
        doctor._import_torch()


def test_a_model_that_does_not_work_is_exit_code_4(clipcls: Terminal, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doctor, "_import_torch", lambda: "fine")
    told = lines(clipcls("doctor", "--self-test", "--model", "no/where", code=4))
    assert told["model no/where"].startswith("FAILED: open_clip knows no architecture 'no'")


def test_a_silent_hub_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    assert "was not asked: HF_HUB_OFFLINE is set" in doctor._reach_hub()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(doctor, "_HUB_SECONDS", 0.2)
    monkeypatch.setattr(doctor, "_ask", lambda endpoint, answer: time.sleep(1))
    with pytest.raises(Exception, match=r"cannot be reached: no answer within 0.2 s; a mirror"):
        doctor._reach_hub()


def test_what_the_hub_answers_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("HF_HUB_OFFLINE")
    with Hub() as hub:
        monkeypatch.setenv("HF_ENDPOINT", hub.url)
        assert doctor._reach_hub() == f"{hub.url} answers 404"
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:1")
    with pytest.raises(ClipclsError, match=r"http://127.0.0.1:1 cannot be reached: .*refused; a mirror is set by"):
        doctor._reach_hub()
    monkeypatch.setenv("HF_ENDPOINT", "hf-mirror.com")
    with pytest.raises(ClipclsError, match=r"HF_ENDPOINT is no web address: hf-mirror\.com"):
        doctor._reach_hub()


def test_precisions_are_compared_as_far_as_the_device_has_them(
    clipcls: Terminal, monkeypatch: pytest.MonkeyPatch
) -> None:
    def agreements(model: str, precisions: list[str], device: str, traced: Path) -> Iterator[Agreement]:
        (precision,) = precisions
        if precision == "fp16":
            raise DeviceError("fp16 is for a graphics card")
        yield Agreement(precision, 0.99, 0.98, 0.97, 0.999, 2.0 if precision == "bf16" else 1.0, 200)

    monkeypatch.setattr("clipcls.encoders.agreement.agreements", agreements)
    assert clipcls("doctor", "--probe").splitlines()[-2:] == [
        "int8,1.00,0.99000,0.97000,99.9% of 200,no",
        "bf16,2.00,0.99000,0.97000,99.9% of 200,yes",
    ]


@pytest.mark.parametrize(
    ("script", "told"),
    [
        ("#!/bin/sh\necho 'NVIDIA H100, 81559 MiB, 580.1'\n", "NVIDIA H100, 81559 MiB, 580.1"),
        ("#!/bin/sh\nexit 9\n", "nvidia-smi failed"),
        ("#!/bin/sh\nexec sleep 5\n", "did not answer"),
    ],
)
def test_graphics_cards_are_the_drivers_to_tell(
    here: Path, monkeypatch: pytest.MonkeyPatch, script: str, told: str
) -> None:
    tool = here / "nvidia-smi"
    tool.write_text(script)
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{here}:/bin:/usr/bin")
    monkeypatch.setattr(doctor, "_GPU_SECONDS", 0.3)
    assert told in doctor._graphics_cards()


def test_a_damaged_memory_of_the_last_self_test_is_none(clipcls: Terminal) -> None:
    folder = Settings.load().cache_folder
    folder.mkdir(parents=True)
    for text in ("{", "[]", '{"time": 1, "checks": [1]}', json.dumps({"checks": []})):
        (folder / "self-test.json").write_text(text)
        assert "none yet" in lines(clipcls("doctor"))["last self-test"]


def test_one_picture_and_one_text_go_through_the_model(fake: object) -> None:
    encoder = FakeEncoder()
    fake(encoder)  # type: ignore[operator]
    assert "16 dimensions" in doctor._use_model(Settings(model="fake/one"))
    assert isinstance(FakeDoor(encoder), FakeDoor) and encoder.image_batches == [1]
