"""Two towers as an encoder: the image's unit vector and its cosine with a question's text."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ma_agiqa.errors import UsageError
from ma_agiqa.features.source import hash_files
from ma_agiqa.features.store import FeatureStore
from ma_agiqa.lmm.encoder import Question, open_encoder
from ma_agiqa.types import RGB
from support.command_line import run

transformers = pytest.importorskip("transformers", reason="needs the extra 'lmm'")

from support import tiny_lmms  # noqa: E402

SPACE = {"clip": 24, "siglip": 16, "siglip2": 16}
TEXTS = (Question("good", "Good photo."), Question("bad", "Bad photo of " + "many things, " * 9))


@pytest.fixture(scope="module", params=list(tiny_lmms.TOWERS))
def family(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def checkpoint(family: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_lmms.write(family, tmp_path_factory.mktemp("towers") / family)


@pytest.fixture(scope="module")
def images() -> list[RGB]:
    g = np.random.default_rng(0)
    shapes = [(40, 40), (40, 40), (60, 30), (28, 50)]
    return [g.integers(0, 256, (*shape, 3)).astype(np.uint8) for shape in shapes]


def test_vector_and_cosine_are_the_towers_own(
    family: str, checkpoint: Path, images: list[RGB]
) -> None:
    found = open_encoder(checkpoint, device="cpu", dtype="fp32").encode(images, TEXTS)
    assert found.shape == (4, 2, SPACE[family] + 1)
    model = transformers.AutoModel.from_pretrained(checkpoint).eval()
    processor = transformers.AutoProcessor.from_pretrained(checkpoint)
    for i, image in enumerate(images):
        for k, question in enumerate(TEXTS):
            text = processor.tokenizer(
                [question.text],
                padding="max_length" if family != "clip" else False,
                truncation=True,
                max_length=77 if family == "clip" else 64,
                return_tensors="pt",
            )
            # Not through the processor: SigLIP 2's would force its own patch size on the image.
            seen = processor.image_processor([Image.fromarray(image)], return_tensors="pt")
            with torch.no_grad():
                output = model(**text, **seen)
            unit = output.image_embeds[0] / output.image_embeds[0].norm()
            cosine = unit @ output.text_embeds[0] / output.text_embeds[0].norm()
            expected = torch.cat([unit, cosine[None]])
            # Float32 in another order of additions.
            torch.testing.assert_close(found[i, k], expected, rtol=0, atol=2e-6)
    # Random towers tell texts apart less than images, but by more than rounding.
    assert (found[:, 0, -1] - found[:, 1, -1]).abs().min() > 1e-4


def test_no_vector_depends_on_its_batch(checkpoint: Path, images: list[RGB]) -> None:
    encoder = open_encoder(checkpoint, device="cpu", dtype="fp32")
    together = encoder.encode(images, TEXTS)
    alone = [[encoder.encode([image], [text])[0, 0] for text in TEXTS] for image in images]
    stacked = torch.stack([torch.stack(row) for row in alone])
    torch.testing.assert_close(together, stacked, rtol=0, atol=2e-6)  # rounding of float32


def test_texts_are_embedded_again_when_they_change(checkpoint: Path, images: list[RGB]) -> None:
    encoder = open_encoder(checkpoint, device="cpu", dtype="fp32")
    first = encoder.encode(images, TEXTS)
    swapped = encoder.encode(images, TEXTS[::-1])
    again = encoder.encode(images, TEXTS)
    torch.testing.assert_close(swapped, first.flip(1), rtol=0, atol=2e-6)  # rounding of float32
    assert torch.equal(again, first)


def test_vectors_of_real_images_come_through_the_command_line(
    family: str, checkpoint: Path, agiqa_3k: Path, tmp_path: Path
) -> None:
    paths = sorted((agiqa_3k / "images").iterdir())[::1000]
    file = tmp_path / "questions.toml"
    file.write_text('good = "Good photo."\nbad = "Bad photo."\n')
    words = ("--lmm", checkpoint, "--questions", file, "--device", "cpu", "--dtype", "fp32")
    done = run("extract", *paths, *words, "--store", tmp_path / "store")
    assert done.exit_code == 0, done.stderr
    vectors = FeatureStore.open(tmp_path / "store").get(hash_files(paths)).float()
    assert vectors.shape == (3, 2, SPACE[family] + 1)
    # Unit vectors, rounded to float16 number by number.
    torch.testing.assert_close(vectors[..., :-1].norm(dim=-1), torch.ones(3, 2), rtol=0, atol=1e-3)
    assert torch.equal(vectors[:, 0, :-1], vectors[:, 1, :-1]), "the image is the same"


def test_options_of_language_models_are_refused(checkpoint: Path) -> None:
    with pytest.raises(UsageError, match="leave out --layer and --pool"):
        open_encoder(checkpoint, device="cpu", pool="last")
    with pytest.raises(UsageError, match="not loaded in 8 bits"):
        open_encoder(checkpoint, device="cpu", load_in=8)


def test_no_images_or_no_questions_give_no_vectors(
    family: str, checkpoint: Path, images: list[RGB]
) -> None:
    encoder = open_encoder(checkpoint, device="cpu")
    assert encoder.encode([], TEXTS).shape == (0, 2, SPACE[family] + 1)
    assert encoder.encode(images, []).shape == (4, 0, SPACE[family] + 1)
