"""Print the table of docs/lmms.md: what published LMMs cost per image, counted.

    python scripts/count_lmm.py            the table
    python scripts/count_lmm.py --write    into docs/lmms.md

Counted are the multiply-adds of linear layers and of attention (full squares where attention is
causal) and the parameters of linear layers and embeddings; norms are under 0.1 %. Sizes are those
of each repository's config.json; image positions are those of a 512 x 512 image with the
processor's published settings. Nothing is downloaded or measured. A test holds the formulas to
torch's FlopCounterMode.
"""

from __future__ import annotations

import argparse
import re
from pathlib import Path
from typing import NamedTuple

PAGE = Path(__file__).resolve().parent.parent / "docs/lmms.md"
BEGIN, END = "<!-- counted: begin -->", "<!-- counted: end -->"
QUESTIONS, TEXT_POSITIONS = 2, 45
"""Asked per image, and positions of one official question with its template."""

LAPTOP_GB, LAPTOP_GIGA = 5.0, 1500
CARD_GB = {"12 GB card": 10.0, "80 GB card": 70.0}
"""Weights that leave room for activations; a laptop also needs few operations."""


class Stack(NamedTuple):
    """Transformer layers of one size; `keys` is what a position attends to, None for all."""

    layers: int
    width: int
    hidden: int
    heads: int
    shared: int | None = None  # key/value heads, where they are fewer
    head_width: int | None = None
    gated: bool = False
    keys: int | None = None

    @property
    def inner(self) -> int:
        return self.heads * (self.head_width or self.width // self.heads)

    @property
    def weights(self) -> int:
        shared = self.inner * (self.shared or self.heads) // self.heads
        attention = 2 * self.width * (self.inner + shared)
        return self.layers * (attention + (3 if self.gated else 2) * self.width * self.hidden)

    def multiply_adds(self, positions: int) -> int:
        keys = min(self.keys or positions, positions)
        return self.weights * positions + 2 * self.layers * self.inner * positions * keys


class Sizes(NamedTuple):
    """A published LMM: `tiles` of `patches` of `pixels` numbers, projected into image positions.

    `projector` is its weights and `projected` the positions it is used at, all tiles together;
    `tied` says that the language head is the embedding.
    """

    name: str
    vision: Stack
    language: Stack
    tiles: int
    patches: int
    pixels: int
    projector: int
    projected: int
    image_positions: int
    vocabulary: int
    tied: bool

    @property
    def in_layers(self) -> int:
        return self.language.weights + self.vision.weights + self.projector

    @property
    def parameters(self) -> int:
        tables = self.vocabulary * self.language.width * (1 if self.tied else 2)
        return self.in_layers + tables + self.pixels * self.vision.width

    @property
    def multiply_adds(self) -> int:
        """The tower once, the language model once per question."""
        tile = self.vision.multiply_adds(self.patches) + self.patches * self.pixels * (
            self.vision.width
        )
        asked = self.language.multiply_adds(self.image_positions + TEXT_POSITIONS)
        return self.tiles * tile + self.projector * self.projected + QUESTIONS * asked

    def gigabytes(self, bits: int = 16) -> float:
        """Return what the weights take: layers in `bits`, embeddings and head in 16."""
        return ((self.parameters - self.in_layers) * 16 + self.in_layers * bits) / 8 / 1e9


class Towers(NamedTuple):
    """A published pair of an image and a text tower; texts are embedded once and not counted."""

    name: str
    vision: Stack
    text: Stack
    patches: int
    pixels: int
    text_positions: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        tables = (self.vocabulary + self.text_positions) * self.text.width
        images = (self.pixels + self.patches) * self.vision.width
        return self.vision.weights + self.text.weights + tables + images

    @property
    def multiply_adds(self) -> int:
        patches = self.patches * self.pixels * self.vision.width
        return self.vision.multiply_adds(self.patches) + patches


def llm(
    layers: int, width: int, hidden: int, heads: int, shared: int, head: int | None = None
) -> Stack:
    return Stack(layers, width, hidden, heads, shared, head, gated=True)


SO400M = Stack(27, 1152, 4304, 16)
BASE = Stack(12, 768, 3072, 12)
VIT_300M = Stack(24, 1024, 4096, 16)
QWEN2_0_5B = llm(24, 896, 4864, 14, 2)
QWEN2_7B = llm(28, 3584, 18944, 28, 4)


def smolvlm(
    size: str, vision: Stack, language: Stack, patches: int, patch: int, shuffle: int
) -> Sizes:
    """16 tiles of the enlarged image and the whole; `shuffle`² patches become one position."""
    tokens, projector = patches // shuffle**2, shuffle**2 * vision.width * language.width
    name = f"HuggingFaceTB/SmolVLM2-{size}-Instruct"
    return Sizes(name, vision, language, 17, patches, 3 * patch**2, projector, 17 * tokens,
                 17 * (tokens + 3), 49280, tied=False)  # fmt: skip


def internvl(size: str, language: Stack) -> Sizes:
    """One tile of 448 x 448."""
    projector = 4096 * language.width + language.width**2
    return Sizes(f"OpenGVLab/InternVL3-{size}-hf", VIT_300M, language, 1, 1025, 3 * 14**2,
                 projector, 256, 258, 151674, tied=False)  # fmt: skip


def qwen3_vl(size: str, vision: Stack, language: Stack, tied: bool) -> Sizes:
    """32 x 32 patches of 16 x 16; the merger and three more for deep features."""
    merged = 4 * vision.width
    return Sizes(f"Qwen/Qwen3-VL-{size}-Instruct", vision, language, 1, 1024, 2 * 3 * 16**2,
                 4 * (merged**2 + merged * language.width), 256, 258, 151936, tied)  # fmt: skip


def qwen2_5_vl(size: str, language: Stack, vocabulary: int, tied: bool) -> Sizes:
    """36 x 36 patches of 14 x 14; 28 of 32 layers look at windows of 64 patches."""
    vision = Stack(32, 1280, 3420, 16, gated=True, keys=(4 * 1296 + 28 * 64) // 32)
    return Sizes(f"Qwen/Qwen2.5-VL-{size}-Instruct", vision, language, 1, 1296, 2 * 3 * 14**2,
                 5120**2 + 5120 * language.width, 324, 326, vocabulary, tied)  # fmt: skip


def llava_onevision(size: str, language: Stack, vocabulary: int, tied: bool) -> Sizes:
    """Four tiles of 384 x 384 with line ends, and the whole; the tower's last layer is unused."""
    projector = 1152 * language.width + language.width**2
    name = f"llava-hf/llava-onevision-qwen2-{size}-ov-hf"
    return Sizes(name, SO400M._replace(layers=26), language, 5, 729, 3 * 14**2, projector,
                 5 * 729, 5 * 729 + 54, vocabulary, tied)  # fmt: skip


def gemma3(size: str, language: Stack) -> Sizes:
    """One tile of 896 x 896, averaged to 256 positions."""
    return Sizes(f"google/gemma-3-{size}-it", SO400M, language, 1, 4096, 3 * 14**2,
                 1152 * language.width, 256, 260, 262208, tied=True)  # fmt: skip


PUBLISHED = (
    smolvlm("256M-Video", BASE, llm(30, 576, 1536, 9, 3), 1024, 16, 4),
    smolvlm("500M-Video", BASE, llm(32, 960, 2560, 15, 5), 1024, 16, 4),
    smolvlm("2.2B", SO400M, llm(24, 2048, 8192, 32, 32), 729, 14, 3),
    internvl("1B", QWEN2_0_5B),
    internvl("2B", llm(28, 1536, 8960, 12, 2)),
    internvl("8B", QWEN2_7B),
    llava_onevision("0.5b", QWEN2_0_5B, 152000, tied=True),
    llava_onevision("7b", QWEN2_7B, 152128, tied=False),
    qwen3_vl("2B", VIT_300M, llm(28, 2048, 6144, 16, 8, 128), tied=True),  # towers of equal sizes
    qwen3_vl("4B", VIT_300M, llm(36, 2560, 9728, 32, 8, 128), tied=True),
    qwen3_vl("8B", SO400M, llm(36, 4096, 12288, 32, 8, 128), tied=False),
    qwen3_vl("32B", SO400M, llm(64, 5120, 25600, 64, 8, 128), tied=False),
    qwen2_5_vl("3B", llm(36, 2048, 11008, 16, 2), 151936, tied=True),
    qwen2_5_vl("7B", QWEN2_7B, 152064, tied=False),
    gemma3("4b", llm(34, 2560, 10240, 8, 4, 256)),
    gemma3("12b", llm(48, 3840, 15360, 16, 8, 256)),
    gemma3("27b", llm(62, 5376, 21504, 32, 16, 128)),
)
TOWERS = (
    Towers("openai/clip-vit-base-patch32", BASE, Stack(12, 512, 2048, 8),
           50, 3 * 32**2, 77, 49408),
    Towers("openai/clip-vit-large-patch14", VIT_300M, BASE, 257, 3 * 14**2, 77, 49408),
    Towers("google/siglip2-base-patch16-224", BASE, BASE, 196, 3 * 16**2, 64, 256000),
    Towers("google/siglip2-so400m-patch14-384", SO400M, SO400M, 729, 3 * 14**2, 64, 256000),
)  # fmt: skip


def table() -> str:
    """Return the table as Markdown."""
    lines = [
        "| model | parameters | weights, 16 bit | weights, 4 bit | positions of the image "
        "| multiply-adds per image | fits |",
        "|---|---|---|---|---|---|---|",
    ]
    for pair in TOWERS:
        lines.append(
            f"| `{pair.name}` | {pair.parameters / 1e9:.2f} G | {2 * pair.parameters / 1e9:.1f} GB "
            f"| - | {pair.patches} | {pair.multiply_adds / 1e9:,.0f} G | laptop |"
        )
    for sizes in sorted(PUBLISHED, key=lambda sizes: sizes.multiply_adds):
        lines.append(
            f"| `{sizes.name}` | {sizes.parameters / 1e9:.2f} G | {sizes.gigabytes():.1f} GB "
            f"| {sizes.gigabytes(4):.1f} GB | {sizes.image_positions} "
            f"| {sizes.multiply_adds / 1e9:,.0f} G | {place(sizes)} |"
        )
    return "\n".join(lines)


def place(sizes: Sizes) -> str:
    """Return the smallest machine that holds the weights and answers in bearable time."""
    if sizes.gigabytes() <= LAPTOP_GB and sizes.multiply_adds <= LAPTOP_GIGA * 1e9:
        return "laptop"
    for machine, room in CARD_GB.items():
        if sizes.gigabytes() <= room:
            return machine
        if sizes.gigabytes(4) <= room:
            return f"{machine} in 4 bits"
    return "more than one card"


def with_table(page: str) -> str:
    """Return the page with the table between its marks."""
    return re.sub(f"{BEGIN}.*{END}", f"{BEGIN}\n{table()}\n{END}", page, flags=re.DOTALL)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--write", action="store_true", help="put it into docs/lmms.md")
    if parser.parse_args().write:
        PAGE.write_text(with_table(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    else:
        print(table())


if __name__ == "__main__":
    main()
