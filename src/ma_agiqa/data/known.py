"""The data sets this package knows, as a literal table.

One entry says all that differs between data sets: in which forms the annotations are
published, where images lie under the root, what columns and names mean, the rating scale,
splits, licence and origin. What reads and checks them holds no knowledge of its own.

Sources: the data sets' repositories and annotation files, named in each entry, and the
official code of MA-AGIQA (arXiv 2404.17762) for the split `paper`. Images and annotations
are not part of this package; `download` says where they are.
"""

from __future__ import annotations

from ma_agiqa.data.spec import Blocks, DatasetSpec, Hub, Images, Layout, Source, Target
from ma_agiqa.types import Scale

DATASETS: dict[str, DatasetSpec] = {
    "agiqa-3k": DatasetSpec(
        name="agiqa-3k",
        title="AGIQA-3K",
        layouts=(Layout((Source(("data.csv",)),)),),
        images=(Images("images/{name}", size=(512, 512)), Images("{name}", size=(512, 512))),
        targets={
            "quality": Target("mos_quality", "std_quality", "how good the picture looks"),
            "alignment": Target("mos_align", "std_align", "how well it shows what was asked for"),
        },
        scale=Scale(0, 5),
        records=2982,
        splits={
            "paper": "7:1:2 by image, seed 20: official main.py; every test prompt is trained on",
            **{
                f"ipce-{number:02d}": "8:2 by prompt, test list published with IPCE"
                for number in range(1, 11)
            },
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
        groups={"prompt": "prompt"},
        name_pattern=r"(?P<generator>[^/\\]+)_(?P<setting>[^_/\\]+)_\d{3}\.jpg",
    ),
    "aigiqa-20k": DatasetSpec(
        name="aigiqa-20k",
        title="AIGIQA-20K (AIGCQA-20K, AIGCQA-30K-Image)",
        layouts=(
            Layout(
                tuple(
                    Source(
                        (f"info_{part}.csv", f"info_{part}.xlsx"),
                        constant={"official": official, "folder": part},
                        optional=part != "train",
                    )
                    for part, official in (
                        ("train", "training"),
                        ("val", "validation"),
                        ("test", "test"),
                    )
                ),
                stacked=True,
            ),
        ),
        images=(Images("{folder}/{name}"), Images("images/{name}"), Images("all/{name}")),
        targets={"quality": Target("mos", None, "quality and alignment with the prompt in one")},
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
        groups={"prompt": "prompt"},
        name_pattern=r"(?P<generator>[^/\\]+)_\d{4}\.png",
    ),
    "aigciqa2023": DatasetSpec(
        name="aigciqa2023",
        title="AIGCIQA2023",
        layouts=(
            Layout((Source(("AIGCIQA2023.csv", "DATA/MOS/AIGCIQA2023.csv")),)),
            Layout(
                (
                    Source(("DATA/MOS/mosz1.mat",), {"quality_mos": "MOSz"}),
                    Source(("DATA/MOS/mosz2.mat",), {"authenticity_mos": "MOSz"}),
                    Source(("DATA/MOS/mosz3.mat",), {"correspondence_mos": "MOSz"}),
                    Source(
                        ("AIGCIQA2023_Prompts.xlsx", "DATA/AIGCIQA2023_Prompts.xlsx"),
                        header=("style", "class", "prompt"),
                        each=4,
                        times=6,
                    ),
                    Source(("DATA/STD/SD1.mat",), {"quality_std": "SD"}, optional=True),
                    Source(("DATA/STD/SD2.mat",), {"authenticity_std": "SD"}, optional=True),
                    Source(("DATA/STD/SD3.mat",), {"correspondence_std": "SD"}, optional=True),
                    Source(
                        ("pic-index.xlsx", "DATA/pic-index.xlsx"),
                        header=("folder", "file"),
                        optional=True,
                    ),
                ),
                name="{row}.png",
            ),
        ),
        images=(
            Images("Image/allimg/{name}"),
            Images("allimg/{name}"),
            Images("Image/{folder}/{file}"),
        ),
        targets={
            "quality": Target("quality_mos", "quality_std", "how good the picture looks"),
            "authenticity": Target("authenticity_mos", "authenticity_std", "how real it looks"),
            "correspondence": Target(
                "correspondence_mos", "correspondence_std", "how well it shows what was asked for"
            ),
        },
        scale=Scale(0, 100),
        records=2400,
        splits={
            "paper": "7:1:2 by image, seed 20: the general split of the official code",
        },
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
        groups={"prompt": "prompt", "style": "style", "class": "class"},
        name_pattern=r"(?P<generator>\d+)\.png",
        numbers={
            "generator": Blocks(
                400, ("Controlnet", "DALLE", "Glide", "Lafite", "stable-diffusion", "Unidiffuser")
            )
        },
    ),
    "koniq-10k": DatasetSpec(
        name="koniq-10k",
        title="KonIQ-10k",
        layouts=(
            Layout(
                (
                    Source(
                        (
                            "koniq10k_distributions_sets.csv",
                            "metadata/koniq10k_distributions_sets.csv",
                        ),
                        {"name": "image_name", "mos": "MOS", "official": "set"},
                    ),
                ),
            ),
            Layout(
                (
                    Source(
                        ("koniq10k_scores_and_distributions.csv",),
                        {"name": "image_name", "mos": "MOS_zscore"},
                    ),
                ),
            ),
        ),
        images=(
            Images("1024x768/{name}", size=(1024, 768)),
            Images("images/{name}", size=(1024, 768)),
            Images("512x384/{name}", size=(512, 384), caveat="images of 512 x 384, not 1024 x 768"),
        ),
        targets={"quality": Target("mos", "SD", "technical quality of the photograph")},
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
        name_pattern=r"[^/\\]+\.jpg",
        photographs=True,
    ),
    "spaq": DatasetSpec(
        name="spaq",
        title="SPAQ",
        layouts=(
            Layout(
                (
                    Source(
                        tuple(
                            f"{folder}MOS and Image attribute scores.{suffix}"
                            for suffix in ("xlsx", "csv")
                            for folder in ("Annotations/", "")
                        ),
                        {"name": "Image name"},
                    ),
                ),
            ),
        ),
        images=(Images("TestImage/{name}"), Images("TestImages/{name}")),
        targets={
            "quality": Target("MOS", None, "quality of the photograph"),
            **{
                attribute.lower(): Target(attribute, None, f"{attribute.lower()}, an attribute")
                for attribute in (
                    "Brightness",
                    "Colorfulness",
                    "Contrast",
                    "Noisiness",
                    "Sharpness",
                )
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
        name_pattern=r"\d{5}\.(?:jpg|png)",
        photographs=True,
    ),
}
