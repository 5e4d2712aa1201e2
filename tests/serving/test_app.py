"""The service answers as promised: scores, statuses, limits, metrics, rewards."""

from __future__ import annotations

import asyncio
import base64
import copy
import pickle
import threading
import time
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient

import ma_agiqa
from ma_agiqa.errors import UsageError
from ma_agiqa.scorer import Scorer
from ma_agiqa.serving import service
from ma_agiqa.serving.app import create_app
from ma_agiqa.serving.service import Settings
from ma_agiqa.types import COVERAGE, Score
from support.encoding import encoded

RNG = np.random.default_rng(0)
PICTURES = [
    encoded(RNG.integers(0, 256, (32 + 8 * n, 48, 3), dtype=np.uint8), kind)
    for n, kind in enumerate(["PNG", "JPEG", "WEBP", "PNG", "BMP"])
]


@pytest.fixture(scope="module")
def scorer(tiny_compact: Path) -> Scorer:
    return ma_agiqa.load(tiny_compact, device="cpu", workers=2)


@pytest.fixture(scope="module")
def client(scorer: Scorer) -> Iterator[TestClient]:
    with TestClient(create_app(scorer, Settings(allow_pickle=True, max_bytes=2**20))) as client:
        yield client


def b64(data: bytes) -> str:
    return base64.b64encode(data).decode()


def as_json(*images: bytes, **more: object) -> dict[str, Any]:
    return {"images": [{"name": f"{n}", "data": b64(d)} for n, d in enumerate(images)], **more}


# Scores


def test_scores_are_those_of_the_scorer_to_the_last_bit(client: TestClient, scorer: Scorer) -> None:
    wanted = [scorer(data).score for data in PICTURES]
    alone = [
        client.post("/v1/score", files={"image": ("a", data)}).json()["results"][0]["score"]
        for data in PICTURES
    ]
    together = client.post("/v1/score", files=[("image", ("a", data)) for data in PICTURES]).json()
    by_json = client.post("/v1/score", json=as_json(*PICTURES)).json()
    assert alone == wanted
    assert [row["score"] for row in together["results"]] == wanted
    assert [row["score"] for row in by_json["results"]] == wanted
    assert [row["path"] for row in by_json["results"]] == ["0", "1", "2", "3", "4"]


def test_reasons_are_given_when_asked_for(client: TestClient, scorer: Scorer) -> None:
    plain = client.post("/v1/score", json=as_json(PICTURES[0])).json()["results"][0]
    assert "quality_map" not in plain
    assert plain["interval"] == list(scorer(PICTURES[0]).interval or ())
    row = client.post("/v1/score", json=as_json(PICTURES[0], explain=True)).json()["results"][0]
    own = scorer(PICTURES[0], explain=True)
    assert row["contributions"] == own.contributions
    assert own.quality_map is not None
    assert np.shape(row["quality_map"]) == own.quality_map.shape
    form = client.post(
        "/v1/score", files={"image": ("a", PICTURES[0])}, data={"explain": "true"}
    ).json()["results"][0]
    assert {**form, "path": "0"} == row


def test_a_bad_image_leaves_its_neighbours_alone(client: TestClient, scorer: Scorer) -> None:
    bad = PICTURES[1][:300]
    reply = client.post("/v1/score", json=as_json(PICTURES[0], bad, b"text", PICTURES[2]))
    assert reply.status_code == 200
    first, cut, text, last = reply.json()["results"]
    assert (first["score"], last["score"]) == (scorer(PICTURES[0]).score, scorer(PICTURES[2]).score)
    assert cut["score"] is None
    assert "damaged or truncated JPEG" in cut["error"]
    assert "is not an image" in text["error"]


# Statuses


