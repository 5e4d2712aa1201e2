"""One score as a picture: the image, the quality map laid over it, what each expert adds.

Drawn with Pillow alone, in its own font. Colours are those of viridis, which stay apart for
colour-blind eyes and in grey: dark violet is bad, yellow is good.

Shapes: H, W pixels of the image, h, w places of the map.
"""

from __future__ import annotations

import io
from base64 import b64encode
from contextlib import suppress
from html import escape
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from ma_agiqa.errors import ImageError
from ma_agiqa.images import read_image
from ma_agiqa.text import for_terminal
from ma_agiqa.types import COVERAGE, RGB, Score

VIRIDIS = (
    (68, 1, 84),
    (71, 44, 122),
    (59, 81, 139),
    (44, 113, 142),
    (33, 144, 141),
    (39, 173, 129),
    (92, 200, 99),
    (170, 220, 50),
    (253, 231, 37),
)
"""Nine colours at equal steps, from bad to good."""

SOFTWARE = "ma-agiqa explain"  # stands in each drawing
PANEL = 520  # pixels: longest side at which the image is shown
LEAST_SIDE = 256  # pixels: images are enlarged to it, without smoothing
OVERLAY = 0.6  # of what is seen of the map
LEAST_SPAN = 0.2  # of the scale, that the map's colours cover
MARGIN = 20
BAR = 26
LINE = 24
INK, PAPER, GREY, FALLING = (25, 28, 33), (255, 255, 255), (120, 126, 134), (190, 80, 60)
RISING = (33, 120, 140)


def explained(rgb: RGB | None, score: Score) -> Image.Image:
    """Draw an image (H, W, 3) beside its quality map, and below them where the score comes from.

    Args:
        rgb: the image that was scored; None where it is not at hand, then the map stands alone.
        score: made with `explain=True`; of one without, or of an error, there is less to show.
    """
    panels = [] if rgb is None else [_shown(rgb)]
    quality = score.map
    ends = map_ends(score)
    if quality is not None:
        under = panels[0] if panels else None
        panels.append(overlay(under, quality, ends))
    contributions = score.contributions or {}
    width = max(560, sum(panel.width for panel in panels) + MARGIN * (len(panels) + 1))
    height = max((panel.height for panel in panels), default=0)
    legend = 44 if quality is not None else 0
    bars = (BAR + 8) * len(contributions) + (MARGIN if contributions else 0)
    lines = [line for line in (between(score), subline(score)) if line is not None]
    head = 62 + LINE * len(lines)
    canvas = Image.new("RGB", (width, 10 + head + height + legend + bars + MARGIN), PAPER)
    draw = ImageDraw.Draw(canvas)
    draw.text((MARGIN, 14), headline(score), INK, _font(26))
    for number, line in enumerate(lines):
        place = (MARGIN, 52 + LINE * number)
        draw.text(place, _fitting(draw, line, width - 2 * MARGIN), GREY, _font(16))
    left, top = MARGIN, head
    for panel in panels:
        canvas.paste(panel, (left, top))
        left += panel.width + MARGIN
    top += height + 10
    if quality is not None:
        own = panels[-1].width
        _legend(canvas, draw, (left - own - MARGIN, top), own, ends)
        top += legend
    if contributions:
        _bars(draw, contributions, score, (MARGIN, top + 8), width - 2 * MARGIN)
    return canvas


def png(image: Image.Image) -> bytes:
    """Return a drawing as a PNG file that says whose it is."""
    file, said = io.BytesIO(), PngInfo()
    said.add_text("Software", SOFTWARE)
    image.save(file, "PNG", optimize=True, pnginfo=said)
    return file.getvalue()


def is_explained(path: Path) -> bool:
    """Say whether a file is what `png` returned."""
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return image.info.get("Software") == SOFTWARE
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
        return False


def html(score: Score) -> str:
    """Return an explained score as HTML, with the image where its file is at hand."""
    rgb = None
    with suppress(ImageError):
        rgb = read_image(score.path)
    picture = b64encode(png(explained(rgb, score))).decode()
    lines = filter(None, (headline(score), between(score), subline(score)))
    text = escape(". ".join(lines))
    return f'<img style="max-width: 100%" alt="{text}" src="data:image/png;base64,{picture}">'


def headline(score: Score) -> str:
    """Say the score and what it ranks among."""
    if score.score is None:
        return "no score"
    text = f"{score.score:.2f} of {score.low:g} to {score.high:g}"
    if score.percentile is None:
        return text
    return f"{text}, above {score.percentile:.0f} % of the pictures that people rated"


def between(score: Score) -> str | None:
    """Say the interval and for what it holds; None where there is none."""
    if score.interval is None:
        return None
    low, high = score.interval
    for_what = f"{100 * COVERAGE:g} % of pictures like those validated on"
    return f"interval {low:.2f} to {high:.2f}, for {for_what}"


def subline(score: Score) -> str:
    """Say which image, which model, and what may mislead."""
    parts = filter(None, [score.path, score.model, score.error, score.hint])
    return for_terminal("  -  ".join(parts)).replace("\n", " ")


