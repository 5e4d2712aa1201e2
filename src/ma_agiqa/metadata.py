"""What an image file says of how it was generated: prompt, checkpoint, seed and the like.

    AUTOMATIC1111, Forge, Civitai   PNG text `parameters`; EXIF UserComment of JPEG and WebP
    ComfyUI                         PNG text `prompt` (the graph as run) and `workflow` (as drawn);
                                    EXIF Model and Make of WebP
    InvokeAI                        PNG text `invokeai_metadata`
    NovelAI                         PNG text `Comment`
    Draw Things and others          XMP: exif:UserComment, dc:description

Only what stands before the pixels is read. Files are from strangers: whatever cannot be made out
is left out, and nothing here raises.
"""

from __future__ import annotations

import json
import re
from collections import deque
from collections.abc import Iterator, Mapping
from contextlib import suppress
from io import BytesIO
from typing import Any
from xml.etree import ElementTree

from PIL import ExifTags, Image

from ma_agiqa.images import FORMATS, format_of

KEYS = (
    "prompt",
    "negative_prompt",
    "checkpoint",
    "seed",
    "steps",
    "sampler",
    "guidance",
    "software",
)
"""Columns of results; each is text, or None where the file does not say."""

Generation = dict[str, str | None]

MOST_TEXT = 2**20  # characters of one entry that are looked at

_SETTINGS = {
    "Model": "checkpoint",
    "Seed": "seed",
    "Steps": "steps",
    "Sampler": "sampler",
    "CFG scale": "guidance",
}
_SETTING = re.compile(r'(\w[\w \-/]{0,39}):\s*("(?:\\.|[^"\\])*"|[^,]*)(?:,|$)')
_NAMES = {
    # of InvokeAI, NovelAI, Draw Things, and of flat JSON elsewhere
    "positive_prompt": "prompt",
    "prompt": "prompt",
    "c": "prompt",
    "negative_prompt": "negative_prompt",
    "uc": "negative_prompt",
    "model": "checkpoint",
    "seed": "seed",
    "steps": "steps",
    "scheduler": "sampler",
    "sampler": "sampler",
    "cfg_scale": "guidance",
    "scale": "guidance",
}


def generation_of(data: bytes) -> Generation:
    """Return what an encoded image says of its generation; every one of `KEYS` is there."""
    found: Generation = dict.fromkeys(KEYS)
    with suppress(Exception):  # see the head of this file
        for software, text in _entries(data):
            own = _understood(text[:MOST_TEXT])
            if own:
                for key, value in {**own, "software": own.get("software") or software}.items():
                    found[key] = found[key] or value
    return found


def _entries(data: bytes) -> Iterator[tuple[str | None, str]]:
    """Yield the texts that may say something, the most reliable first, with who writes such."""
    kind = format_of(data)
    if kind not in FORMATS:
        return
    image = FORMATS[kind].decoder(BytesIO(data))
    texts = {key: value for key, value in image.info.items() if isinstance(value, str)}
    for key, software in (
        ("parameters", "AUTOMATIC1111"),
        ("prompt", "ComfyUI"),
        ("invokeai_metadata", "InvokeAI"),
        ("workflow", "ComfyUI"),
    ):
        if key in texts:
            yield software, texts[key]
    if "Comment" in texts:
        yield texts.get("Software"), texts["Comment"]
    with suppress(Exception):
        yield from _exif_entries(image)
    yield from _xmp_entries(image)


def _exif_entries(image: Image.Image) -> Iterator[tuple[str | None, str]]:
    exif = image.getexif()
    for tag in (ExifTags.Base.Model, ExifTags.Base.Make):  # ComfyUI's WebP
        value = exif.get(tag)
        if isinstance(value, str) and value.startswith(("prompt:", "workflow:")):
            yield "ComfyUI", value.partition(":")[2]
    comment = exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment)
    if isinstance(comment, bytes):
        comment = _comment_text(comment)
    if isinstance(comment, str):
        yield "AUTOMATIC1111", comment


def _comment_text(comment: bytes) -> str:
    """Return the text of an EXIF UserComment, whose first eight bytes name its encoding."""
    kind, text = comment[:8], comment[8:]
    if kind == b"UNICODE\0":
        # Writers differ in the order of bytes; of what people write, the high ones are zeros.
        little = text[1::2].count(0) > text[0::2].count(0)
        return text.decode("utf-16-le" if little else "utf-16-be").strip("\0")
    return (text if kind in (b"ASCII\0\0\0", bytes(8)) else comment).decode("utf-8")


def xmp_packet(image: Image.Image) -> bytes:
    """Return the XMP packet of an image, empty where there is none."""
    packet = image.info.get("xmp") or image.info.get("XML:com.adobe.xmp") or b""
    return packet.encode() if isinstance(packet, str) else packet