@pytest.mark.parametrize(
    ("request_", "status", "reason"),
    [
        ({"json": as_json(b"text")}, 415, "not an image"),
        ({"json": as_json(b"%PDF-1.4")}, 415, "PDF is not read"),
        ({"json": as_json(PICTURES[0][:200])}, 422, "damaged or truncated"),
        ({"json": as_json(encoded(np.zeros((8, 8, 3), np.uint8)))}, 422, "8x8"),
        ({"json": {"images": []}}, 422, "1 to 256"),
        ({"json": {"images": [1]}}, 422, "expected"),
        ({"json": []}, 422, "expected"),
        ({"json": {"images": [{"data": "%%"}]}}, 400, "base64"),
        ({"json": {"images": [{"data": None}]}}, 400, "base64"),
        ({"json": {"images": [{"url": "http://127.0.0.1/a.png"}]}}, 400, "base64"),
        ({"content": b"{", "headers": {"content-type": "application/json"}}, 400, "not JSON"),
        ({"content": b"x" * 10}, 415, "multipart"),
        ({"content": b"x", "headers": {"content-type": "multipart/form-data"}}, 400, "form"),
        ({"data": {"explain": "true"}}, 415, "multipart"),
        ({"json": as_json(PICTURES[0] + bytes(2**20))}, 413, "over 1,048,576"),
        ({"content": bytes(12 * 2**20)}, 413, "the request has over"),
    ],
)
def test_what_is_wrong_decides_the_status(
    client: TestClient, request_: dict[str, Any], status: int, reason: str
) -> None:
    reply = client.post("/v1/score", **request_)
    assert reply.status_code == status, reply.text
    assert reason in reply.json()["detail"]


def form_of(name: bytes, charset: str) -> dict[str, Any]:
    head = b'--B\r\nContent-Disposition: form-data; name="image"; filename="%b"\r\n\r\n' % name
    kind = f"multipart/form-data; boundary=B; charset={charset}"
    return {"content": head + PICTURES[0] + b"\r\n--B--\r\n", "headers": {"content-type": kind}}


def raw(text: str) -> dict[str, Any]:
    return {"content": text, "headers": {"content-type": "application/json"}}


@pytest.mark.parametrize(
    ("path", "request_", "reason"),
    [
        ("/v1/score", raw('{"images": [{"name": "\\ud800", "data": ""}]}'), "half a character"),
        ("/v1/score", raw('{"images": [{"name": {"a": 1}, "data": ""}]}'), "is a dict"),
        ("/v1/score", form_of(b"a\\ud800.png", "unicode_escape"), "half a character"),
        ("/v1/score", form_of(b"a.png", "undefined"), "the form cannot be read"),
        ("/score", raw('{"requests": [{"history": ["x"]}]}'), "a history holds turns"),
        ("/score", raw('{"requests": [{"history": [], "group_id": "\\ud800"}]}'), "group_id holds"),
        ("/score", raw('{"requests": [{"history": [], "group_id": NaN}]}'), "group_id is nan"),
        ("/score", raw('{"requests": [{"history": [], "group_id": 1e999}]}'), "group_id is inf"),
        (
            "/score",
            raw('{"requests": [{"history": [], "group_id": %s}]}' % ("[" * 300 + "]" * 300)),
            "group_id is a list",
        ),
        (
            "/score",
            raw('{"requests": [{"history": [], "required_rewards": ["\\ud800"]}]}'),
            "required_rewards holds half",
        ),
    ],
)
def test_what_a_reply_could_not_repeat_is_400(
    client: TestClient, path: str, request_: dict[str, Any], reason: str
) -> None:
    """Each of them was an internal error, or ended the reply midway."""
    reply = client.post(path, **request_)
    assert reply.status_code == 400, reply.text
    assert reason in reply.json()["detail"]


def test_a_body_without_a_length_is_cut_off(client: TestClient) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(40):
            yield bytes(2**19)

    kind = {"content-type": "application/json"}
    assert client.post("/v1/score", content=endless(), headers=kind).status_code == 413
    assert client.get("/health").status_code == 200


