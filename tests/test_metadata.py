"""What image files say of how they were generated, in the forms that tools write."""

from __future__ import annotations

import json
import time

import numpy as np
import pytest
from PIL import ExifTags, Image, PngImagePlugin

from ma_agiqa.metadata import KEYS, generation_of
from support.encoding import encoded

PIXELS = np.zeros((32, 32, 3), np.uint8)

PARAMETERS = """a fox, (red:1.2), sitting
in the snow
Negative prompt: blurry,
low quality
Steps: 28, Sampler: DPM++ 2M Karras, CFG scale: 7.5, Seed: 1234567890, Size: 512x768, \
Model hash: abcdef, Model: "dream, v2", Version: v1.9.0"""

FOX = {
    "prompt": "a fox, (red:1.2), sitting\nin the snow",
    "negative_prompt": "blurry,\nlow quality",
    "checkpoint": "dream, v2",
    "seed": "1234567890",
    "steps": "28",
    "sampler": "DPM++ 2M Karras",
    "guidance": "7.5",
    "software": "AUTOMATIC1111",
}

GRAPH = {
    "3": {
        "class_type": "KSampler",
        "inputs": {
            "seed": ["9", 0],
            "steps": 20,
            "cfg": 8.0,
            "sampler_name": "euler",
            "model": ["10", 0],
            "positive": ["6", 0],
            "negative": ["7", 0],
        },
    },
    "4": {"class_type": "CheckpointLoaderSimple", "inputs": {"ckpt_name": "sdxl.safetensors"}},
    "6": {"class_type": "CLIPTextEncode", "inputs": {"text": ["8", 0], "clip": ["4", 1]}},
    "7": {"class_type": "CLIPTextEncode", "inputs": {"text": "text, watermark", "clip": ["4", 1]}},
    "8": {"class_type": "StringConstant", "inputs": {"text": "a lighthouse"}},
    "9": {"class_type": "Seed", "inputs": {"value": "77"}},
    "10": {"class_type": "LoraLoader", "inputs": {"model": ["4", 0], "lora_name": "x"}},
}

LIGHTHOUSE = {
    "prompt": "a lighthouse",
    "negative_prompt": "text, watermark",
    "checkpoint": "sdxl.safetensors",
    "seed": "77",
    "steps": "20",
    "sampler": "euler",
    "guidance": "8.0",
    "software": "ComfyUI",
}


def png(**texts: str) -> bytes:
    info = PngImagePlugin.PngInfo()
    for key, text in texts.items():
        info.add_itxt(key, text)
    return encoded(PIXELS, pnginfo=info)


def with_comment(kind: str, comment: bytes) -> bytes:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.UserComment] = comment
    return encoded(PIXELS, kind, exif=exif)


def test_automatic1111_in_a_png() -> None:
    assert generation_of(png(parameters=PARAMETERS)) == FOX


@pytest.mark.parametrize("kind", ["JPEG", "WEBP"])
@pytest.mark.parametrize(
    "comment",
    [
        b"UNICODE\0" + PARAMETERS.encode("utf-16-be"),
        b"UNICODE\0" + PARAMETERS.encode("utf-16-le"),
        b"ASCII\0\0\0" + PARAMETERS.encode(),
        bytes(8) + PARAMETERS.encode(),
    ],
    ids=["big-endian", "little-endian", "ASCII", "undefined"],
)
def test_automatic1111_in_the_user_comment(kind: str, comment: bytes) -> None:
    assert generation_of(with_comment(kind, comment)) == FOX


def test_comfyui_follows_the_graph_from_its_sampler() -> None:
    assert generation_of(png(prompt=json.dumps(GRAPH), workflow="{}")) == LIGHTHOUSE


def test_comfyui_in_a_webp() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Model] = "prompt:" + json.dumps(GRAPH)
    assert generation_of(encoded(PIXELS, "WEBP", exif=exif)) == LIGHTHOUSE


