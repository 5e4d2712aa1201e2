"""Large multimodal models that answer for meaning and coherence, all behind `SemanticEncoder`."""
