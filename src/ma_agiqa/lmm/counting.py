"""What an LMM costs per image, counted from the sizes in its published configuration.

Counted are the multiply-adds of linear layers and of attention, with full squares where
attention is causal, and the parameters of linear layers, embeddings and norms left out (under
0.1 %). Nothing is measured here; time also depends on memory and kernels.

Image tokens are those of a 512 x 512 image with the processor's published settings.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

QUESTIONS, TEXT_POSITIONS = 2, 45
"""Asked per image, and positions of one question with its template: the official two."""


@dataclass(frozen=True)
class Stack:
    """Transformer layers of one size.

    Attributes:
        layers, width, heads: as in the configuration.
        hidden: width inside the feed-forward part.
        key_value_heads: fewer than heads where they are shared.
        head_width: width / heads unless the configuration says otherwise.
        gated: whether the feed-forward part has three matrices, not two.
        mean_keys: keys a position attends to, averaged over layers; None: all.
    """

    layers: int
    width: int
    hidden: int
    heads: int
    key_value_heads: int | None = None
    head_width: int | None = None
    gated: bool = False
    mean_keys: int | None = None

    @property
    def attention_width(self) -> int:
        """Width of all heads together."""
        return self.heads * (self.head_width or self.width // self.heads)

    @property
    def weights(self) -> int:
        """Parameters of all linear layers."""
        inner = self.attention_width
        shared = inner * (self.key_value_heads or self.heads) // self.heads
        attention = 2 * self.width * inner + 2 * self.width * shared
        return self.layers * (attention + (3 if self.gated else 2) * self.width * self.hidden)

    def multiply_adds(self, positions: int) -> int:
        """Return those of one sequence."""
        keys = min(self.mean_keys or positions, positions)
        attention = 2 * self.layers * self.attention_width * positions * keys
        return self.weights * positions + attention


@dataclass(frozen=True)
class Sizes:
    """A published LMM.

    Attributes:
        tiles: images the vision tower sees for one image.
        patches: positions of one tile.
        pixels: numbers in one patch.
        projector: weights between tower and language model.
        projected: positions they are used at, all tiles together.
        image_tokens: positions of the image in the prompt, marks around it included.
        vocabulary: tokens with an embedding.
        tied: whether the language head is the embedding.
    """

    name: str
    vision: Stack
    language: Stack
    tiles: int
    patches: int
    pixels: int
    projector: int
    projected: int
    image_tokens: int
    vocabulary: int
    tied: bool

    @property
    def parameters(self) -> int:
        """Of everything a checkpoint holds, the unused language head included."""
        tables = self.vocabulary * self.language.width * (1 if self.tied else 2)
        towers = self.vision.weights + self.pixels * self.vision.width + self.projector
        return towers + self.language.weights + tables

    @property
    def multiply_adds(self) -> int:
        """Per image: the tower once, the language model once per question."""
        patches = self.patches * self.tiles * self.pixels * self.vision.width
        seen = self.tiles * self.vision.multiply_adds(self.patches) + patches
        asked = self.language.multiply_adds(self.image_tokens + TEXT_POSITIONS)
        return seen + self.projector * self.projected + QUESTIONS * asked

    def gigabytes(self, bits: int = 16) -> float:
        """Return what the weights take: layers in `bits`, embeddings and head in 16."""
        layers = self.language.weights + self.vision.weights + self.projector
        return ((self.parameters - layers) * 16 + layers * bits) / 8 / 1e9


def _language(
    layers: int, width: int, hidden: int, heads: int, shared: int, head_width: int | None = None
) -> Stack:
    return Stack(layers, width, hidden, heads, shared, head_width, gated=True)


SO400M = Stack(27, 1152, 4304, 16)
SIGLIP_BASE = Stack(12, 768, 3072, 12)
INTERN_300M = Stack(24, 1024, 4096, 16)
QWEN2_0_5B = _language(24, 896, 4864, 14, 2)
QWEN2_7B = _language(28, 3584, 18944, 28, 4)


def _smolvlm(
    name: str, vision: Stack, language: Stack, *, patches: int, patch: int, shuffle: int
) -> Sizes:
    """16 tiles of the enlarged image and the whole; `shuffle`² patches become one token."""
    tokens = patches // shuffle**2
    return Sizes(
        name, vision, language, tiles=17, patches=patches, pixels=3 * patch**2,
        projector=shuffle**2 * vision.width * language.width, projected=17 * tokens,
        image_tokens=17 * (tokens + 3), vocabulary=49280, tied=False,
    )  # fmt: skip


def _internvl(name: str, language: Stack) -> Sizes:
    """One tile of 448 x 448."""
    width = language.width
    return Sizes(
        name, INTERN_300M, language, tiles=1, patches=1025, pixels=3 * 14**2,
        projector=4096 * width + width**2, projected=256, image_tokens=258,
        vocabulary=151674, tied=False,
    )  # fmt: skip


def _qwen3_vl(name: str, vision: Stack, language: Stack, *, tied: bool) -> Sizes:
    """32 x 32 patches of 16 x 16; the merger and three more for deep features."""
    merged = 4 * vision.width
    return Sizes(
        name, vision, language, tiles=1, patches=1024, pixels=2 * 3 * 16**2,
        projector=4 * (merged**2 + merged * language.width), projected=256, image_tokens=258,
        vocabulary=151936, tied=tied,
    )  # fmt: skip


def _qwen2_5_vl(name: str, language: Stack, *, vocabulary: int, tied: bool) -> Sizes:
    """36 x 36 patches of 14 x 14; 28 of 32 layers look at windows of 64 patches."""
    vision = Stack(32, 1280, 3420, 16, gated=True, mean_keys=(4 * 1296 + 28 * 64) // 32)
    return Sizes(
        name, vision, language, tiles=1, patches=1296, pixels=2 * 3 * 14**2,
        projector=5120**2 + 5120 * language.width, projected=324, image_tokens=326,
        vocabulary=vocabulary, tied=tied,
    )  # fmt: skip


def _llava_onevision(name: str, language: Stack, *, vocabulary: int, tied: bool) -> Sizes:
    """Four tiles of 384 x 384 with line ends, and the whole; the tower's last layer is unused."""
    width = language.width
    return Sizes(
        name, replace(SO400M, layers=26), language, tiles=5, patches=729, pixels=3 * 14**2,
        projector=1152 * width + width**2, projected=5 * 729, image_tokens=5 * 729 + 54,
        vocabulary=vocabulary, tied=tied,
    )  # fmt: skip


