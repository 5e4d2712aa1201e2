"""From a data set's files, in whichever form they are there, to its samples.

The description (`spec.py`) says which files a form consists of and what they hold; this file
finds the form, puts the files together and checks what comes out: names of the expected
form, one per image, every score a number within the rating scale. Images need not be there.

Shapes: n records.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from string import Formatter

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from ma_agiqa.data.readers import is_blank, number_column, read_table, text_column
from ma_agiqa.data.reduction import read_reduction
from ma_agiqa.data.samples import Samples, image_paths
from ma_agiqa.data.spec import OFFICIAL, DatasetSpec, Images, Layout, Source
from ma_agiqa.errors import DataError
from ma_agiqa.text import some

PROBED = 50
"""Records whose images are looked for to tell which of several places holds them."""


@dataclass(frozen=True, eq=False)
class Annotations:
    """What the annotation files of a data set hold, put together.

    Attributes:
        layout: the form they have.
        files: those that were read.
        left_out: sources of a stack that are not there or hold no scores.
        table: n rows; columns as the spec names them.
    """

    layout: Layout
    files: tuple[Path, ...]
    left_out: tuple[str, ...]
    table: pa.Table

    @property
    def path(self) -> Path:
        """What to name in an error: the file, or the folder that holds several."""
        return self.files[0] if len(self.files) == 1 else _common_folder(self.files)


def load_spec(spec: DatasetSpec, root: str | Path) -> Samples:
    """Read a known data set under `root`; images need not be there.

    Raises:
        DataError: the annotations are missing, damaged or inconsistent.
        MissingExtraError: they are an Excel file, and what reads those is not installed.
    """
    return samples_of(spec, read_annotations(spec, root), root)


def read_annotations(spec: DatasetSpec, root: str | Path) -> Annotations:
    """Read the first form of the annotations that is there.

    Raises:
        DataError: none is, or a file is damaged or inconsistent with the others.
        MissingExtraError: see `load_spec`.
    """
    layout, files = _find(spec, Path(root))
    scores = [target.column for target in spec.targets.values()]
    tables: list[pa.Table] = []
    read: list[Path] = []
    left_out: list[str] = []
    for source, path in zip(layout.sources, files, strict=True):
        table = None if path is None else _read(source, path)
        if table is not None and layout.stacked and source.optional:
            table = None if all(is_blank(table, column) for column in scores) else table
        if path is None or table is None:
            left_out.append(source.files[0])
            continue
        tables.append(table)
        read.append(path)
    if layout.stacked:
        whole = pa.concat_tables(tables, promote_options="default")
        return Annotations(layout, tuple(read), tuple(left_out), whole)
    return Annotations(layout, tuple(read), (), _join(tables, read))


def samples_of(spec: DatasetSpec, annotations: Annotations, root: str | Path) -> Samples:
    """Return the samples that the annotations describe.

    Raises:
        DataError: names of another form or not unique, scores that are no numbers or lie
            outside the rating scale; each with a count and the first names.
    """
    table, source = annotations.table, annotations.path
    names = _filled_in(annotations.layout.name, table, {}, source=source)
    groups = _groups_in_names(spec, names, source=source)
    for group, column in spec.groups.items():
        if column in table.column_names:
            groups[group] = text_column(table, column, source=source)
    place, relative = image_place(spec, Path(root), table, {"name": names, **groups}, source=source)
    reduction = read_reduction(root)
    caveats = [place.caveat, None if reduction is None else reduction.caveat]
    return Samples(
        name=names,
        path=image_paths(root, relative),
        targets={name: _scores(spec, name, table, names, source=source) for name in spec.targets},
        groups=groups,
        dataset=spec.name,
        scale=spec.scale,
        official_set=(
            text_column(table, OFFICIAL, source=source) if OFFICIAL in table.column_names else None
        ),
        paper=spec.paper,
        photographs=spec.photographs,
        caveats=tuple(caveat for caveat in caveats if caveat is not None),
    )


def describe(layout: Layout) -> str:
    """Return what a form of the annotations consists of, for people."""
    parts = []
    for source in layout.sources:
        names = " or ".join(source.files)
        grouped = len(layout.sources) > 1 and len(source.files) > 1
        parts.append(
            (f"({names})" if grouped else names) + (" if there" if source.optional else "")
        )
    return " + ".join(parts)


def _find(spec: DatasetSpec, root: Path) -> tuple[Layout, tuple[Path | None, ...]]:
    """Return the first layout whose files are there, and the file of each source."""
    for layout in spec.layouts:
        files = _files(layout, root)
        if files is not None:
            return layout, files
    if not root.is_dir():
        raise DataError("no such folder", path=root, remedy="give the data set's folder as root")
    inside = [
        folder
        for folder in sorted(root.iterdir())
        if folder.is_dir() and any(_files(layout, folder) is not None for layout in spec.layouts)
    ]
    wanted = "; or ".join(describe(layout) for layout in spec.layouts)
    raise DataError(
        f"the annotations of {spec.title} are not there; looked for {wanted}",
        path=root,
        remedy=(
            f"they lie in {inside[0]}: give that as root"
            if inside
            else f"to download, see `ma-agiqa datasets show {spec.name}` and {spec.download[0]}"
        ),
    )


def _files(layout: Layout, root: Path) -> tuple[Path | None, ...] | None:
    """Return the file of each source; None for a layout that lacks one it requires."""
    files = tuple(
        next((root / name for name in source.files if (root / name).is_file()), None)
        for source in layout.sources
    )
    lacking = [
        source
        for source, file in zip(layout.sources, files, strict=True)
        if file is None and not source.optional
    ]
    return None if lacking else files


def _read(source: Source, path: Path) -> pa.Table:
    """Read one file, with our names for its columns and its constants."""
    table = read_table(path, header=source.header)
    for ours, theirs in source.rename.items():
        if theirs in table.column_names:
            table = table.append_column(ours, table.column(theirs)).drop_columns([theirs])
    for column, text in source.constant.items():
        table = table.append_column(column, pa.array([text] * table.num_rows, pa.string()))
    if source.each * source.times > 1:
        rows = np.tile(np.repeat(np.arange(table.num_rows), source.each), source.times)
        table = table.take(pa.array(rows))
    return table


def _join(tables: Sequence[pa.Table], paths: Sequence[Path]) -> pa.Table:
    """Put tables of equal length side by side; the first to name a column is believed."""
    lengths = {path.name: table.num_rows for path, table in zip(paths, tables, strict=True)}
    if len(set(lengths.values())) > 1:
        found = ", ".join(f"{name} {rows}" for name, rows in lengths.items())
        raise DataError(
            f"the files describe different numbers of records: {found}",
            path=_common_folder(paths),
            remedy="download them again",
        )
    columns: dict[str, pa.ChunkedArray] = {}
    for table in tables:
        for name in table.column_names:
            columns.setdefault(name, table.column(name))
    return pa.table(columns)


def _common_folder(paths: Sequence[Path]) -> Path:
    folder = paths[0].parent
    while not all(path.is_relative_to(folder) for path in paths):
        folder = folder.parent
    return folder


def _filled_in(
    template: str, table: pa.Table, known: Mapping[str, Sequence[str]], *, source: Path
) -> tuple[str, ...]:
    """Return the template once per row, its braces filled from known texts and columns."""
    values: dict[str, Sequence[str]] = {}
    for field in _fields(template):
        if field == "row":
            values[field] = [str(row) for row in range(table.num_rows)]
        else:
            values[field] = known.get(field) or text_column(
                table, field, source=source, allow_empty=False
            )
    rows = zip(*values.values(), strict=True)
    return tuple(template.format_map(dict(zip(values, row, strict=True))) for row in rows)


def _fields(template: str) -> list[str]:
    return [field for _, field, _, _ in Formatter().parse(template) if field is not None]


def image_place(
    spec: DatasetSpec,
    root: Path,
    table: pa.Table,
    known: Mapping[str, Sequence[str]],
    *,
    source: Path,
) -> tuple[Images, tuple[str, ...]]:
    """Return the place that holds most images, and the path of each image under the root.

    Only some records are looked for; where none is found, the first place counts.
    """
    columns = {*table.column_names, *known, "row"}
    places = [images for images in spec.images if columns.issuperset(_fields(images.path))]
    paths = [_filled_in(images.path, table, known, source=source) for images in places]
    probed = range(0, table.num_rows, -(-table.num_rows // PROBED))
    found = [sum((root / names[row]).is_file() for row in probed) for names in paths]
    best = found.index(max(found))
    return places[best], paths[best]


def _scores(
    spec: DatasetSpec, target: str, table: pa.Table, names: Sequence[str], *, source: Path
) -> NDArray[np.float64]:
    """Return the human scores of one target, all of them on the rating scale."""
    scores = number_column(table, spec.targets[target].column, names=names, source=source)
    low, high = spec.scale.low, spec.scale.high
    outside = np.flatnonzero((scores < low) | (scores > high))
    if len(outside):
        worst = some([f"{names[i]} ({scores[i]:g})" for i in outside.tolist()])
        raise DataError(
            f"{len(outside)} {target} scores outside {low:g} to {high:g}: {worst}",
            path=source,
            remedy="check the scale of the file: it is not as published",
        )
    return scores


def _groups_in_names(
    spec: DatasetSpec, names: Sequence[str], *, source: Path
) -> dict[str, tuple[str, ...]]:
    """Return what the names tell: group -> one text per name."""
    told = {name: _parts(spec, name) for name in names}
    foreign = [name for name, parts in told.items() if parts is None]
    if foreign:
        raise DataError(
            f"{len(foreign)} names are not of the form {spec.name_pattern}: {some(foreign)}",
            path=source,
        )
    return {
        group: tuple((told[name] or {})[group] for name in names)
        for group in re.compile(spec.name_pattern).groupindex
    }


def _parts(spec: DatasetSpec, name: str) -> dict[str, str] | None:
    """Return what one name tells, group -> text; None for a name of another form."""
    match = re.fullmatch(spec.name_pattern, name)
    if match is None:
        return None
    parts = match.groupdict()
    for group, blocks in spec.numbers.items():
        block = int(parts[group]) // blocks.size
        if block >= len(blocks.values):
            return None
        parts[group] = blocks.values[block]
    return parts
