"""An encoder that can't be loaded whole is not loaded at all, and the error says what to do."""

import http.server
import inspect
import json
import os
import shutil
import subprocess
import sys
import threading

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny_checkpoints import gemma_tokenizer, save_siglip

from worldmodel.vision_language import EncoderError, load, loading


@pytest.fixture
def copy(checkpoints, tmp_path):
    """`copy(kind)` is a checkpoint that a test may spoil."""
    return lambda kind: shutil.copytree(checkpoints(kind), tmp_path / kind)


def change_weights(folder, change) -> None:
    weights = load_file(folder / "model.safetensors")
    change(weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})


# Which one is meant


def test_the_embedded_encoder_says_what_makes_it_and_loads_as_any_other(copy, tmp_path, monkeypatch):
    monkeypatch.setattr(loading, "EMBEDDED", tmp_path / "embedded")
    with pytest.raises(EncoderError, match="python -m scripts.pretrain_vision_language"):
        load("embedded")
    copy("siglip").rename(tmp_path / "embedded")
    encoder = load("embedded")
    assert encoder.name == "embedded" and encoder.encode_text(["a red cube"]).shape == (1, 24)


def test_folders_that_hold_no_checkpoint(tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(EncoderError, match="empty is no checkpoint: it has neither config.json"):
        load(tmp_path / "empty")
    for name in (tmp_path / "nothing", "./nothing", "~/nothing/there", "a/b/c"):
        with pytest.raises(EncoderError, match=r"there is no folder .*vision_language.name"):
            load(name)
    with pytest.raises(EncoderError, match="has no open_clip_config.json"):
        load(f"open_clip:local-dir:{tmp_path / 'empty'}")


@pytest.mark.parametrize(
    ("family", "message"),
    [
        ("bert", "is of type 'bert'.*clip, siglip, dinov2.*vision_language=embedded"),
        ("siglip2", "NaFlex.*google/siglip2-base-patch16-224"),
    ],
)
def test_other_families(copy, family, message):
    folder = copy("siglip")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "model_type": family}))
    with pytest.raises(EncoderError, match=message):
        load(folder)


def test_a_siglip_without_a_pooling_head(tmp_path):
    with pytest.raises(EncoderError, match="vision_use_head"):
        load(save_siglip(tmp_path / "headless", vision_use_head=False))


# The hub


def test_a_hub_that_is_switched_off(tmp_path):
    with pytest.raises(
        EncoderError,
        match="owner/model is not on this computer.*HF_HUB_OFFLINE.*hf download owner/model.*vision_language=embedded",
    ):
        load("owner/model")
    with pytest.raises(EncoderError, match="check the id, which is <owner>/<model>"):
        load("not an id!")
    pytest.importorskip("open_clip")
    with pytest.raises(EncoderError, match="open_clip:ViT-B-32/openai can't be loaded.*vision_language=embedded"):
        load("open_clip:ViT-B-32/openai")


class Hub(http.server.BaseHTTPRequestHandler):
    """Says what the hub says of ids that are wrong, behind a licence, or without a config.json."""

    def do_HEAD(self):
        kind = self.path.split("/")[2]
        code = {"missing": "RepoNotFound", "gated": "GatedRepo"}.get(kind, "EntryNotFound")
        self.send_response(403 if kind == "gated" else 404)
        self.send_header("X-Error-Code", code)
        self.send_header("X-Repo-Commit", "0" * 40)
        self.send_header("Content-Length", "0")
        self.end_headers()

    do_GET = do_HEAD

    def log_message(self, *arguments):
        pass


def test_what_the_hub_refuses(tmp_path):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    program = """
from worldmodel.vision_language import EncoderError, load
for name in ("owner/missing", "owner/gated", "owner/other"):
    try:
        load(name)
    except EncoderError as error:
        print(str(error).replace(chr(10), " "))
"""
    surroundings = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_HOME": str(tmp_path), "NO_PROXY": "127.0.0.1"}
    surroundings["HF_ENDPOINT"] = f"http://127.0.0.1:{server.server_port}"
    result = subprocess.run(
        [sys.executable, "-c", program], env=surroundings, capture_output=True, text=True, timeout=200, check=True
    )
    server.shutdown()
    server.server_close()
    missing, gated, other = result.stdout.splitlines()
    assert "the hub has no 'owner/missing': check the id" in missing
    assert "owner/gated is behind a licence" in gated and "hf auth login" in gated
    assert "owner/other has no config.json" in other


