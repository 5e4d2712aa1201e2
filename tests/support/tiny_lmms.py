"""Tiny random checkpoints of each family, written by transformers in its published layout.

The tokenizer is made here with the tokenizers library: bytes, and the family's own marks.
Configuration, model, image preprocessing and processor are the family's real classes.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

TEXT = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 2048,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
PLAIN_TEMPLATE = (
    "{% for m in messages %}<s>{{ m['role'] }}: {% for c in m['content'] %}"
    "{% if c['type'] == 'image' %}MARK{% else %}{{ c['text'] }}{% endif %}{% endfor %}\n"
    "{% endfor %}{% if add_generation_prompt %}assistant:{% endif %}"
)


def tokenizer(*marks: str, ends: bool = False, **named: str) -> Any:
    """Return a tokenizer of bytes with special tokens `marks`; `named` become attributes.

    With `ends` every text ends in EOS, where text towers look.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    special = ["<pad>", "<unk>", "<s>", "</s>", *marks]
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: i for i, token in enumerate([*special, *alphabet])}
    bytes_ = Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    bytes_.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytes_.decoder = decoders.ByteLevel()
    bytes_.add_special_tokens(special)
    if ends:
        bytes_.post_processor = processors.TemplateProcessing(
            single="$A </s>", special_tokens=[("</s>", vocabulary["</s>"])]
        )
    return PreTrainedTokenizerFast(
        tokenizer_object=bytes_,
        pad_token="<pad>",
        unk_token="<unk>",
        bos_token="<s>",
        eos_token="</s>",
        additional_special_tokens=list(marks),
        extra_special_tokens=dict(named),
    )


def _template(mark: str) -> str:
    return PLAIN_TEMPLATE.replace("MARK", mark)


def llava_onevision() -> tuple[Any, Any]:
    from transformers import (
        LlavaOnevisionConfig,
        LlavaOnevisionForConditionalGeneration,
        LlavaOnevisionImageProcessor,
        LlavaOnevisionProcessor,
        LlavaOnevisionVideoProcessor,
    )

    words = tokenizer("<image>", "<video>")
    size = {"height": 28, "width": 28}
    points = [[28, 28], [28, 56], [56, 28], [56, 56]]
    config = LlavaOnevisionConfig(
        text_config={"model_type": "qwen2", "vocab_size": len(words), **TEXT},
        vision_config={"model_type": "siglip_vision_model", "image_size": 28, "patch_size": 14,
                       "vision_use_head": False, **VISION},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        video_token_index=words.convert_tokens_to_ids("<video>"),
        image_grid_pinpoints=points,
        vision_feature_layer=-1,
        vision_feature_select_strategy="full",
        tie_word_embeddings=False,
    )  # fmt: skip
    processor = LlavaOnevisionProcessor(
        image_processor=LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=points),
        tokenizer=words,
        video_processor=LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=4,
        vision_feature_select_strategy="full",
        chat_template=_template("<image>"),
    )
    return LlavaOnevisionForConditionalGeneration(config), processor


def llava() -> tuple[Any, Any]:
    from transformers import (
        CLIPImageProcessor,
        LlavaConfig,
        LlavaForConditionalGeneration,
        LlavaProcessor,
    )

    words = tokenizer("<image>")
    config = LlavaConfig(
        text_config={"model_type": "llama", "vocab_size": len(words), **TEXT},
        vision_config={"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14,
                       **VISION},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        tie_word_embeddings=False,
    )  # fmt: skip
    side = {"height": 28, "width": 28}
    processor = LlavaProcessor(
        image_processor=CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=side),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    return LlavaForConditionalGeneration(config), processor


def llava_next() -> tuple[Any, Any]:
    from transformers import (
        LlavaNextConfig,
        LlavaNextForConditionalGeneration,
        LlavaNextImageProcessor,
        LlavaNextProcessor,
    )

    words = tokenizer("<image>")
    points = [[28, 56], [56, 28], [56, 56]]
    config = LlavaNextConfig(
        text_config={"model_type": "mistral", "vocab_size": len(words), **TEXT},
        vision_config={"model_type": "clip_vision_model", "image_size": 28, "patch_size": 14,
                       **VISION},
        image_token_index=words.convert_tokens_to_ids("<image>"),
        image_grid_pinpoints=points,
        tie_word_embeddings=False,
    )  # fmt: skip
    side = {"height": 28, "width": 28}
    processor = LlavaNextProcessor(
        image_processor=LlavaNextImageProcessor(
            size={"shortest_edge": 28}, crop_size=side, image_grid_pinpoints=points
        ),
        tokenizer=words,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_template("<image>"),
    )
    return LlavaNextForConditionalGeneration(config), processor


QWEN_MARKS = ("<|vision_start|>", "<|vision_end|>", "<|image_pad|>", "<|video_pad|>")


def _qwen_ids(words: Any) -> dict[str, int]:
    names = ("vision_start_token_id", "vision_end_token_id", "image_token_id", "video_token_id")
    return dict(zip(names, words.convert_tokens_to_ids(list(QWEN_MARKS)), strict=True))