def test_routes_of_health_and_the_model(client: TestClient, scorer: Scorer) -> None:
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    assert client.get("/health").json()["status"] == "ok"
    assert client.get("/v2").json()["name"] == "ma-agiqa"
    assert client.get(f"/v2/models/{scorer.name}").json()["high"] == 5.0
    assert client.get("/v2/models/other").status_code == 404
    assert "/v1/score" in client.get("/openapi.json").json()["paths"]
    page = client.get("/").text
    assert "Is this picture any good?" in page
    assert f"{100 * COVERAGE:g} % interval" in page


def test_metrics_count(client: TestClient) -> None:
    client.post("/v1/score", json=as_json(b"text"))
    client.post("/v1/score", json=as_json(PICTURES[0]))
    text = client.get("/metrics").text
    assert 'ma_agiqa_requests_total{route="/v1/score",status="200"}' in text
    assert 'ma_agiqa_errors_total{kind="not an image"}' in text
    figures = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    assert float(figures["ma_agiqa_images_total"]) >= 1
    assert float(figures["ma_agiqa_batch_size_count"]) >= 1
    assert float(figures["ma_agiqa_queue_length"]) == 0


# Keys


def test_a_key_is_needed_where_there_is_one(scorer: Scorer) -> None:
    settings = Settings(api_key="secret", isolate=False, allow_pickle=True)
    with TestClient(create_app(scorer, settings)) as client:
        good = {"authorization": "Bearer secret"}
        body = as_json(PICTURES[0])
        assert client.post("/v1/score", json=body).status_code == 401
        assert client.post("/v1/score", json=body, headers={"x-api-key": "s"}).status_code == 401
        assert client.post("/v1/score", json=body, headers={"x-api-key": "secret"}).is_success
        assert client.post("/v1/score", json=body, headers=good).is_success
        for path in ("/metrics", "/v2", "/rewards", "/docs", "/openapi.json"):
            assert client.get(path).status_code == 401
            assert client.get(path, headers=good).is_success
        for path in ("/", "/health", "/v2/health/live", "/v2/health/ready"):
            assert client.get(path).is_success
        assert client.post("/", content=pickle.dumps({"images": [PICTURES[0]]})).status_code == 401


# Models


@pytest.mark.parametrize(
    ("needs", "remedy"), [("needs_hash", "--lmm NAME"), ("quotes_prompts", "score --prompt")]
)
def test_a_model_that_needs_more_than_the_image_is_refused(
    scorer: Scorer, needs: str, remedy: str
) -> None:
    """Every image would fail, the one that warms the service up first of all."""
    other = copy.copy(scorer)
    semantics = {"needs_hash": False, "quotes_prompts": False, needs: True}
    other.semantics = SimpleNamespace(**semantics)  # type: ignore[assignment]
    with pytest.raises(UsageError, match=remedy):
        create_app(other)


# Load


class Slow:
    """A scorer that waits to be let go before it scores."""

    def __init__(self, scorer: Scorer) -> None:
        self.go = threading.Event()
        self.go.set()
        self._scorer = scorer

    def __getattr__(self, name: str) -> Any:
        return getattr(self._scorer, name)

    def score(self, *arguments: Any, **options: Any) -> Iterator[Score]:
        self.go.wait(30)
        return self._scorer.score(*arguments, **options)


def test_beyond_the_queue_requests_are_refused_and_the_rest_is_scored(scorer: Scorer) -> None:
    slow = Slow(scorer)
    settings = Settings(queue=4, batch=2, isolate=False, timeout=60)
    with (
        TestClient(create_app(slow, settings)) as client,  # type: ignore[arg-type]
        ThreadPoolExecutor(16) as pool,
    ):
        slow.go.clear()
        replies = [
            pool.submit(client.post, "/v1/score", json=as_json(PICTURES[0])) for _ in range(16)
        ]
        until = time.monotonic() + 20
        while sum(reply.done() for reply in replies) < 8 and time.monotonic() < until:
            time.sleep(0.01)
        assert client.get("/v2/health/live").is_success
        slow.go.set()
        statuses = [reply.result().status_code for reply in replies]
        refused = next(r.result() for r in replies if r.result().status_code == 429)
        assert int(refused.headers["retry-after"]) >= 1
        assert set(statuses) == {200, 429}
        assert 4 <= statuses.count(200) <= 8  # four wait, and two batches of two are at work
        good = [r.result().json() for r in replies if r.result().is_success]
        assert all(one["results"][0]["score"] == scorer(PICTURES[0]).score for one in good)