def test_a_workflow_as_drawn_gives_its_prompt() -> None:
    drawn = {"nodes": [{"type": "CLIPTextEncode", "widgets_values": ["a heron"]}], "links": []}
    found = generation_of(png(workflow=json.dumps(drawn)))
    assert found == dict.fromkeys(KEYS) | {"prompt": "a heron", "software": "ComfyUI"}


def test_a_graph_that_leads_in_a_circle_ends() -> None:
    circle = {
        "1": {"class_type": "KSampler", "inputs": {"positive": ["2", 0], "seed": 5}},
        "2": {"class_type": "A", "inputs": {"in": ["3", 0]}},
        "3": {"class_type": "B", "inputs": {"in": ["2", 0]}},
    }
    found = generation_of(png(prompt=json.dumps(circle)))
    assert (found["prompt"], found["seed"]) == (None, "5")


def test_invokeai() -> None:
    said = {
        "positive_prompt": "a mill",
        "negative_prompt": "fog",
        "model": {"name": "sd-1.5", "hash": "x"},
        "seed": 9,
        "steps": 30,
        "cfg_scale": 6.5,
        "scheduler": "euler_a",
    }
    assert generation_of(png(invokeai_metadata=json.dumps(said))) == {
        "prompt": "a mill",
        "negative_prompt": "fog",
        "checkpoint": "sd-1.5",
        "seed": "9",
        "steps": "30",
        "sampler": "euler_a",
        "guidance": "6.5",
        "software": "InvokeAI",
    }


def test_novelai() -> None:
    said = {"prompt": "a cat", "uc": "dog", "seed": 3, "steps": 28, "scale": 11, "sampler": "k"}
    found = generation_of(png(Software="NovelAI", Comment=json.dumps(said)))
    assert (found["prompt"], found["negative_prompt"]) == ("a cat", "dog")
    assert (found["seed"], found["guidance"], found["software"]) == ("3", "11", "NovelAI")


def test_xmp() -> None:
    said = json.dumps({"c": "a bridge", "uc": "rain", "seed": 4, "model": "m", "steps": 8})
    packet = f"""<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF
     xmlns:rdf="http://www.w3.org/1999/02/22-rdf-syntax-ns#"><rdf:Description
     xmlns:exif="http://ns.adobe.com/exif/1.0/" xmlns:xmp="http://ns.adobe.com/xap/1.0/">
     <xmp:CreatorTool>Draw Things</xmp:CreatorTool>
     <exif:UserComment><rdf:Alt><rdf:li>{said}</rdf:li></rdf:Alt></exif:UserComment>
     </rdf:Description></rdf:RDF></x:xmpmeta>"""
    found = generation_of(encoded(PIXELS, "WEBP", xmp=packet.encode()))
    assert (found["prompt"], found["software"], found["steps"]) == ("a bridge", "Draw Things", "8")


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"no image",
        encoded(PIXELS),
        encoded(PIXELS)[:60],
        png(parameters=""),
        png(prompt="{" * 100_000),
        png(prompt="[" * 100_000 + "]" * 100_000),
        png(prompt='{"1": {"class_type": "K", "inputs": {"positive": 7}}}'),
        png(workflow='{"nodes": [null, 3, {"type": "CLIPTextEncode", "widgets_values": []}]}'),
        encoded(PIXELS, "WEBP", xmp=b'<!DOCTYPE a [<!ENTITY b "c">]><a>&b;</a>'),
        with_comment("JPEG", b"UNICODE\0\xff"),
    ],
    ids=range(11),
)
def test_what_says_nothing_or_nonsense_gives_nothing_and_raises_nothing(data: bytes) -> None:
    found = generation_of(data)
    assert tuple(found) == KEYS
    assert found["prompt"] is None or found["prompt"].startswith(("{", "["))


@pytest.mark.parametrize(
    "settings",
    ["Steps: 1, " + "a" * 300_000, "Steps: 1" + " " * 300_000, "Steps: 1, " + 'a:"' * 90_000],
)
def test_settings_without_end_take_no_time(settings: str) -> None:
    started = time.perf_counter()
    assert generation_of(png(parameters=f"a fox\n{settings}"))["steps"] == "1"
    assert time.perf_counter() - started < 5  # it was an hour
