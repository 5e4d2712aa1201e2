"""What ComfyUI loads: the entry point of the nodes."""

from .nodes import comfy_entrypoint as comfy_entrypoint
