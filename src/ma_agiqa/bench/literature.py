"""Results that papers report, to stand beside ours: one literal table, each row with its source.

A method has several rows where several papers ran it: see DBCNN, HyperIQA and MANIQA on AGIQA-3K.
Their splits, schedules and seeds differ, and so do the figures, by 0.01 to 0.02.

A figure can be compared only with others on its own split. `protocol` is the kind of our split
that is nearest to it, or None; `differs` says what is not the same. "Its table" means
that the authors of the named paper ran the method, or copied the figure.
What is not here: figures whose source gives no protocol at all.
"""

from __future__ import annotations

from dataclasses import dataclass

M3 = "M3-AGIQA, arXiv 2502.15167, its table"
ACL = "ACL-IQA, its table"
PAPER = "MA-AGIQA, arXiv 2404.17762, its table 1"
TEN = "ten repeats of own splits by image"
OWN = "own split by image"
UNSTATED = "split of this row not stated"
SURVEYS = "second-hand: surveys"


@dataclass(frozen=True)
class Published:
    """One published result.

    Attributes:
        data: name in our data registry.
        srcc, plcc: as printed; PLCC is after a logistic fit.
        protocol: kind of our split nearest to theirs, or None.
        differs: what is not as in our split of that kind.
    """

    method: str
    data: str
    srcc: float
    plcc: float | None
    protocol: str | None
    differs: str
    source: str


PUBLISHED: tuple[Published, ...] = (
    Published(
        "MA-AGIQA", "agiqa-3k", 0.8939, 0.9273, "paper",
        "same split; its test loader drops 5 of 597 images", "arXiv 2404.17762",
    ),
    Published(
        "IPCE", "agiqa-3k", 0.8841, 0.9246, "ipce",
        "same test lists; no validation part", "second-hand: surveys of the NTIRE 2024 challenge",
    ),
    Published("M3-AGIQA", "agiqa-3k", 0.9045, 0.9317, None, OWN, "arXiv 2502.15167"),
    Published("SF-IQA", "agiqa-3k", 0.9024, 0.9314, None, OWN, M3),
    Published("ACL-IQA", "agiqa-3k", 0.8969, 0.9282, None, TEN, "ACL-IQA"),
    Published(
        "SCVA-AGIQA", "agiqa-3k", 0.9101, 0.9371, None,
        "own split by image; best epoch chosen on test", "its repository's logs",
    ),
    Published("MANIQA", "agiqa-3k", 0.8767, 0.9105, None, TEN, ACL),
    Published("LIQE", "agiqa-3k", 0.8742, 0.8934, None, TEN, ACL),
    Published("MANIQA", "agiqa-3k", 0.8618, 0.9115, None, UNSTATED, PAPER),
    Published("HyperIQA", "agiqa-3k", 0.8509, 0.9049, None, UNSTATED, PAPER),
    Published("DBCNN", "agiqa-3k", 0.8263, 0.8900, None, UNSTATED, PAPER),
    Published("ResNet50", "agiqa-3k", 0.8552, 0.9072, None, OWN, M3),
    Published("HyperIQA", "agiqa-3k", 0.8526, 0.8975, None, OWN, M3),
    Published("DBCNN", "agiqa-3k", 0.8154, 0.8747, None, OWN, M3),
    Published("Q-Align, re-trained", "agiqa-3k", 0.8058, 0.8268, None, TEN, ACL),
    Published("CNNIQA", "agiqa-3k", 0.7478, 0.8469, None, TEN, ACL),
    Published(
        "GC-Ridge (CLIP RN50, ridge)", "agiqa-3k", 0.8471, None, "prompt",
        "own splits by prompt", SURVEYS,
    ),
    Published("ILNIQE", "agiqa-3k", 0.610, 0.655, None, "not trained on it", SURVEYS),
    Published("NIQE", "agiqa-3k", 0.524, 0.567, None, "not trained on it", SURVEYS),
    Published(
        "BRISQUE", "agiqa-3k", 0.473, 0.561, None, "not trained on it", SURVEYS
    ),
    Published("MA-AGIQA", "aigiqa-20k", 0.8644, 0.9050, "paper",
              "7:1:2 of the 14,000 images of the official training part", "arXiv 2404.17762"),
    Published("IPCE", "aigiqa-20k", 0.9076, 0.9274, None, "official 14k/2k/4k split",
              "second-hand: surveys of the NTIRE 2024 challenge"),
    Published("M3-AGIQA", "aigiqa-20k", 0.8988, 0.9292, None, OWN, "arXiv 2502.15167"),
    Published("ACL-IQA", "aigiqa-20k", 0.8858, 0.9113, None, "official split", "ACL-IQA"),
    Published("MANIQA", "aigiqa-20k", 0.8500, 0.8870, None, "official split", ACL),
    Published("CNNIQA", "aigiqa-20k", 0.5968, 0.5913, None, "official split", ACL),
    Published("M3-AGIQA", "aigciqa2023", 0.8618, 0.8922, None, OWN, "arXiv 2502.15167"),
    Published("IPCE", "aigciqa2023", 0.8640, 0.8788, None, OWN, M3),
    Published("ACL-IQA", "aigciqa2023", 0.8720, 0.8865, None, TEN, "ACL-IQA"),
    Published("MANIQA", "aigciqa2023", 0.8269, 0.8464, None, TEN, ACL),
    Published("CNNIQA", "aigciqa2023", 0.7160, 0.7937, None, TEN, ACL),
    Published("MA-AGIQA", "koniq-10k", 0.934, 0.948, None, "own split", SURVEYS),
    Published("MANIQA", "koniq-10k", 0.930, 0.946, None, "own split", SURVEYS),
    Published("TOPIQ", "koniq-10k", 0.926, 0.939, None, "own split", SURVEYS),
    Published("BRISQUE, re-trained", "koniq-10k", 0.705, 0.707, None, "own split",
              SURVEYS),
    Published("MA-AGIQA", "spaq", 0.928, 0.932, None, "own split", SURVEYS),
    Published("MANIQA", "spaq", 0.923, 0.928, None, "own split", SURVEYS),
    Published("BRISQUE, re-trained", "spaq", 0.802, 0.806, None, "own split",
              SURVEYS),
)  # fmt: skip