def qwen2_5_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2_5_VLConfig,
        Qwen2_5_VLForConditionalGeneration,
        Qwen2_5_VLProcessor,
        Qwen2VLImageProcessor,
        Qwen2VLVideoProcessor,
    )

    words = tokenizer(*QWEN_MARKS)
    config = Qwen2_5_VLConfig(
        text_config={"vocab_size": len(words), **TEXT,
                     "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2],
                                         "rope_theta": 10000.0}},
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
                       "out_hidden_size": 32, "patch_size": 14, "window_size": 56,
                       "fullatt_block_indexes": [1]},
        tie_word_embeddings=False,
        **_qwen_ids(words),
    )  # fmt: skip
    processor = Qwen2_5_VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=9 * 28 * 28),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return Qwen2_5_VLForConditionalGeneration(config), processor


def qwen2_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLConfig,
        Qwen2VLForConditionalGeneration,
        Qwen2VLImageProcessor,
        Qwen2VLProcessor,
        Qwen2VLVideoProcessor,
    )

    words = tokenizer(*QWEN_MARKS)
    config = Qwen2VLConfig(
        text_config={"vocab_size": len(words), **TEXT,
                     "rope_parameters": {"rope_type": "default", "mrope_section": [1, 1, 2],
                                         "rope_theta": 10000.0}},
        vision_config={"depth": 2, "embed_dim": 16, "hidden_size": 32, "num_heads": 2,
                       "mlp_ratio": 2, "patch_size": 14},
        tie_word_embeddings=False,
        **_qwen_ids(words),
    )  # fmt: skip
    processor = Qwen2VLProcessor(
        image_processor=Qwen2VLImageProcessor(min_pixels=28 * 28, max_pixels=9 * 28 * 28),
        tokenizer=words,
        video_processor=Qwen2VLVideoProcessor(),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return Qwen2VLForConditionalGeneration(config), processor


def qwen3_vl() -> tuple[Any, Any]:
    from transformers import (
        Qwen2VLImageProcessor,
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLProcessor,
        Qwen3VLVideoProcessor,
    )

    words = tokenizer(*QWEN_MARKS)
    config = Qwen3VLConfig(
        text_config={"vocab_size": len(words), "head_dim": 8, **TEXT,
                     "rope_parameters": {"rope_type": "default", "mrope_section": [2, 1, 1],
                                         "rope_theta": 10000.0}},
        vision_config={"depth": 2, "hidden_size": 16, "intermediate_size": 24, "num_heads": 2,
                       "out_hidden_size": 32, "patch_size": 16, "num_position_embeddings": 16,
                       "deepstack_visual_indexes": [0]},
        tie_word_embeddings=False,
        **_qwen_ids(words),
    )  # fmt: skip
    processor = Qwen3VLProcessor(
        image_processor=Qwen2VLImageProcessor(
            patch_size=16, min_pixels=32 * 32, max_pixels=9 * 32 * 32
        ),
        tokenizer=words,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=_template("<|vision_start|><|image_pad|><|vision_end|>"),
    )
    return Qwen3VLForConditionalGeneration(config), processor


def internvl() -> tuple[Any, Any]:
    from transformers import (
        GotOcr2ImageProcessor,
        InternVLConfig,
        InternVLForConditionalGeneration,
        InternVLProcessor,
        InternVLVideoProcessor,
    )

    marks = {
        "start_image_token": "<img>",
        "end_image_token": "</img>",
        "context_image_token": "<IMG_CONTEXT>",
        "video_token": "<video>",
    }
    words = tokenizer(*marks.values(), **marks)
    size = {"height": 28, "width": 28}
    config = InternVLConfig(
        text_config={"model_type": "qwen2", "vocab_size": len(words), **TEXT},
        vision_config={"image_size": [28, 28], "patch_size": [7, 7], **VISION},
        image_token_id=words.convert_tokens_to_ids("<IMG_CONTEXT>"),
        downsample_ratio=0.5,
        tie_word_embeddings=False,
    )
    processor = InternVLProcessor(
        image_processor=GotOcr2ImageProcessor(size=size, crop_to_patches=True, max_patches=3),
        tokenizer=words,
        video_processor=InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_template("<IMG_CONTEXT>"),
    )
    return InternVLForConditionalGeneration(config), processor


IDEFICS_MARKS = ("<fake_token_around_image>", "<image>", "<end_of_utterance>", "<global-img>")
GRID = tuple(f"<row_{i}_col_{j}>" for i in range(1, 7) for j in range(1, 7))


def _idefics(config: Any, words: Any) -> Any:
    return config(
        text_config={"model_type": "llama", "vocab_size": len(words), **TEXT},
        vision_config={"image_size": 28, "patch_size": 7, **VISION},
        image_token_id=words.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        tie_word_embeddings=False,
    )


def idefics3() -> tuple[Any, Any]:
    from transformers import (
        Idefics3Config,
        Idefics3ForConditionalGeneration,
        Idefics3ImageProcessor,
        Idefics3Processor,
    )

    words = tokenizer(*IDEFICS_MARKS, *GRID)
    processor = Idefics3Processor(
        image_processor=Idefics3ImageProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
        ),
        tokenizer=words,
        image_seq_len=4,
        chat_template=_template("<image>"),
    )
    return Idefics3ForConditionalGeneration(_idefics(Idefics3Config, words)), processor


