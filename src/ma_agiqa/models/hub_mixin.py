"""Model directories on the Hugging Face Hub, through the hub library's own mixin.

Adds `from_pretrained`, `save_pretrained` and `push_to_hub` to a network. What goes up and
comes down is a model directory as `models/checkpoint.py` writes and reads it: safetensors, our
`config.json`, the model card. `HF_HUB_OFFLINE`, `HF_ENDPOINT` and `HF_TOKEN` are the hub
library's business and work as everywhere.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin

from ma_agiqa.config import ModelConfig
from ma_agiqa.errors import ModelError
from ma_agiqa.models import checkpoint, registry


class HubModel(ModelHubMixin):
    """Mixin for networks that live in model directories.

    Attributes:
        description: the configuration the network was loaded with; None for one built by
            hand, which cannot be saved without.
        card: text of its model card.
    """

    description: ModelConfig | None = None
    card: str = ""

    def _save_pretrained(self, save_directory: Path) -> None:
        if self.description is None:
            raise ModelError(
                "this network has no configuration to save with its weights",
                path=save_directory,
                remedy="set `model.description`, or write it with `checkpoint.save`",
            )
        checkpoint.save(save_directory, self, self.description, card=self.card)  # type: ignore[arg-type]

    @classmethod
    def _from_pretrained(
        cls,
        *,
        model_id: str,
        revision: str | None,
        cache_dir: str | Path | None,
        force_download: bool,
        local_files_only: bool,
        token: str | bool | None,
        **network: Any,  # the library passes what it finds in config.json; ours is read strictly
    ) -> HubModel:
        directory = registry.find_directory(
            model_id,
            revision=revision,
            cache_dir=cache_dir,
            force_download=force_download,
            local_files_only=local_files_only,
            token=token,
        )
        model, config = checkpoint.load(directory)
        if not isinstance(model, cls):
            raise ModelError(
                f"holds a {type(model).__name__}, expected {cls.__name__}", path=model_id
            )
        model.description = config
        model.card = checkpoint.read_card(directory)
        return model