def map_ends(score: Score) -> tuple[float, float]:
    """Return the qualities at the ends of the map's colours: all but its outermost hundredths."""
    quality = score.map
    if quality is None:
        return score.low, score.high
    low, high = (float(end) for end in np.percentile(quality, (1, 99)))
    missing = LEAST_SPAN * (score.high - score.low) - (high - low)
    return (low - missing / 2, high + missing / 2) if missing > 0 else (low, high)


def overlay(
    under: Image.Image | None, quality: NDArray[np.float32], ends: tuple[float, float]
) -> Image.Image:
    """Lay a map (h, w) over an image, bilinear; without an image the map is shown alone."""
    size = (16 * quality.shape[1], 16 * quality.shape[0]) if under is None else under.size
    smooth = grey(quality, ends).resize(size, Image.Resampling.BILINEAR)
    coloured = Image.fromarray(colours(np.asarray(smooth)))
    plain = Image.new("RGB", size, PAPER) if under is None else under.convert("L").convert("RGB")
    laid = coloured if under is None else Image.blend(plain, coloured, OVERLAY)
    return Image.composite(laid, plain, told(quality).resize(size, Image.Resampling.NEAREST))


def grey(quality: NDArray[np.float32], ends: tuple[float, float]) -> Image.Image:
    """Return a map (h, w) as an image of floats, 0 and 1 at the ends."""
    low, high = ends
    return Image.fromarray(np.clip((quality - low) / (high - low), 0, 1).astype(np.float32))


def told(quality: NDArray[np.float32]) -> Image.Image:
    """Return where a map (h, w) says something: 255, and 0 where it repeats what lies further in.

    `compact` sees beyond the picture at its border, and has the places there repeat others: drawn,
    they would be streaks.
    """
    mask = np.full(quality.shape, 255, np.uint8)
    for values, own in ((quality, mask), (quality.T, mask.T)):
        border = 0
        while border < (len(values) - 1) // 4 and np.allclose(
            values[[border, -1 - border]], values[[border + 1, -2 - border]], atol=1e-4
        ):
            border += 1
        own[:border] = own[len(own) - border :] = 0
    return Image.fromarray(mask)


def colours(values: NDArray[np.float32]) -> RGB:
    """Return values in [0, 1], of any shape, as colours, with a last axis of three."""
    steps = np.linspace(0, 1, len(VIRIDIS))
    table = np.array(VIRIDIS, dtype=np.float64)
    channels = [np.interp(values, steps, table[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=-1).round().astype(np.uint8)


def _shown(rgb: RGB) -> Image.Image:
    image = Image.fromarray(rgb)
    longest = max(image.size)
    if longest > PANEL:
        image.thumbnail((PANEL, PANEL), Image.Resampling.LANCZOS)
    elif longest < LEAST_SIDE:
        times = -(-LEAST_SIDE // longest)
        size = (image.width * times, image.height * times)
        image = image.resize(size, Image.Resampling.NEAREST)
    return image


def _legend(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    at: tuple[int, int],
    width: int,
    ends: tuple[float, float],
) -> None:
    left, top = at
    ramp = np.tile(np.linspace(0, 1, width, dtype=np.float32), (12, 1))
    canvas.paste(Image.fromarray(colours(ramp)), (left, top))
    font = _font(14)
    low, high = (f"{end:.2f}" for end in ends)
    draw.text((left, top + 16), f"{low}  worse", GREY, font)
    better = f"better  {high}"
    draw.text((left + width - draw.textlength(better, font), top + 16), better, GREY, font)


def _bars(
    draw: ImageDraw.ImageDraw,
    contributions: dict[str, float],
    score: Score,
    at: tuple[int, int],
    width: int,
) -> None:
    """Draw what each expert adds as bars to the left or right of zero, on one scale."""
    left, top = at
    names, figures = 120, 70
    largest = max(score.high - score.low, *(abs(value) for value in contributions.values()))
    falling = any(value < 0 for value in contributions.values())
    room = width - names - figures
    zero = left + names + (room // 2 if falling else 0)
    unit = (room // 2 if falling else room) / largest
    font = _font(16)
    for number, (name, value) in enumerate(contributions.items()):
        y = top + number * (BAR + 8)
        draw.text((left, y + 3), name, INK, font)
        end = round(zero + value * unit)
        box = (min(zero, end), y, max(zero, end) + 1, y + BAR)
        draw.rectangle(box, GREY if name == "bias" else RISING if value >= 0 else FALLING)
        text = f"{value:+.2f}"
        place = left + width - draw.textlength(text, font)
        draw.text((place, y + 3), text, INK, font)
    draw.line((zero, top - 4, zero, top + len(contributions) * (BAR + 8) - 4), GREY)


def _font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size)


def _fitting(draw: ImageDraw.ImageDraw, text: str, width: int) -> str:
    """Return the text, its beginning left out where it is too long for one line."""
    font = _font(16)
    if draw.textlength(text, font) <= width:
        return text
    while len(text) > 1 and draw.textlength("..." + text, font) > width:
        text = text[1 + len(text) // 50 :]
    return "..." + text
