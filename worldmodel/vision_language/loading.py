"""Which encoder a name means."""

from __future__ import annotations

from pathlib import Path

import torch

from worldmodel.vision_language import hugging_face, open_clip
from worldmodel.vision_language.encoder import EncoderError, VisionLanguageEncoder

EMBEDDED = Path(__file__).parent / "embedded"
OPEN_CLIP = "open_clip:"


def load(
    name: str | Path,
    *,
    patch_tokens: int = 0,
    batch_size: int = 64,
    device: torch.device | str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> VisionLanguageEncoder:
    """The frozen encoder that `name` means.

    Args:
        name: `embedded`, the one in this package; a folder with a checkpoint of Hugging Face or open_clip; an id of the
            Hugging Face hub, such as google/siglip2-base-patch16-224; `open_clip:<model>/<tag or file>`,
            `open_clip:hf-hub:<id>`.
        patch_tokens: tokens beside the one of the whole picture: a square number.
        batch_size: pictures or sentences at once.
        dtype: of weights and arithmetic; results are float32.

    Raises:
        EncoderError: it can't be found or reached, is damaged, of an unknown kind, or lacks weights.
    """
    name = str(name)
    path = EMBEDDED if name == "embedded" else Path(name).expanduser()
    if name.startswith(OPEN_CLIP):
        backbone, preprocessing = open_clip.load_backbone(name.removeprefix(OPEN_CLIP), name)
    elif (path / "config.json").is_file():
        backbone, preprocessing = hugging_face.load_backbone(str(path), name)
    elif name == "embedded":
        raise EncoderError(
            f"the embedded encoder is not there yet ({EMBEDDED} has no config.json): make it with "
            "python -m scripts.pretrain_vision_language, or set vision_language=off"
        )
    elif (path / "open_clip_config.json").is_file():
        backbone, preprocessing = open_clip.load_backbone(f"local-dir:{path}", name)
    elif path.exists():
        raise EncoderError(
            f"{path} is no checkpoint: it has neither config.json (Hugging Face) nor open_clip_config.json. Name the "
            "folder that holds one, or a hub id"
        )
    elif name.startswith((".", "/", "~")) or name.count("/") > 1 or "\\" in name:
        raise EncoderError(f"there is no folder {path}: check vision_language.name, which is a folder or a hub id")
    else:
        backbone, preprocessing = hugging_face.load_backbone(name, name)
    encoder = VisionLanguageEncoder(name, backbone, preprocessing, patch_tokens, batch_size)
    return encoder.to(device=device, dtype=dtype)
