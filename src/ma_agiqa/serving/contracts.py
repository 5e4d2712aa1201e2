"""How trainers ask for rewards: the requests of their clients, turned into images, and the replies.

    Flow-Factory   POST /compute   {"image": [base64, ...], "prompt": [...]}  -> {"rewards": [...]}
    UniRL          POST /score     {"requests": [{"history": [{"image_b64": ...}],
                                    "required_rewards": [name], ...}]}
                                   -> {"results", "errors", "identities"}, one of each per request
    flow_grpo      POST /          pickle of {"images": [bytes, ...]}         -> pickle {"outputs"}
    verl-omni      POST /          pickle of {"images": [bytes], "prompts", "metadata"}
                                   -> pickle {"scores"}, or {"error": text}

A reward is the score on the model's scale. A pickle can run any code when it is read; here it is
read by a reader that knows numbers, text, bytes, lists and dicts. Numpy arrays are left out, since
their own readers trust what they are given; any other name is refused.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
import pickle
import pickletools
from dataclasses import dataclass
from typing import Any

from ma_agiqa.errors import UsageError

REWARD = "ma-agiqa"
"""What our reward is called where a client asks for rewards by name."""

SUBSCORES = ("score", "percentile")

IDENTITIES = (
    "request_id",
    "sample_id",
    "group_id",
    "source_rank",
    "policy_version",
    "scorer_version",
    "idempotency_key",
)


@dataclass(frozen=True)
class RewardRequest:
    """One request of UniRL.

    Attributes:
        image: the last image of its history.
        unknown: rewards it wants that are not ours.
        wanted: whether it wants ours.
        identity: what is given back with the reply.
    """

    image: bytes | None
    unknown: tuple[str, ...]
    wanted: bool
    identity: dict[str, Any]


def from_base64(text: Any) -> bytes:
    """Return the bytes of a base64 text, with or without a `data:` address before it.

    Raises:
        UsageError: it is none.
    """
    if not isinstance(text, str):
        raise UsageError(f"expected base64 text, got a {type(text).__name__}")
    if text.startswith("data:"):
        text = text.partition(",")[2]
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError) as error:
        raise UsageError(f"expected base64 text: {error}") from error


def repeatable(value: Any, *, what: str) -> Any:
    """Return a value of a request that a reply repeats, if JSON can hold it.

    Raises:
        UsageError: it is no text, number, true, false or null, or not one that JSON has.
    """
    if not isinstance(value, str | int | float | None):
        raise UsageError(f"{what} is a {type(value).__name__}, expected text or a number")
    if isinstance(value, float) and not math.isfinite(value):
        raise UsageError(f"{what} is {value}, which JSON does not have")
    if isinstance(value, str) and any("\ud800" <= character <= "\udfff" for character in value):
        raise UsageError(f"{what} holds half a character (a lone surrogate)")
    return value


def flow_factory(body: Any) -> list[bytes]:
    """Return the images of a request to `/compute`.

    Raises:
        UsageError: it is not of that form.
    """
    images = body.get("image") if isinstance(body, dict) else None
    if not isinstance(images, list) or not images:
        raise UsageError('expected {"image": [base64, ...]}; videos are not judged')
    return [from_base64(image) for image in images]


def unirl(body: Any) -> list[RewardRequest]:
    """Return the requests in a request to `/score`.

    Raises:
        UsageError: it is not of that form.
    """
    requests = body.get("requests") if isinstance(body, dict) else None
    if not isinstance(requests, list) or not all(isinstance(one, dict) for one in requests):
        raise UsageError('expected {"requests": [{"history": [...], "required_rewards": [...]}]}')
    found = []
    for one in requests:
        history, names = one.get("history"), one.get("required_rewards", [REWARD])
        if not isinstance(history, list) or not isinstance(names, list):
            raise UsageError("a request has a history and required_rewards, both lists")
        if not all(isinstance(turn, dict) for turn in history):
            raise UsageError('a history holds turns, each an object such as {"image_b64": ...}')
        images = [turn["image_b64"] for turn in history if turn.get("image_b64")]
        found.append(
            RewardRequest(
                image=from_base64(images[-1]) if images else None,
                unknown=tuple(
                    str(repeatable(name, what="a name in required_rewards"))
                    for name in names
                    if name != REWARD
                ),
                wanted=REWARD in names,
                identity={key: repeatable(one[key], what=key) for key in IDENTITIES if key in one},
            )
        )
    return found


def pickled(body: bytes) -> list[bytes]:
    """Return the images of a pickled request.

    Raises:
        UsageError: it is not of that form, or holds anything but plain data.
    """
    try:
        _require_small(body)
        content = _PlainReader(io.BytesIO(body)).load()
    except Exception as error:  # a damaged pickle ends in errors of almost any class
        raise UsageError(f"the pickle cannot be read: {error}") from error
    images = content.get("images") if isinstance(content, dict) else None
    if not isinstance(images, list | tuple) or not images:
        raise UsageError('expected a pickle of {"images": [bytes, ...]}')
    if not all(isinstance(image, bytes) for image in images):
        raise UsageError("images in a pickle are the bytes of files")
    return list(images)


def pickle_reply(scores: list[float]) -> bytes:
    """Return the reply that either of the pickle clients understands."""
    return pickle.dumps({"outputs": scores, "scores": scores}, protocol=4)


def pickle_error(reason: str) -> bytes:
    return pickle.dumps({"error": reason}, protocol=4)


MOST_STEPS = 1_000_000  # of a pickle; a request of 256 images takes about a thousand

_NUMBERED = frozenset({"PUT", "BINPUT", "LONG_BINPUT"})


def _require_small(body: bytes) -> None:
    """Refuse a pickle that makes its reader work or grow out of all proportion.

    What is put aside has a number, and the reader keeps a table as long as the largest of them:
    five bytes could ask for 64 GB.
    """
    for step, (opcode, argument, _) in enumerate(pickletools.genops(body)):
        if step > MOST_STEPS or (opcode.name in _NUMBERED and int(argument or 0) > step):
            raise pickle.UnpicklingError("it asks more of its reader than a request can need")


class _Unread:
    """Stands for a numpy array and whatever makes one, of which nothing is wanted."""

    __slots__ = ()

    def __init__(self, *_: Any) -> None:
        pass

    @staticmethod
    def __setstate__(*_: Any) -> None:
        """Take no state; without this a pickle could write into the class."""


class _PlainReader(pickle.Unpickler):
    """A reader of pickles that leaves out numpy arrays, and calls nothing else by name."""

    def find_class(self, module: str, name: str) -> Any:
        def latin1(text: str, encoding: str) -> bytes:
            """Stand in for `_codecs.encode`; made anew, since a pickle may write into it."""
            if encoding != "latin1":
                raise pickle.UnpicklingError("an encoding other than latin1 is not plain data")
            return text.encode("latin1")

        if (module, name) == ("_codecs", "encode"):
            return latin1
        if module.partition(".")[0] == "numpy":
            return _Unread
        raise pickle.UnpicklingError(f"{module}.{name} is not plain data")
