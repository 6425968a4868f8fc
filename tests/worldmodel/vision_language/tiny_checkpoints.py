"""Small randomly initialised encoders, saved in the formats of transformers and open_clip."""

import json
from pathlib import Path

import torch

SENTENCES = [
    "push the red cube to the green zone",
    "the blue ball is left of 2 yellow cylinders",
    "lift the small green cone",
    "Push! A photo of three cubes, in a row.",
]
TEXT = {"hidden_size": 24, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
VISION = {**TEXT, "image_size": 32, "patch_size": 8}
PICTURES = {"image_mean": [0.48, 0.46, 0.41], "image_std": [0.27, 0.26, 0.28]}


def save_clip(folder: Path, seed: int = 0) -> Path:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    tokenizer = clip_tokenizer()
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    text = {
        **TEXT,
        "vocab_size": len(tokenizer),
        "max_position_embeddings": 20,
        **ids,
        "pad_token_id": ids["eos_token_id"],
    }
    _save(CLIPModel, CLIPConfig(text_config=text, vision_config=VISION, projection_dim=16), folder, seed)
    tokenizer.save_pretrained(folder)
    size = {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}
    CLIPImageProcessor(**size, **PICTURES).save_pretrained(folder)
    return folder


def save_siglip(folder: Path, seed: int = 0, second: bool = False, **vision) -> Path:
    """SigLIP, or, where `second`, SigLIP 2 of fixed size: the same class with Gemma's tokenizer."""
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel

    tokenizer = gemma_tokenizer() if second else word_tokenizer()
    text = {**TEXT, "vocab_size": len(tokenizer), "max_position_embeddings": 16, "projection_size": 24}
    text |= {"bos_token_id": None, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id}
    _save(SiglipModel, SiglipConfig(text_config=text, vision_config={**VISION, **vision}), folder, seed)
    tokenizer.save_pretrained(folder)
    half = {"image_mean": [0.5] * 3, "image_std": [0.5] * 3}
    SiglipImageProcessor(size={"height": 32, "width": 32}, **half).save_pretrained(folder)
    return folder


def save_dino(folder: Path, family: str, seed: int = 0) -> Path:
    """`dinov2`, `dinov2_with_registers`, `dinov3_vit` or `dinov3_convnext`."""
    import transformers

    if family == "dinov3_convnext":
        config = transformers.DINOv3ConvNextConfig(hidden_sizes=[8, 12, 16, 24], depths=[1, 1, 1, 1])
        _save(transformers.DINOv3ConvNextModel, config, folder, seed)
        transformers.DINOv3ViTImageProcessor(size={"height": 128, "width": 128}).save_pretrained(folder)
        return folder
    if family == "dinov3_vit":
        kind, config = transformers.DINOv3ViTModel, transformers.DINOv3ViTConfig(**VISION, num_register_tokens=2)
        processor = transformers.DINOv3ViTImageProcessor(size={"height": 32, "width": 32})
    else:
        name = "Dinov2" if family == "dinov2" else "Dinov2WithRegisters"
        # As in the real ones, the positions are those of larger pictures than the processor makes.
        config = getattr(transformers, f"{name}Config")(**{**VISION, "image_size": 48, "mlp_ratio": 2})
        kind = getattr(transformers, f"{name}Model")
        size = {"size": {"shortest_edge": 36}, "crop_size": {"height": 32, "width": 32}}
        processor = transformers.BitImageProcessor(**size, **PICTURES)
    _save(kind, config, folder, seed)
    processor.save_pretrained(folder)
    return folder


def open_clip_config(siglip: bool = False) -> dict:
    vision = {"image_size": 32, "layers": 2, "width": 24, "head_width": 12, "patch_size": 8}
    text = {"context_length": 20, "vocab_size": 49408, "width": 24, "heads": 2, "layers": 2}
    bias = {"init_logit_bias": -10.0} if siglip else {}
    return {"embed_dim": 16, "vision_cfg": vision, "text_cfg": text, **bias}


def save_open_clip(folder: Path, seed: int = 0, siglip: bool = False, preprocess: dict | None = None) -> Path:
    """A folder for `local-dir:`; its weights alone are a file for `<model>/<file>`."""
    import open_clip
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    config = open_clip_config(siglip)
    torch.manual_seed(seed)
    model = open_clip.CLIP(**config)
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, folder / "model.safetensors")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess or {}}))
    return folder


def clip_tokenizer():
    from tokenizers import Tokenizer, models, trainers
    from transformers import CLIPTokenizer

    plain = CLIPTokenizer().backend_tokenizer
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.normalizer, trained.pre_tokenizer = plain.normalizer, plain.pre_tokenizer
    special = ["<|startoftext|>", "<|endoftext|>"]
    trainer = trainers.BpeTrainer(
        vocab_size=150, end_of_word_suffix="</w>", show_progress=False, special_tokens=special
    )
    trained.train_from_iterator(SENTENCES, trainer)
    state = json.loads(trained.to_str())["model"]
    # As in the real one, the marks have the highest ids: the model finds a sentence's end by them.
    words = [word for word in sorted(state["vocab"], key=state["vocab"].get) if word not in special] + special
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in state["merges"]]
    return CLIPTokenizer(vocab={word: index for index, word in enumerate(words)}, merges=merges)


def word_tokenizer():
    from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    trained = Tokenizer(models.WordLevel(unk_token="<unk>"))
    trained.normalizer = normalizers.Lowercase()
    trained.pre_tokenizer = pre_tokenizers.Whitespace()
    trainer = trainers.WordLevelTrainer(special_tokens=["<unk>", "</s>"], show_progress=False)
    trained.train_from_iterator(SENTENCES, trainer)
    trained.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    marks = {"unk_token": "<unk>", "eos_token": "</s>", "pad_token": "</s>"}
    return PreTrainedTokenizerFast(tokenizer_object=trained, model_input_names=["input_ids"], **marks)


def gemma_tokenizer():
    from tokenizers import Tokenizer, models, normalizers, trainers
    from transformers import GemmaTokenizer

    special = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>"]
    trained = Tokenizer(models.BPE(unk_token="<unk>"))
    trained.normalizer = normalizers.Replace(" ", "▁")
    trained.train_from_iterator(
        SENTENCES, trainers.BpeTrainer(vocab_size=150, special_tokens=special, show_progress=False)
    )
    state = json.loads(trained.to_str())["model"]
    merges = [tuple(pair.split(" ")) if isinstance(pair, str) else tuple(pair) for pair in state["merges"]]
    return GemmaTokenizer(vocab=state["vocab"], merges=merges, model_input_names=["input_ids"], padding_side="right")


def _save(kind, config, folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    model = kind(config)
    with torch.no_grad():  # so far from the library's small start that a wrong layer would show
        for name, parameter in model.named_parameters():
            if "logit" not in name:
                parameter.add_(0.1 * torch.randn_like(parameter))
    model.save_pretrained(folder)