def parse_xmp(packet: bytes) -> ElementTree.Element | None:
    """Return what a packet holds; None for an empty one, and for one that declares entities.

    Raises:
        xml.etree.ElementTree.ParseError: it is no XML.
    """
    if not packet or b"<!" in packet:  # entities can grow without bound
        return None
    return ElementTree.fromstring(packet.strip(b"\0 \n"))


def _xmp_entries(image: Image.Image) -> Iterator[tuple[str | None, str]]:
    packet = xmp_packet(image)
    root = None if len(packet) > MOST_TEXT else parse_xmp(packet)
    if root is None:
        return
    tool = next((e.text for e in root.iter() if e.tag.endswith("}CreatorTool")), None)
    for name in ("UserComment", "description"):
        for element in root.iter():
            if element.tag.endswith("}" + name):
                text = "".join(element.itertext()).strip()
                if text:
                    yield tool, text


def _understood(text: str) -> Generation:
    stripped = text.strip()
    if stripped.startswith("{"):
        with suppress(ValueError, RecursionError):
            return _of_json(json.loads(stripped))
    if re.search(r"^Steps: \d", stripped, re.MULTILINE):
        return _of_parameters(stripped)
    return {"prompt": stripped} if stripped and len(stripped) < 10_000 else {}


def _of_parameters(text: str) -> Generation:
    """Read AUTOMATIC1111's text: the prompt, `Negative prompt: ...`, and a line of settings."""
    lines = text.splitlines()
    at = max(number for number, line in enumerate(lines) if re.match(r"Steps: \d", line))
    prompt, _, negative = "\n".join(lines[:at]).partition("Negative prompt:")
    found: Generation = {"prompt": prompt.strip(), "negative_prompt": negative.strip() or None}
    for key, value in _SETTING.findall(" ".join(lines[at:])):
        if key in _SETTINGS:
            found[_SETTINGS[key]] = value.strip().strip('"')
    return found


def _of_json(data: Any) -> Generation:
    if not isinstance(data, dict):
        return {}
    nodes = data.get("nodes")
    if isinstance(nodes, list):  # a workflow as drawn: widgets have no names
        texts = [
            node["widgets_values"][0]
            for node in nodes
            if isinstance(node, dict)
            and "TextEncode" in str(node.get("type"))
            and isinstance(node.get("widgets_values"), list)
            and node["widgets_values"]
        ]
        return {"prompt": _text(texts[0])} if texts else {}
    graph = {key: node for key, node in data.items() if _is_node(node)}
    if graph:
        return _of_graph(graph)
    found: Generation = {}
    for name, key in _NAMES.items():
        value = data.get(name)
        if isinstance(value, dict):  # InvokeAI's model
            value = value.get("name") or value.get("model_name")
        found[key] = found.get(key) or _text(value)
    return found


def _is_node(node: object) -> bool:
    return isinstance(node, dict) and "class_type" in node and isinstance(node.get("inputs"), dict)


def _of_graph(graph: Mapping[str, Any]) -> Generation:
    """Read ComfyUI's graph from its sampler: the texts and the checkpoint that lead to it."""
    samplers = [n["inputs"] for n in graph.values() if "positive" in n["inputs"]]
    samplers.sort(key=lambda inputs: "seed" not in inputs and "noise_seed" not in inputs)
    if not samplers:
        texts = [n["inputs"].get("text") for n in graph.values()]
        return {"prompt": next((t for t in texts if isinstance(t, str)), None)}
    inputs = samplers[0]
    seed = inputs.get("seed", inputs.get("noise_seed"))
    return {
        "prompt": _upstream(graph, inputs["positive"], ("text", "text_g", "prompt")),
        "negative_prompt": _upstream(graph, inputs.get("negative"), ("text", "text_g", "prompt")),
        "checkpoint": _upstream(graph, inputs.get("model"), ("ckpt_name", "unet_name")),
        "seed": _text(seed) or _upstream(graph, seed, ("seed", "value")),
        "steps": _text(inputs.get("steps")),
        "sampler": _text(inputs.get("sampler_name")),
        "guidance": _text(inputs.get("cfg")),
    }


def _upstream(graph: Mapping[str, Any], link: Any, names: tuple[str, ...]) -> str | None:
    """Follow links against their direction to the first node that has one of these inputs."""
    waiting, seen = deque([link]), set()
    while waiting:
        one = waiting.popleft()
        if not (isinstance(one, list) and one and str(one[0]) in graph) or str(one[0]) in seen:
            continue
        seen.add(str(one[0]))
        inputs = graph[str(one[0])]["inputs"]
        for name in names:
            if isinstance(inputs.get(name), str):
                return str(inputs[name])
        waiting.extend(inputs.values())
    return None


def _text(value: Any) -> str | None:
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        return str(value) or None
    return None