def _gemma3(name: str, language: Stack) -> Sizes:
    """One tile of 896 x 896, averaged to 256 tokens."""
    return Sizes(
        name, SO400M, language, tiles=1, patches=4096, pixels=3 * 14**2,
        projector=1152 * language.width, projected=256, image_tokens=260,
        vocabulary=262208, tied=True,
    )  # fmt: skip


_SMALL, _LARGE = INTERN_300M, SO400M  # Qwen3-VL's towers have the same sizes
PUBLISHED: tuple[Sizes, ...] = (
    _smolvlm("HuggingFaceTB/SmolVLM2-256M-Video-Instruct", SIGLIP_BASE,
             _language(30, 576, 1536, 9, 3), patches=1024, patch=16, shuffle=4),
    _smolvlm("HuggingFaceTB/SmolVLM2-500M-Video-Instruct", SIGLIP_BASE,
             _language(32, 960, 2560, 15, 5), patches=1024, patch=16, shuffle=4),
    _smolvlm("HuggingFaceTB/SmolVLM2-2.2B-Instruct", SO400M,
             _language(24, 2048, 8192, 32, 32), patches=729, patch=14, shuffle=3),
    _internvl("OpenGVLab/InternVL3-1B-hf", QWEN2_0_5B),
    _internvl("OpenGVLab/InternVL3-2B-hf", _language(28, 1536, 8960, 12, 2)),
    _internvl("OpenGVLab/InternVL3-8B-hf", QWEN2_7B),
    _llava_onevision("llava-hf/llava-onevision-qwen2-0.5b-ov-hf", QWEN2_0_5B,
                     vocabulary=152000, tied=True),
    _llava_onevision("llava-hf/llava-onevision-qwen2-7b-ov-hf", QWEN2_7B,
                     vocabulary=152128, tied=False),
    _qwen3_vl("Qwen/Qwen3-VL-2B-Instruct", _SMALL,
              _language(28, 2048, 6144, 16, 8, 128), tied=True),
    _qwen3_vl("Qwen/Qwen3-VL-4B-Instruct", _SMALL,
              _language(36, 2560, 9728, 32, 8, 128), tied=True),
    _qwen3_vl("Qwen/Qwen3-VL-8B-Instruct", _LARGE,
              _language(36, 4096, 12288, 32, 8, 128), tied=False),
    _qwen3_vl("Qwen/Qwen3-VL-32B-Instruct", _LARGE,
              _language(64, 5120, 25600, 64, 8, 128), tied=False),
    _qwen2_5_vl("Qwen/Qwen2.5-VL-3B-Instruct", _language(36, 2048, 11008, 16, 2),
                vocabulary=151936, tied=True),
    _qwen2_5_vl("Qwen/Qwen2.5-VL-7B-Instruct", QWEN2_7B, vocabulary=152064, tied=False),
    _gemma3("google/gemma-3-4b-it", _language(34, 2560, 10240, 8, 4, 256)),
    _gemma3("google/gemma-3-12b-it", _language(48, 3840, 15360, 16, 8, 256)),
    _gemma3("google/gemma-3-27b-it", _language(62, 5376, 21504, 32, 16, 128)),
)  # fmt: skip
"""Sizes as in each repository's config.json."""


@dataclass(frozen=True)
class Towers:
    """A published pair of an image and a text tower.

    Attributes:
        patches: positions of an image.
        pixels: numbers in one patch.
        text_positions: of a text.
    """

    name: str
    vision: Stack
    text: Stack
    patches: int
    pixels: int
    text_positions: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """Of both towers."""
        tables = (self.vocabulary + self.text_positions) * self.text.width
        towers = self.vision.weights + self.text.weights
        return towers + tables + (self.pixels + self.patches) * self.vision.width

    @property
    def multiply_adds(self) -> int:
        """Per image; texts are embedded once per batch and not counted."""
        patches = self.patches * self.pixels * self.vision.width
        return self.vision.multiply_adds(self.patches) + patches


_BASE_TEXT = Stack(12, 768, 3072, 12)
TOWERS: tuple[Towers, ...] = (
    Towers("openai/clip-vit-base-patch32", Stack(12, 768, 3072, 12), Stack(12, 512, 2048, 8),
           50, 3 * 32**2, 77, 49408),
    Towers("openai/clip-vit-large-patch14", Stack(24, 1024, 4096, 16), _BASE_TEXT,
           257, 3 * 14**2, 77, 49408),
    Towers("google/siglip2-base-patch16-224", SIGLIP_BASE, _BASE_TEXT,
           196, 3 * 16**2, 64, 256000),
    Towers("google/siglip2-so400m-patch14-384", SO400M, SO400M, 729, 3 * 14**2, 64, 256000),
)  # fmt: skip
"""Sizes as in each repository's config.json."""