@pytest.mark.parametrize(("queue", "most"), [(4, 4), (1000, 256)])
def test_more_images_than_a_request_may_hold_are_413(scorer: Scorer, queue: int, most: int) -> None:
    """They were 429 with a time to come again, which could never help, or taken without a limit."""
    settings = Settings(queue=queue, isolate=False, allow_pickle=True)
    images = [b"text"] * (most + 1)
    texts = [b64(data) for data in images]
    asked = [{"history": [{"image_b64": text}]} for text in texts]
    with TestClient(create_app(scorer, settings)) as client:
        for reply in (
            client.post("/v1/score", json=as_json(*images)),
            client.post("/v1/score", files=[("image", ("a", data)) for data in images]),
            client.post("/compute", json={"image": texts}),
            client.post("/score", json={"requests": asked}),
            client.post("/", content=pickle.dumps({"images": images})),
        ):
            assert reply.status_code == 413, reply.text
            assert f"at most {most} images".encode() in reply.content
        assert client.post("/v1/score", json=as_json(*images[:most])).status_code == 200
        assert "1 to" in client.post("/v1/score", json=as_json()).json()["detail"]


async def answer(app: Any, chunks: AsyncIterator[bytes]) -> tuple[int, str]:
    """Return the status and text of a reply to a body that comes as the client sends it."""
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": await anext(chunks, b""), "more_body": True}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    headers = [(b"content-type", b"application/json")]
    scope = {"type": "http", "method": "POST", "path": "/v1/score", "headers": headers}
    scope |= {"query_string": b"", "http_version": "1.1", "scheme": "http", "root_path": ""}
    await app(scope, receive, send)
    return sent[0]["status"], b"".join(one.get("body", b"") for one in sent).decode()


async def slowly(data: bytes, pause: float) -> AsyncIterator[bytes]:
    while True:
        yield data
        await asyncio.sleep(pause)


@pytest.mark.parametrize("pause", [0.02, 60])
def test_a_body_that_does_not_come_is_408(scorer: Scorer, pause: float) -> None:
    """It was waited for without end, and what had come of it was kept."""
    app = create_app(scorer, Settings(timeout=0.3, isolate=False))
    status, text = asyncio.run(asyncio.wait_for(answer(app, slowly(b"x", pause)), 30))
    assert status == 408
    assert "did not come within 0.3 s" in text


def test_bodies_have_a_bound_on_their_sum(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service, "LEAST_HELD", 0)
    settings = Settings(max_bytes=1200, timeout=0.5, isolate=False)
    app = create_app(scorer, settings)

    async def together(count: int) -> list[int]:
        full = bytes(settings.max_body)
        return [
            one
            for one, _ in await asyncio.gather(
                *(answer(app, slowly(full, 60)) for _ in range(count))
            )
        ]

    async def both() -> None:
        for _ in range(2):  # the memory of the first ten is free again
            assert sorted(await together(10)) == [408] * 8 + [429] * 2

    asyncio.run(asyncio.wait_for(both(), 30))


def test_over_time_is_504_and_the_next_request_is_served(scorer: Scorer) -> None:
    slow = Slow(scorer)
    settings = Settings(isolate=False, timeout=2.0)
    with TestClient(create_app(slow, settings)) as client:  # type: ignore[arg-type]
        slow.go.clear()
        assert client.post("/v1/score", json=as_json(PICTURES[0])).status_code == 504
        slow.go.set()
        assert client.post("/v1/score", json=as_json(PICTURES[0])).is_success


