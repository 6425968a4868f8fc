"""Small checkpoints of every kind, and no network: neither by accident nor by a library's habit."""

import os
import socket
import threading

os.environ["HF_HUB_OFFLINE"] = "1"  # read once, when the hub's client is imported

import pytest
from tiny_checkpoints import save_clip, save_dino, save_open_clip, save_siglip

SAVE = {
    "clip": save_clip,
    "siglip": save_siglip,
    "siglip2": lambda folder: save_siglip(folder, second=True),
    "dinov2": lambda folder: save_dino(folder, "dinov2"),
    "dinov2_with_registers": lambda folder: save_dino(folder, "dinov2_with_registers"),
    "dinov3": lambda folder: save_dino(folder, "dinov3_vit"),
    "dinov3_convnext": lambda folder: save_dino(folder, "dinov3_convnext"),
    "open_clip": save_open_clip,
    "open_clip_siglip": lambda folder: save_open_clip(folder, siglip=True),
}


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """Any connection to another computer fails the test that tries it, even if the library swallows the error."""
    tried = []

    test, connect = threading.get_ident(), socket.socket.connect

    def refuse(self, address):
        if threading.get_ident() != test:  # what other tests of this process left running, as wandb does
            return connect(self, address)
        tried.append(address)
        raise OSError(f"a test tried to reach {address}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", lambda host, *rest, **more: refuse(None, host))
    yield
    assert not tried


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory):
    """`checkpoints(kind)` is a folder with a checkpoint, made once."""
    made = {}

    def folder(kind):
        if kind not in made:
            if kind.startswith("open_clip"):
                pytest.importorskip("open_clip")
            made[kind] = SAVE[kind](tmp_path_factory.mktemp(kind))
        return made[kind]

    return folder
