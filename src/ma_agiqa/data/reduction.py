"""What a folder of reduced images says about itself.

`ma-agiqa datasets downsize` leaves this record beside the images it wrote. Whoever loads
such a folder gets it as a caveat of the samples, and so it stands in every report and model
card that comes of them: numbers on reduced images are not numbers on the photographs.
"""

from __future__ import annotations

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from ma_agiqa.errors import DataError
from ma_agiqa.files import write_atomically

RECORD = "downsized.json"
"""Its name, in the root of a data set."""


@dataclass(frozen=True)
class Reduction:
    """How the images of a folder were made from those distributed.

    Attributes:
        short_side: pixels; images whose shorter side was longer were reduced to it.
        resampling: filter that did it.
        encoding: how reduced images were stored; the others are copies of the files.
    """

    short_side: int
    resampling: str = "Lanczos, antialiased (Pillow)"
    encoding: str = "JPEG quality 95, chroma not subsampled; PNG stays PNG"

    @property
    def caveat(self) -> str:
        """The sentence a reader of numbers needs."""
        return f"images reduced to a shorter side of {self.short_side} pixels, {self.resampling}"


def read_reduction(root: str | Path) -> Reduction | None:
    """Return the record in a data set's root; None where images are as distributed.

    Raises:
        DataError: there is one, and it cannot be read.
    """
    path = Path(root) / RECORD
    try:
        return Reduction(**json.loads(path.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise DataError(
            f"the record of how images were reduced is damaged: {error}",
            path=path,
            remedy="run `ma-agiqa datasets downsize` again into a new folder",
        ) from error


def write_reduction(root: Path, reduction: Reduction) -> None:
    """Write the record; do this before the first image.

    Raises:
        OutputError: the disk is full or the place cannot be written.
    """
    write_atomically(root / RECORD, json.dumps(dataclasses.asdict(reduction), indent=2) + "\n")
