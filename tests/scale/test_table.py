"""`ScoreTable`: Arrow in, Arrow out, errors inside; the engines' recipes of docs/scale.md."""

from __future__ import annotations

import pickle
from pathlib import Path

import pyarrow as pa
import pytest

from ma_agiqa import load
from ma_agiqa.errors import DataError
from ma_agiqa.scale import SCHEMA, ScoreTable
from support import many_pictures as make
from support.command_line import save_model


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(save_model(tmp_path_factory.mktemp("model") / "tiny", seed=0))


def test_rows_are_those_of_the_scorer_and_bad_ones_are_errors(model: str, tmp_path: Path) -> None:
    pictures = make.pngs(5)
    table = pa.table(
        {
            "id": [*pictures, "bad", "none"],
            "bytes": [*pictures.values(), b"no picture", None],
            "other": list(range(7)),
        }
    )
    result = ScoreTable(model)(table)
    assert result.schema == SCHEMA
    assert result["id"].to_pylist() == [*pictures, "bad", "none"]
    scorer = load(model)
    assert result["score"].to_pylist()[:5] == [scorer(data).score for data in pictures.values()]
    assert result["percentile"].to_pylist()[0] is not None
    assert result["score"].to_pylist()[5:] == [None, None]
    errors = result["error"].to_pylist()
    assert errors[:5] == [None] * 5
    assert "is not an image" in errors[5]
    assert "no such file" in errors[6]


def test_addresses_are_read_and_contributions_sum_to_the_score(model: str, tmp_path: Path) -> None:
    root = make.folder(tmp_path / "in", make.pngs(2))
    places = [str(root / "000.png"), f"file://{root}/001.png", f"{root}/gone.png"]
    score = ScoreTable(model, contributions=True, isolate=True)
    result = score(pa.table({"id": [1, 2, 3], "uri": places}))
    assert result.schema == score.schema
    assert result["id"].to_pylist() == ["1", "2", "3"]
    for row in result.to_pylist()[:2]:
        assert sum(value for _, value in row["contributions"]) == pytest.approx(
            row["score"], abs=1e-5
        )
    assert result.to_pylist()[2]["contributions"] is None


def test_an_empty_table_gives_an_empty_one(model: str) -> None:
    empty = pa.table({"id": pa.array([], pa.string()), "bytes": pa.array([], pa.binary())})
    result = ScoreTable(model)(empty)
    assert result.schema == SCHEMA
    assert len(result) == 0


@pytest.mark.parametrize("columns", [{"id": ["a"]}, {"bytes": [b""]}, {"id": ["a"], "url": ["b"]}])
def test_a_table_without_the_columns_is_refused(model: str, columns: dict[str, list[str]]) -> None:
    with pytest.raises(DataError, match="the table needs id, and bytes or uri"):
        ScoreTable(model)(pa.table(columns))


def test_errors_survive_the_way_between_processes() -> None:
    error = DataError("is gone", path="a.parquet", remedy="fetch it")
    again = pickle.loads(pickle.dumps(error))
    assert (str(again), again.reason, again.path, again.remedy) == (
        str(error),
        "is gone",
        "a.parquet",
        "fetch it",
    )


def test_daft_scores_a_frame(model: str) -> None:
    daft = pytest.importorskip("daft")
    from daft import DataType, col

    kinds = {name: DataType.from_arrow_type(SCHEMA.field(name).type) for name in SCHEMA.names}

    @daft.cls(use_process=False)
    class Score:
        def __init__(self) -> None:
            self.table = ScoreTable(model)

        @daft.method.batch(return_dtype=DataType.struct(kinds), batch_size=4, unnest=True)
        def __call__(self, names, content):  # type: ignore[no-untyped-def]
            table = pa.table({"id": names.to_arrow(), "bytes": content.to_arrow()})
            return self.table(table).to_struct_array()

    pictures = make.pngs(6)
    frame = daft.from_pydict({"name": list(pictures), "content": list(pictures.values())})
    rows = frame.select(Score()(col("name"), col("content"))).to_pylist()
    scorer = load(model)
    assert {row["id"]: row["score"] for row in rows} == {
        name: scorer(data).score for name, data in pictures.items()
    }
