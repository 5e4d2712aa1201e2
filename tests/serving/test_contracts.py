"""Requests of trainers' clients, built as their public code builds them."""

from __future__ import annotations

import base64
import codecs
import os
import pickle
from pathlib import Path

import numpy as np
import pytest

from ma_agiqa.errors import UsageError
from ma_agiqa.serving import contracts

JPEG = b"\xff\xd8\xff\xe0 one"


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize(
    "request_",
    [
        {"images": [JPEG, b"two"]},  # flow_grpo
        {"images": [JPEG, b"two"], "prompts": np.array(["a fox", "a hen"])},  # unifiedreward
        {"images": [JPEG, b"two"], "meta_datas": [{"tag": "x", "n": 1.5}], "only_strict": False},
        {"images": [JPEG, b"two"], "prompts": ["a fox", None], "metadata": {}},  # verl-omni
        {"images": (JPEG, b"two"), "more": {"a": [1, (2,)], "b": np.arange(3.0)}},
        {"images": [JPEG, b"two"], "n": np.float32(1.5), "o": np.array([1, None], object)},
    ],
)
def test_pickled_requests_give_their_images(request_: dict[str, object], protocol: int) -> None:
    assert contracts.pickled(pickle.dumps(request_, protocol=protocol)) == [JPEG, b"two"]


class Runs:
    """Code that a pickle calls when it is read."""

    def __init__(self, marker: Path, call: object) -> None:
        self.marker, self.call = marker, call

    def __reduce__(self) -> tuple[object, tuple[str, ...]]:
        return self.call, (f"touch {self.marker}",)


@pytest.mark.parametrize("call", [os.system, eval, exec, __import__, open])
@pytest.mark.parametrize("protocol", range(6))
def test_a_malicious_pickle_executes_nothing(tmp_path: Path, call: object, protocol: int) -> None:
    marker = tmp_path / "ran"
    body = pickle.dumps({"images": [JPEG], "x": Runs(marker, call)}, protocol=protocol)
    with pytest.raises(UsageError, match="is not plain data"):
        contracts.pickled(body)
    assert not marker.exists()
    assert not list(tmp_path.iterdir())


class Called:
    """A call by name that a pickle asks for, with a state for what it returns."""

    def __init__(self, call: object, arguments: tuple[object, ...], state: object) -> None:
        self.parts = call, arguments, state

    def __reduce__(self) -> tuple[object, ...]:
        return self.parts


def crafted(number: int) -> object:
    """Return what is read as an array of one object that lies at the address `number`.

    Its dtype has an object for a field and says by its flags that it has none, so numpy takes the
    raw bytes for a pointer.
    """
    fields = {"a": (np.dtype("O"), 0)}
    dtype = Called(np.dtype, ("V8", False, True), (3, "|", None, ("a",), fields, 8, 1, 0))
    state = (1, (1,), dtype, False, number.to_bytes(8, "little"))
    reconstruct = np.empty(0).__reduce_ex__(2)[0]
    return Called(reconstruct, (np.ndarray, (0,), b"b"), state)


@pytest.mark.parametrize("protocol", range(2, 6))
def test_arrays_are_not_built_so_their_bytes_are_no_pointers(protocol: int) -> None:
    """Such a request ended the process: the array was built, and looking at it read the address."""
    array = crafted(0x4141414141414141)
    looks = Called(codecs.encode, ("x", [array]), None)
    for images in (array, looks, Called(np.dtype, (array,), None), [array]):
        with pytest.raises(UsageError):
            contracts.pickled(pickle.dumps({"images": images}, protocol=protocol))
    beside = pickle.dumps({"images": [JPEG], "prompts": array}, protocol=protocol)
    assert contracts.pickled(beside) == [JPEG]


def test_a_pickle_changes_nothing_for_the_next_one() -> None:
    for name in (b"c_codecs\nencode\n", b"cnumpy\nndarray\n"):
        body = b"\x80\x02" + name + b"N}X\x08\x00\x00\x00__init__K\x01s\x86b."
        with pytest.raises(UsageError):
            contracts.pickled(body)
    request = {"images": [JPEG], "prompts": np.array(["a"])}
    assert contracts.pickled(pickle.dumps(request, protocol=2)) == [JPEG]


@pytest.mark.parametrize(
    "body",
    [
        b"\x80\x02Nr\xff\xff\xff\xff.",  # would be put aside in a table of 64 GB
        b"Np4294967295\n.",
        b"\x80\x02" + b"N" * 1_100_000 + b".",
        b"",
        b"nonsense",
        pickle.dumps([1]),
        pickle.dumps({"images": []}),
        pickle.dumps({"images": "text"}),
        pickle.dumps({"images": [1]}),
        pickle.dumps({"images": [JPEG]})[:-3],
        b"\x80\x04cnumpy\nload\n.",
        b"cbuiltins\neval\n(S'1'\ntR.",
    ],
)
def test_other_pickles_are_refused(body: bytes) -> None:
    with pytest.raises(UsageError):
        contracts.pickled(body)


def test_replies_hold_plain_floats_under_both_keys() -> None:
    reply = pickle.loads(contracts.pickle_reply([1.5, 2.0]))
    assert reply == {"outputs": [1.5, 2.0], "scores": [1.5, 2.0]}
    assert all(type(score) is float for score in reply["scores"])
    assert pickle.loads(contracts.pickle_error("why")) == {"error": "why"}


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_flow_factory() -> None:
    body = {"prompt": ["a", "b"], "image": [b64(JPEG), "data:image/png;base64," + b64(b"two")]}
    assert contracts.flow_factory(body) == [JPEG, b"two"]


@pytest.mark.parametrize("body", [None, [], {}, {"image": []}, {"image": [1]}, {"image": ["%%"]}])
def test_other_bodies_are_refused_by_flow_factory(body: object) -> None:
    with pytest.raises(UsageError):
        contracts.flow_factory(body)


def test_unirl_takes_the_last_image_and_gives_identities_back() -> None:
    first, second = contracts.unirl(
        {
            "protocol_version": "1",
            "requests": [
                {
                    "history": [
                        {"text": "a fox", "image_b64": b64(b"old")},
                        {"text": "better", "image_b64": b64(JPEG)},
                        {"text": "thanks", "image_b64": None},
                    ],
                    "required_rewards": ["ma-agiqa", "pick"],
                    "request_id": "r1",
                    "source_rank": 3,
                    "metadata": {"not": "an identity"},
                },
                {"history": [], "required_rewards": ["ma-agiqa"]},
            ],
        }
    )
    assert (first.image, first.wanted, first.unknown) == (JPEG, True, ("pick",))
    assert first.identity == {"request_id": "r1", "source_rank": 3}
    assert (second.image, second.identity) == (None, {})


@pytest.mark.parametrize(
    "body", [None, {}, {"requests": [1]}, {"requests": [{"history": 1}]}, {"requests": [{}]}]
)
def test_other_bodies_are_refused_by_unirl(body: object) -> None:
    with pytest.raises(UsageError):
        contracts.unirl(body)
