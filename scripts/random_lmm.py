"""Write an mPLUG-Owl2 checkpoint of medium size with random weights.

    python scripts/random_lmm.py random-owl
    ma-agiqa extract --lmm random-owl --dtype fp32 --data agiqa-3k --root DIR --store STORE

Its vectors know nothing but the architecture: what a regression on them reaches is the floor
that a trained LMM has to beat. The layout is the published one (config.json, safetensors,
tokenizer.model), so every command takes it as it takes the released model. The same seed gives
the same files.

Matrices are normal with variance 1 / fan-in, embeddings and position tables normal with
deviation 0.02, norms 1 and biases 0. The tokenizer is sentencepiece trained on the texts below
with LLaMA's settings. Its vocabulary is small, so that the model has fewer parameters than the
`medium` one of benchmarks/extract.py, whose embeddings of 32,000 tokens no question would use;
image path, layers and positions are the same.
"""

from __future__ import annotations

import argparse
import io
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from ma_agiqa.errors import OutputError
from ma_agiqa.lmm.encoder import OFFICIAL
from ma_agiqa.lmm.mplug_owl2.checkpoint import empty_model, parse_config

VOCABULARY = 400
TEXTS = [
    *(question.prompt.replace("<|image|>", "") for question in OFFICIAL),
    "A photograph, a painting, a drawing; how well does the picture show what was asked for?",
    "Rate the quality, the alignment, the authenticity and the correspondence of the image.",
    "Are there six fingers on a hand, melted faces, broken letters, or things that float?",
]
TABLES = ("embed_tokens", "position_embedding", "cls_token", "query_embeds", "vit_eos")


def configuration(*, width: int, image_size: int) -> dict[str, Any]:
    """Return a config.json: six layers of vision, six of abstractor, eight of language."""
    names = ("hidden_size", "num_hidden_layers", "num_attention_heads", "intermediate_size")
    vision, abstractor = (256, 6, 4, 1024), (256, 6, 4, 704)
    return {
        "model_type": "mplug_owl2",
        **dict(zip(names, (width, 8, width // 64, width * 43 // 16), strict=True)),
        "vocab_size": VOCABULARY,
        "rms_norm_eps": 1e-5,
        "max_position_embeddings": 2048,
        "visual_config": {
            "visual_model": {
                **dict(zip(names, vision, strict=True)),
                "image_size": image_size,
                "patch_size": 14,
                "layer_norm_eps": 1e-6,
            },
            "visual_abstractor": {
                **dict(zip(names, abstractor, strict=True)),
                "num_learnable_queries": 64,
                "layer_norm_eps": 1e-6,
                "grid_size": image_size // 14,
                "encoder_hidden_size": vision[0],
            },
        },
    }


def random_weights(config: dict[str, Any], *, seed: int) -> dict[str, Tensor]:
    """Return every parameter under its released name, float32."""
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, parameter in empty_model(parse_config(config)).named_parameters():
        if parameter.dim() == 1:
            tensors[name] = torch.full(parameter.shape, 0.0 if name.endswith("bias") else 1.0)
            continue
        is_table = any(table in name for table in TABLES)
        deviation = 0.02 if is_table else parameter[0].numel() ** -0.5
        tensors[name] = deviation * torch.randn(parameter.shape, generator=generator)
    return tensors


def tokenizer_model() -> bytes:
    """Return a sentencepiece model with LLaMA's settings."""
    from sentencepiece import SentencePieceTrainer

    model = io.BytesIO()
    SentencePieceTrainer.train(
        sentence_iterator=iter(line for text in TEXTS for line in text.splitlines()),
        model_writer=model,
        model_type="bpe",
        vocab_size=VOCABULARY,
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        unk_id=0,
        bos_id=1,
        eos_id=2,
        pad_id=-1,
        minloglevel=2,
    )
    return model.getvalue()


def write(folder: Path, *, seed: int = 0, width: int = 512, image_size: int = 448) -> int:
    """Write the checkpoint into a new folder; return how many parameters it has."""
    if folder.exists():
        raise OutputError("already exists", path=folder, remedy="give a new folder")
    config = configuration(width=width, image_size=image_size)
    tensors = random_weights(config, seed=seed)
    tokenizer = tokenizer_model()
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")
    (folder / "tokenizer.model").write_bytes(tokenizer)
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
    return sum(tensor.numel() for tensor in tensors.values())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("out", type=Path, help="folder to write; must be new")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--width", type=int, default=512, help="of a vector; a multiple of 64")
    parser.add_argument("--image-size", type=int, default=448, help="a multiple of 14")
    options = parser.parse_args()
    parameters = write(
        options.out, seed=options.seed, width=options.width, image_size=options.image_size
    )
    print(f"{options.out}: {parameters:,} random parameters, seed {options.seed}")


if __name__ == "__main__":
    main()