def smolvlm() -> tuple[Any, Any]:
    from transformers import (
        SmolVLMConfig,
        SmolVLMForConditionalGeneration,
        SmolVLMImageProcessor,
        SmolVLMProcessor,
        SmolVLMVideoProcessor,
    )

    words = tokenizer(*IDEFICS_MARKS, *GRID, "<video>")
    processor = SmolVLMProcessor(
        image_processor=SmolVLMImageProcessor(
            size={"longest_edge": 56}, max_image_size={"longest_edge": 28}
        ),
        tokenizer=words,
        video_processor=SmolVLMVideoProcessor(),
        image_seq_len=4,
        chat_template=_template("<image>"),
    )
    return SmolVLMForConditionalGeneration(_idefics(SmolVLMConfig, words)), processor


def gemma3() -> tuple[Any, Any]:
    from transformers import (
        Gemma3Config,
        Gemma3ForConditionalGeneration,
        Gemma3ImageProcessor,
        Gemma3Processor,
    )

    marks = {
        "boi_token": "<start_of_image>",
        "eoi_token": "<end_of_image>",
        "image_token": "<image_soft_token>",
    }
    words = tokenizer(*marks.values(), **marks)
    config = Gemma3Config(
        text_config={"vocab_size": len(words), "head_dim": 8, "sliding_window": 16, **TEXT},
        vision_config={"image_size": 28, "patch_size": 7, "vision_use_head": False, **VISION},
        mm_tokens_per_image=4,
        boi_token_index=words.convert_tokens_to_ids("<start_of_image>"),
        eoi_token_index=words.convert_tokens_to_ids("<end_of_image>"),
        image_token_index=words.convert_tokens_to_ids("<image_soft_token>"),
    )
    processor = Gemma3Processor(
        image_processor=Gemma3ImageProcessor(size={"height": 28, "width": 28}),
        tokenizer=words,
        image_seq_length=4,
        chat_template=_template("<start_of_image>"),
    )
    return Gemma3ForConditionalGeneration(config), processor


def clip() -> tuple[Any, Any]:
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, CLIPProcessor

    words = tokenizer(ends=True)
    text = {**TEXT, "vocab_size": len(words), "max_position_embeddings": 77}
    config = CLIPConfig(
        text_config=text,
        vision_config={"image_size": 28, "patch_size": 14, **VISION},
        projection_dim=24,
    )
    side = {"height": 28, "width": 28}
    images = CLIPImageProcessor(size={"shortest_edge": 28}, crop_size=side)
    return CLIPModel(config), CLIPProcessor(image_processor=images, tokenizer=words)


def siglip() -> tuple[Any, Any]:
    from transformers import SiglipConfig, SiglipImageProcessor, SiglipModel, SiglipProcessor

    words = tokenizer(ends=True)
    config = SiglipConfig(
        text_config={**TEXT, "vocab_size": len(words), "max_position_embeddings": 64,
                     "hidden_size": 16, "projection_size": 16},
        vision_config={"image_size": 28, "patch_size": 14, **VISION},
    )  # fmt: skip
    images = SiglipImageProcessor(size={"height": 28, "width": 28})
    return SiglipModel(config), SiglipProcessor(image_processor=images, tokenizer=words)


def siglip2() -> tuple[Any, Any]:
    from transformers import Siglip2Config, Siglip2ImageProcessor, Siglip2Model, Siglip2Processor

    words = tokenizer(ends=True)
    config = Siglip2Config(
        text_config={**TEXT, "vocab_size": len(words), "max_position_embeddings": 64,
                     "hidden_size": 16, "projection_size": 16},
        vision_config={"num_patches": 16, "patch_size": 14, **VISION},
    )  # fmt: skip
    images = Siglip2ImageProcessor(patch_size=14, max_num_patches=16)
    return Siglip2Model(config), Siglip2Processor(image_processor=images, tokenizer=words)


Family = Callable[[], tuple[Any, Any]]
LMMS: dict[str, Family] = {
    "llava": llava,
    "llava_next": llava_next,
    "llava_onevision": llava_onevision,
    "qwen2_vl": qwen2_vl,
    "qwen2_5_vl": qwen2_5_vl,
    "qwen3_vl": qwen3_vl,
    "internvl": internvl,
    "idefics3": idefics3,
    "smolvlm": smolvlm,
    "gemma3": gemma3,
}
TOWERS: dict[str, Family] = {"clip": clip, "siglip": siglip, "siglip2": siglip2}


def write(family: str, folder: Path, *, seed: int = 0) -> Path:
    """Write a checkpoint of the family."""
    torch.manual_seed(seed)
    model, processor = {**LMMS, **TOWERS}[family]()
    with torch.no_grad():  # the usual start of 0.02 would make all states nearly alike
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter[0].numel() ** -0.5)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder
