"""From nodes of the normalised graph to modules of ``torch.nn`` and ``pipeline.core.ops``."""