def test_an_ending_service_takes_nothing_new(scorer: Scorer) -> None:
    app = create_app(scorer, Settings(isolate=False))
    with TestClient(app) as client:
        app.state.service.draining = True
        assert client.post("/v1/score", json=as_json(PICTURES[0])).status_code == 503
        assert client.get("/v2/health/ready").status_code == 503
        assert client.get("/health").status_code == 503
        assert client.get("/v2/health/live").is_success


def test_a_scorer_that_fails_answers_and_goes_on(scorer: Scorer) -> None:
    slow = Slow(scorer)
    with TestClient(
        create_app(slow, Settings(isolate=False)),  # type: ignore[arg-type]
        raise_server_exceptions=False,
    ) as client:
        slow.score = lambda *a, **o: 1 / 0  # type: ignore[method-assign,assignment,return-value]
        assert client.post("/v1/score", json=as_json(PICTURES[0])).status_code == 500
        del slow.score  # type: ignore[misc]
        assert client.post("/v1/score", json=as_json(PICTURES[0])).is_success


# Rewards


def test_flow_factory_is_answered(client: TestClient, scorer: Scorer) -> None:
    body = {"prompt": ["a", "b"], "image": [b64(PICTURES[0]), b64(PICTURES[1])]}
    reply = client.post("/compute", json=body)
    assert reply.json() == {"rewards": [scorer(PICTURES[0]).score, scorer(PICTURES[1]).score]}
    failed = client.post("/compute", json={"image": [b64(PICTURES[0]), b64(b"text")]})
    assert failed.status_code == 422
    assert "image 1: is not an image" in failed.json()["detail"]
    assert client.post("/compute", json={"video": []}).status_code == 400


def test_unirl_is_answered_request_by_request(client: TestClient, scorer: Scorer) -> None:
    def asked(image: bytes | None, *names: str, **identity: object) -> dict[str, object]:
        turn = {"text": "a", "image_b64": None if image is None else b64(image)}
        return {"history": [turn], "required_rewards": list(names), **identity}

    body = {
        "protocol_version": "1",
        "requests": [
            asked(PICTURES[0], "ma-agiqa", request_id="r0", group_id=4),
            asked(b"text", "ma-agiqa", "pick"),
            asked(None, "ma-agiqa"),
        ],
    }
    reply = client.post("/score", json=body).json()
    own = scorer(PICTURES[0])
    assert reply["results"] == [
        {"ma-agiqa": {"score": own.score, "percentile": own.percentile}},
        {},
        {},
    ]
    assert reply["errors"][0] == {}
    assert reply["errors"][1]["pick"] == "unknown reward"
    assert "is not an image" in reply["errors"][1]["ma-agiqa"]
    assert reply["errors"][2] == {"ma-agiqa": "no image"}
    assert reply["identities"] == [{"request_id": "r0", "group_id": 4}, {}, {}]
    assert client.get("/rewards").json() == {"rewards": {"ma-agiqa": ["score", "percentile"]}}
    assert client.post("/score", json={}).status_code == 400


def test_pickled_requests_are_answered(client: TestClient, scorer: Scorer) -> None:
    body = pickle.dumps({"images": PICTURES[:2], "prompts": np.array(["a", "b"])})
    reply = pickle.loads(client.post("/", content=body).content)
    assert reply["outputs"] == reply["scores"] == [scorer(data).score for data in PICTURES[:2]]
    failed = client.post("/", content=pickle.dumps({"images": [b"text"]}))
    assert failed.status_code == 422
    assert "is not an image" in pickle.loads(failed.content)["error"]
    assert client.post("/", content=b"nonsense").status_code == 400


def test_pickles_are_not_read_unless_allowed(scorer: Scorer) -> None:
    with TestClient(create_app(scorer, Settings(isolate=False))) as client:
        assert client.post("/", content=pickle.dumps({"images": [b""]})).status_code == 405