@pytest.mark.parametrize(
    ("package", "name", "message"),
    [
        ("transformers", "siglip", "pip install transformers, or vision_language=off"),
        ("open_clip", "open_clip", r"pip install 'worldmodel\[open_clip\]'"),
    ],
)
def test_a_package_that_is_not_installed(checkpoints, monkeypatch, package, name, message):
    folder = checkpoints(name)
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(EncoderError, match=message):
        load(folder)


# Damage


@pytest.mark.parametrize("kind", ["clip", "siglip", "dinov2", "open_clip"])
def test_weights_that_are_missing_misshapen_or_cut_short(copy, kind):
    folder = copy(kind)
    path = folder / "model.safetensors"
    whole = path.read_bytes()
    key = next(name for name, value in sorted(load_file(path).items()) if value.ndim == 2 and "patch" not in name)

    change_weights(folder, lambda weights: weights.pop(key))
    with pytest.raises(EncoderError, match=key.split(".")[-1]):
        load(folder)

    path.write_bytes(whole)
    change_weights(folder, lambda weights: weights.update({key: torch.zeros(3, 3)}))
    with pytest.raises(EncoderError, match=f"{folder.name}.*(shape|size|width)"):
        load(folder)

    for size in (len(whole) - 7, len(whole) // 2, 5, 0):
        path.write_bytes(whole[:size])
        with pytest.raises(EncoderError, match=r"can't be loaded.*[fF]etch"):
            load(folder)
    path.unlink()
    with pytest.raises(EncoderError, match="can't be loaded"):
        load(folder)


def test_many_missing_weights_are_counted(copy):
    folder = copy("clip")
    change_weights(folder, lambda weights: [weights.pop(key) for key in list(weights) if "text_model" in key])
    with pytest.raises(EncoderError, match=r"don't fill a CLIPModel: text_model.* is missing.* and \d+ more"):
        load(folder)


def test_weights_that_are_no_numbers(copy):
    folder = copy("siglip")
    change_weights(folder, lambda weights: weights["logit_scale"].fill_(torch.nan))
    with pytest.raises(EncoderError, match="logit_scale has a NaN"):
        load(folder)


@pytest.mark.parametrize("content", ["{", "[]", ""])
def test_a_damaged_config(copy, content):
    folder = copy("siglip")
    (folder / "config.json").write_text(content)
    with pytest.raises(EncoderError, match=r"config.json is damaged"):
        load(folder)


@pytest.mark.parametrize("kind", ["clip", "siglip", "siglip2"])
def test_a_tokenizer_that_is_missing_or_anothers(copy, kind):
    folder = copy(kind)
    for path in folder.glob("*token*"):
        path.unlink()
    with pytest.raises(EncoderError, match="the tokenizer"):
        load(folder)
    if kind == "siglip":
        gemma_tokenizer().save_pretrained(folder)
        with pytest.raises(EncoderError, match=r"gives token \d+, and its model knows \d+"):
            load(folder)


def test_preprocessing_that_is_missing_or_anothers(copy):
    folder = copy("dinov2")
    processor = folder / "preprocessor_config.json"
    settings = json.loads(processor.read_text())
    processor.write_text(json.dumps({**settings, "resample": 1}))
    with pytest.raises(EncoderError, match="filter 1"):
        load(folder)
    processor.unlink()
    with pytest.raises(EncoderError, match="image processor"):
        load(folder)
    folder = copy("siglip")
    for path in folder.glob("*processor_config.json"):
        path.write_text(path.read_text().replace('"height": 32', '"height": 40'))
    with pytest.raises(EncoderError, match=r"can't see pictures of \(40, 32\)"):
        load(folder)


# Configs


@pytest.mark.parametrize("choice", ["off", "embedded", "clip", "siglip2", "dinov2"])
def test_a_choice_has_the_keys_that_load_takes(choice):
    from importlib.resources import files

    from omegaconf import OmegaConf

    config = OmegaConf.load(str(files("configs") / "vision_language" / f"{choice}.yaml"))
    assert set(config) == {"name", "patch_tokens", "batch_size"} <= set(inspect.signature(load).parameters)
    assert (config.name is None) == (choice == "off")
