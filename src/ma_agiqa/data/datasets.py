"""The data sets known by name: one function that reads each, and one table of them.

A function finds the annotation files in whichever form they were published, says what columns
and names mean, and returns `Samples`; images need not be there. The table holds what people
must know: targets, rating scale, splits, licence, citation, addresses. Images and annotations
are not part of this package.

Checked on reading: names have the expected form and are unique, every score is a number within
the rating scale.

Sources: the data sets' repositories and annotation files, named in each entry, and the
official code of MA-AGIQA (arXiv 2404.17762) for the split `paper`.

Shapes: n records.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ma_agiqa.data.downsize import read_reduction
from ma_agiqa.data.samples import (
    Samples,
    Table,
    TableColumns,
    image_paths,
    is_blank,
    load_table,
    number_column,
    numbers_or_nan,
    read_table,
    text_column,
)
from ma_agiqa.data.splits import OFFICIAL_SETS
from ma_agiqa.errors import DataError, UsageError
from ma_agiqa.text import did_you_mean, join_some
from ma_agiqa.types import Scale

PROBED = 50
"""Records whose images are looked for to tell which of several folders holds them."""


class Target(NamedTuple):
    """One human score: what raters were asked, and the columns of mean and deviation."""

    meaning: str
    column: str
    std_column: str = ""


class Hub(NamedTuple):
    """A data set on the Hub: owner/name, patterns of its files, what is left to do by hand."""

    repository: str
    files: tuple[str, ...]
    then: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Dataset:
    """What there is to know about a data set.

    Attributes:
        name, title: on the command line; in text.
        read: the function that reads it; takes this entry and the root.
        annotations: files of each published form, for people; the first that is there is read.
        images: where images lie under the root; the place that holds most of them counts.
        sizes: folder -> width and height of all its images, in either order.
        name_pattern: regular expression that a name matches whole; named parts are groups.
        targets: by name; the first is the default.
        groups: columns that are groups, where the table has them.
        scale, records: nominal ends of every target; how many images were published.
        partial: a copy with fewer of them is sound, and says how many it has.
        splits: names that `splits.resolve` accepts and the literature uses -> what they are
            and where they come from; `paper`: what the split of that name stands for.
        licence, citation, download, unpack: for people; the first address is the publisher's.
        hub: where `datasets download` gets it, if anywhere.
        checksums: file -> sha256 as distributed, line ends of text as LF.
        photographs: taken with a camera, not generated from prompts.
    """

    name: str
    title: str
    read: Callable[[Dataset, Path], Samples]
    annotations: tuple[str, ...]
    images: tuple[str, ...]
    name_pattern: str
    targets: Mapping[str, Target]
    scale: Scale
    records: int
    splits: Mapping[str, str]
    licence: str
    citation: str
    download: tuple[str, ...]
    unpack: tuple[str, ...]
    groups: tuple[str, ...] = ("prompt",)
    sizes: Mapping[str, tuple[int, int]] = field(default_factory=dict)
    partial: bool = False
    paper: str = "random-20"
    hub: Hub | None = None
    checksums: Mapping[str, str] = field(default_factory=dict)
    photographs: bool = False


def get(name: str) -> Dataset:
    """Return the entry called `name`.

    Raises:
        UsageError: unknown; the message lists the known ones and close matches.
    """
    if name not in DATASETS:
        raise UsageError(
            f"unknown data set {name!r}{did_you_mean(name, DATASETS, 'known are')}",
            remedy="a table of one's own has no entry here: `train` and `evaluate` take its path",
        )
    return DATASETS[name]


def load(data: str | Path, root: str | Path, columns: TableColumns | None = None) -> Samples:
    """Read a known data set by name, or any table by its path; images need not be there.

    Args:
        data: a name in `DATASETS`, or a CSV, Parquet or Excel file.
        root: folder of the data set; for a table, the folder its image paths start from.
        columns: of a table.

    Raises:
        UsageError: neither a known name nor a file.
        DataError: the annotations are missing, damaged or inconsistent.
        MissingExtraError: they are an Excel file, and what reads those is not installed.
    """
    if str(data) in DATASETS:
        return load_known(DATASETS[str(data)], root)
    if not Path(data).suffix and not Path(data).exists():
        get(str(data))  # a name, then, and an unknown one
    return load_table(data, root, columns or TableColumns())


def load_known(info: Dataset, root: str | Path) -> Samples:
    """Read the data set that an entry describes; see `load`."""
    folder = Path(os.path.abspath(root))
    try:
        return info.read(info, folder)
    except _NotThereError:
        pass  # named below, with where they lie instead
    if not folder.is_dir():
        raise DataError("no such folder", path=root, remedy="give the data set's folder as root")
    inside = [sub for sub in sorted(folder.iterdir()) if sub.is_dir() and _is_root(info, sub)]
    raise DataError(
        f"the annotations of {info.title} are not there; "
        f"looked for {'; or '.join(info.annotations)}",
        path=root,
        remedy=(
            f"they lie in {inside[0]}: give that as root"
            if inside
            else f"to download, see `ma-agiqa datasets show {info.name}` and {info.download[0]}"
        ),
    )


def agiqa_3k(info: Dataset, root: Path) -> Samples:
    """`data.csv`; names hold generator and setting, `sd1.5_lowstep_001.jpg`."""
    file = _require(root, "data.csv")
    return _samples(info, root, [file], read_table(file))


def aigiqa_20k(info: Dataset, root: Path) -> Samples:
    """`info_train`, `info_val`, `info_test`, one after another.

    The last two were first published without scores, and then count as not there.
    """
    import pandas as pd

    tables, files, unread = [], [], []
    for folder, official in zip(("train", "val", "test"), OFFICIAL_SETS, strict=True):
        names = (f"info_{folder}.csv", f"info_{folder}.xlsx")
        file = _require(root, *names) if folder == "train" else _first(root, *names)
        table = None if file is None else read_table(file)
        if file is None or table is None or (folder != "train" and is_blank(table, "mos")):
            unread.append(names[0])
            continue
        tables.append(table.assign(folder=folder, official=official))
        files.append(file)
    samples = _samples(info, root, files, pd.concat(tables, ignore_index=True))
    return replace(samples, unread=tuple(unread))


def aigciqa2023(info: Dataset, root: Path) -> Samples:
    """`AIGCIQA2023.csv`; or MATLAB files of scores and a sheet of prompts.

    Images are numbered from 0: 400 of each generator.
    """
    csv = _first(root, "AIGCIQA2023.csv", "DATA/MOS/AIGCIQA2023.csv")
    files, table = ([csv], read_table(csv)) if csv else _aigciqa2023_matlab(info, root)
    samples = _samples(info, root, files, table)
    order = ("Controlnet", "DALLE", "Glide", "Lafite", "stable-diffusion", "Unidiffuser")
    generators = tuple(order[int(Path(name).stem) // 400] for name in samples.name)
    return replace(samples, groups={"generator": generators, **samples.groups})


def _aigciqa2023_matlab(info: Dataset, root: Path) -> tuple[list[Path], Table]:
    """Return the files of the second form, and their columns named as in the first."""
    import pandas as pd

    sheet = "AIGCIQA2023_Prompts.xlsx"
    prompts = _require(root, sheet, f"DATA/{sheet}")
    scores = [_require(root, f"DATA/MOS/mosz{number}.mat") for number in (1, 2, 3)]
    found: list[tuple[Path, Table]] = []
    for number, (target, file) in enumerate(zip(info.targets.values(), scores, strict=True), 1):
        mos = numbers_or_nan(read_table(file), "MOSz", source=file)
        found.append((file, pd.DataFrame({target.column: mos})))
        if deviations := _first(root, f"DATA/STD/SD{number}.mat"):
            std = numbers_or_nan(read_table(deviations), "SD", source=deviations)
            found.append((deviations, pd.DataFrame({target.std_column: std})))
    # A row for each prompt, whose 4 images follow one another; 6 generators.
    rows = read_table(prompts, header=("style", "class", "prompt"))
    rows = rows.loc[np.tile(np.repeat(np.arange(len(rows)), 4), 6)]
    found.append((prompts, rows.reset_index(drop=True)))
    if index := _first(root, "pic-index.xlsx", "DATA/pic-index.xlsx"):
        found.append((index, read_table(index, header=("folder", "file"))))
    files = [file for file, _ in found]
    if len({len(table) for _, table in found}) > 1:
        counts = ", ".join(f"{file.name} {len(table)}" for file, table in found)
        raise DataError(
            f"the files describe different numbers of records: {counts}",
            path=_source(files),
            remedy="download them again",
        )
    table = pd.concat([table for _, table in found], axis=1)
    return files, table.assign(name=[f"{row}.png" for row in range(len(table))])


def koniq_10k(info: Dataset, root: Path) -> Samples:
    """The file of sets, or else the file of distributions, which does not know the sets."""
    name = "koniq10k_distributions_sets.csv"
    file = _first(root, name, f"metadata/{name}")
    columns = {"image_name": "name", "MOS": "mos", "set": "official"}
    if file is None:
        file = _require(root, "koniq10k_scores_and_distributions.csv")
        columns = {"image_name": "name", "MOS_zscore": "mos"}
    samples = _samples(info, root, [file], read_table(file).rename(columns=columns))
    if samples.path[0].parent.name != "512x384":
        return samples
    return replace(samples, caveats=("images of 512 x 384, not 1024 x 768", *samples.caveats))


def spaq(info: Dataset, root: Path) -> Samples:
    """A sheet of the quality and five attributes of it."""
    sheet = "MOS and Image attribute scores"
    kinds = (f"{sheet}.xlsx", f"{sheet}.csv")
    file = _require(root, *(f"{folder}{name}" for name in kinds for folder in ("Annotations/", "")))
    return _samples(info, root, [file], read_table(file).rename(columns={"Image name": "name"}))


def live_itw(info: Dataset, root: Path) -> Samples:
    """`ratings.csv` with the columns `name,mos,std`.

    Not read: the publisher's MATLAB files, because their notes do not say which of the 1,169
    names are the seven training images. Pictures published as BMP may be stored in another
    lossless format, under the name that the table gives them.
    """
    file = _require(root, "ratings.csv")
    return _samples(info, root, [file], read_table(file))


class _NotThereError(DataError):
    """No form of the annotations lies under this root."""


def _first(root: Path, *names: str) -> Path | None:
    return next((root / name for name in names if (root / name).is_file()), None)


def _require(root: Path, *names: str) -> Path:
    file = _first(root, *names)
    if file is None:
        raise _NotThereError("not there", path=root)
    return file


def _is_root(info: Dataset, folder: Path) -> bool:
    try:
        info.read(info, folder)
    except DataError as error:
        return not isinstance(error, _NotThereError)  # there, and damaged
    return True


def _source(files: Sequence[Path]) -> Path:
    """Return what to name in an error: the file, or the folder that holds several."""
    return files[0] if len(files) == 1 else Path(os.path.commonpath([f.parent for f in files]))


def _samples(info: Dataset, root: Path, files: Sequence[Path], table: Table) -> Samples:
    """Return the samples of a table that was read from `files`.

    Its columns are `name`, those of the targets, and as far as they are there: those of
    deviations and groups, `official`, and what the places of the images are made of.
    """
    source = _source(files)
    names = text_column(table, "name", source=source, allow_empty=False)
    matched = [m.groupdict() for name in names if (m := re.fullmatch(info.name_pattern, name))]
    if len(matched) < len(names):
        foreign = [name for name in names if not re.fullmatch(info.name_pattern, name)]
        reason = f"names are not of the form {info.name_pattern}: {join_some(foreign)}"
        raise DataError(f"{len(foreign)} {reason}", path=source)
    groups = {group: tuple(one[group] for one in matched) for group in matched[0]}
    for group in info.groups:
        if group in table.columns:
            groups[group] = text_column(table, group, source=source)
    official = "official" in table.columns
    caveats = []
    if info.partial and len(names) < info.records:
        caveats.append(f"{len(names)} of the {info.records:,} images of {info.title}")
    if reduction := read_reduction(root):
        caveats.append(reduction.caveat)
    return Samples(
        name=names,
        path=image_paths(root, _locate(root, info.images, table)),
        targets={
            name: number_column(table, target.column, names=names, source=source, scale=info.scale)
            for name, target in info.targets.items()
        },
        groups=groups,
        dataset=info.name,
        scale=info.scale,
        official_set=text_column(table, "official", source=source) if official else None,
        paper=info.paper,
        photographs=info.photographs,
        caveats=tuple(caveats),
        std={
            name: numbers_or_nan(table, target.std_column, source=source)
            for name, target in info.targets.items()
            if target.std_column in table.columns
        },
        files=tuple(files),
    )


def _locate(root: Path, templates: Sequence[str], table: Table) -> tuple[str, ...]:
    """Fill in the template under which most images are, once per record.

    Only some records are looked for; where none is found, the first template counts.
    """
    columns = {key: table[key].tolist() for key in ("name", "folder", "file") if key in table}
    rows = [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]
    probed = rows[:: -(-len(rows) // PROBED)]
    known = [t for t in templates if set(re.findall(r"{(\w+)}", t)) <= set(columns)]
    found = [sum((root / text.format_map(row)).is_file() for row in probed) for text in known]
    best = known[found.index(max(found))]
    return tuple(best.format_map(row) for row in rows)


DATASETS: dict[str, Dataset] = {
    "agiqa-3k": Dataset(
        name="agiqa-3k",
        title="AGIQA-3K",
        read=agiqa_3k,
        annotations=("data.csv",),
        images=("images/{name}", "{name}"),
        sizes={"images": (512, 512), ".": (512, 512)},
        name_pattern=r"(?P<generator>[^/\\]+)_(?P<setting>[^_/\\]+)_\d{3}\.jpg",
        targets={
            "quality": Target("how good the picture looks", "mos_quality", "std_quality"),
            "alignment": Target("how well it shows what was asked for", "mos_align", "std_align"),
        },
        scale=Scale(0, 5),
        records=2982,
        splits={
            "paper": "7:1:2 by image, seed 20: official main.py; every test prompt is trained on",
            **dict.fromkeys(
                [f"ipce-{n:02d}" for n in range(1, 11)],
                "8:2 by prompt, test list published with IPCE",
            ),
        },
        licence="MIT, (c) 2023 lcysyzxdxc",
        citation=(
            "C. Li et al., AGIQA-3K: An Open Database for AI-Generated Image Quality "
            "Assessment, arXiv:2306.04717"
        ),
        download=(
            "https://github.com/lcysyzxdxc/AGIQA-3k-Database",
            "https://huggingface.co/datasets/strawhat/agiqa-3k",
        ),
        unpack=(
            "data.csv and the images of AGIQA-3K.zip in images/",
            "for the splits ipce-01 to ipce-10 the test names, one a line, in "
            "splits/ipce-01-test.txt and so on, from https://github.com/pf0607/IPCE",
        ),
        hub=Hub("strawhat/agiqa-3k", ("data.csv", "images/*")),
        checksums={"data.csv": "311b9c0dc6d8e203fb4b27e070fca6cde87fa3c0dbfb880e197ee1304bba4828"},
    ),
    "aigiqa-20k": Dataset(
        name="aigiqa-20k",
        title="AIGIQA-20K (AIGCQA-20K, AIGCQA-30K-Image)",
        read=aigiqa_20k,
        annotations=("info_train + info_val if there + info_test if there, each .csv or .xlsx",),
        images=("{folder}/{name}", "images/{name}", "all/{name}"),
        name_pattern=r"(?P<generator>[^/\\]+)_\d{4}\.png",
        targets={"quality": Target("quality and alignment with the prompt in one", "mos")},
        scale=Scale(0, 5),
        records=20000,
        paper="training/random-20",
        splits={
            "paper": "7:1:2 by image, seed 20, of the 14,000 training images: official configs",
            "official": "14,000/2,000/4,000, NTIRE 2024; needs the scores of all three files",
        },
        licence="Apache-2.0 (ModelScope record)",
        citation=(
            "C. Li et al., AIGIQA-20K: A Large Database for AI-Generated Image Quality "
            "Assessment, CVPR Workshops 2024, arXiv:2404.03407"
        ),
        download=(
            "https://www.modelscope.cn/datasets/lcysyzxdxc/AIGCQA-30K-Image",
            "https://huggingface.co/datasets/strawhat/aigciqa-20k",
        ),
        unpack=(
            "info_train.xlsx, info_val.xlsx, info_test.xlsx; images in train/, val/ and test/",
            "info_val and info_test were first published without scores and then count as not "
            "there; the scores came later, with M3-AGIQA among others: put them into "
            "info_val.csv and info_test.csv, columns name,prompt,mos",
        ),
        checksums={
            "info_train.csv": "dbaae55a25fe3c4c28484cd56bf34c214dadd326d64513a68f47ac7e04707a58"
        },
    ),
    "aigciqa2023": Dataset(
        name="aigciqa2023",
        title="AIGCIQA2023",
        read=aigciqa2023,
        annotations=(
            "AIGCIQA2023.csv or DATA/MOS/AIGCIQA2023.csv",
            "DATA/MOS/mosz1.mat to mosz3.mat + AIGCIQA2023_Prompts.xlsx + pic-index.xlsx if there "
            "(sheets in DATA/ or beside it) + DATA/STD/SD1.mat to SD3.mat if there",
        ),
        images=("Image/allimg/{name}", "allimg/{name}", "Image/{folder}/{file}"),
        name_pattern=r"(?:\d{1,3}|1\d{3}|2[0-3]\d\d)\.png",  # 0 to 2399
        targets={
            "quality": Target("how good the picture looks", "quality_mos", "quality_std"),
            "authenticity": Target("how real it looks", "authenticity_mos", "authenticity_std"),
            "correspondence": Target(
                "how well it shows what was asked for", "correspondence_mos", "correspondence_std"
            ),
        },
        groups=("prompt", "style", "class"),
        scale=Scale(0, 100),
        records=2400,
        splits={"paper": "7:1:2 by image, seed 20: the general split of the official code"},
        licence="none in the repository; Apache-2.0 on its Hub card",
        citation=(
            "J. Wang et al., AIGCIQA2023: A Large-scale Image Quality Assessment Database for "
            "AI Generated Images, arXiv:2307.00211"
        ),
        download=(
            "https://github.com/wangjiarui153/AIGCIQA2023",
            "https://huggingface.co/datasets/IntMeGroup/AIGCIQA2023",
        ),
        unpack=(
            "images 0.png to 2399.png of allimg.zip in Image/allimg/",
            "AIGCIQA2023.csv from the repository; or DATA/MOS/mosz1.mat to mosz3.mat with "
            "AIGCIQA2023_Prompts.xlsx, and pic-index.xlsx where images lie in a folder for each "
            "generator",
        ),
        hub=Hub(
            "IntMeGroup/AIGCIQA2023",
            ("allimg.zip",),
            then=(
                "unpack allimg.zip so that the images lie in Image/allimg/",
                "fetch AIGCIQA2023.csv from https://github.com/wangjiarui153/AIGCIQA2023",
            ),
        ),
        checksums={
            "AIGCIQA2023.csv": "3b74e63d2e1369b18fd7ec5567db0d5a809fa588a35aec0330ad397c78bcb7f3",
            "AIGCIQA2023_Prompts.xlsx": (
                "462c274d51bf3595e605d05c55c349ddf48d0606f73bed35099a719f9080f18b"
            ),
            "pic-index.xlsx": "2ecb99ef969f2e1171595bc4f9b825ef64d6c9c08f5dd8e971a8ff07cd504fe7",
        },
    ),
    "koniq-10k": Dataset(
        name="koniq-10k",
        title="KonIQ-10k",
        read=koniq_10k,
        annotations=(
            "koniq10k_distributions_sets.csv or metadata/koniq10k_distributions_sets.csv",
            "koniq10k_scores_and_distributions.csv",
        ),
        images=("1024x768/{name}", "images/{name}", "512x384/{name}"),
        sizes={"1024x768": (1024, 768), "images": (1024, 768), "512x384": (512, 384)},
        name_pattern=r"[^/\\]+\.jpg",
        targets={"quality": Target("technical quality of the photograph", "mos", "SD")},
        scale=Scale(0, 100),
        records=10073,
        paper="random-8-2-20",
        splits={
            "paper": "8:2 by image, numpy seed 20: the split for KonIQ-10k that the official code "
            "took over from MANIQA; it has no loader that uses it",
            "official": "7,058/1,000/2,015 as published with the data set; needs the file of sets",
        },
        licence="freely available to the research community; code of the repository MIT",
        citation=(
            "V. Hosu et al., KonIQ-10k: An Ecologically Valid Database for Deep Learning of "
            "Blind Image Quality Assessment, IEEE TIP 29, 2020"
        ),
        download=(
            "https://osf.io/hcsdy",
            "https://database.mmsp-kn.de/koniq-10k-database.html",
            "https://github.com/subpic/koniq",
        ),
        unpack=(
            "images of koniq10k_1024x768.zip in 1024x768/",
            "koniq10k_distributions_sets.csv from metadata/ of the repository, or, without the "
            "official sets, koniq10k_scores_and_distributions.csv",
        ),
        checksums={
            "koniq10k_distributions_sets.csv": (
                "d0bd1ad54a60bc36fe172049e46ac76c83554e50ab84acebfd47b82b3e698a0a"
            )
        },
        photographs=True,
    ),
    "spaq": Dataset(
        name="spaq",
        title="SPAQ",
        read=spaq,
        annotations=("MOS and Image attribute scores.xlsx or .csv, in Annotations/ or beside it",),
        images=("TestImage/{name}", "TestImages/{name}"),
        name_pattern=r"\d{5}\.(?:jpg|png)",
        targets={
            "quality": Target("quality of the photograph", "MOS"),
            **{
                name.lower(): Target(f"{name.lower()}, an attribute", name)
                for name in ("Brightness", "Colorfulness", "Contrast", "Noisiness", "Sharpness")
            },
        },
        scale=Scale(0, 100),
        records=11125,
        paper="random-8-2-20",
        splits={
            "paper": "8:2 by image, numpy seed 20, as for KonIQ-10k: neither paper nor official "
            "code say how SPAQ was split; 8:2 is what others use",
        },
        licence="research and education only",
        citation=(
            "Y. Fang et al., Perceptual Quality Assessment of Smartphone Photography, CVPR 2020"
        ),
        download=(
            "https://github.com/h4nwei/SPAQ",
            "https://drive.google.com/drive/u/1/folders/1wZ6HOHi5h43oxTe2yLYkFxwHPgJ9MwvT",
        ),
        unpack=(
            "Annotations/MOS and Image attribute scores.xlsx; all images in TestImage/",
            "large photographs: `ma-agiqa datasets downsize spaq` writes a copy "
            "with a shorter side of 512 pixels",
        ),
        photographs=True,
    ),
    "live-itw": Dataset(
        name="live-itw",
        title="LIVE In the Wild",
        read=live_itw,
        annotations=("ratings.csv",),
        images=("images/{name}", "Images/{name}"),
        name_pattern=r"[^/\\]+\.(?i:jpg|jpeg|bmp|png|webp)",
        targets={"quality": Target("quality of the photograph", "mos", "std")},
        scale=Scale(0, 100),
        records=1162,
        partial=True,
        paper="random-8-2-20",
        splits={
            "paper": "8:2 by image, numpy seed 20, as for KonIQ-10k: not a set of the paper",
        },
        licence=(
            "any use, with the copyright notice in every copy, "
            "(c) 2015 The University of Texas at Austin"
        ),
        citation=(
            "D. Ghadiyaram and A.C. Bovik, Massive Online Crowdsourced Study of Subjective and "
            "Objective Picture Quality, IEEE Transactions on Image Processing; and "
            "D. Ghadiyaram and A.C. Bovik, LIVE In the Wild Image Quality Challenge Database, "
            "2015, http://live.ece.utexas.edu/research/ChallengeDB/index.html"
        ),
        download=("https://live.ece.utexas.edu/research/ChallengeDB/",),
        unpack=(
            "the pictures in images/, without the seven training images",
            "ratings.csv with the columns name,mos,std, written from AllImages_release.mat, "
            "AllMOS_release.mat and AllStdDev_release.mat, which have the same order",
            "a copy with fewer pictures is fine if ratings.csv names only those that are there",
        ),
        photographs=True,
    ),
}
