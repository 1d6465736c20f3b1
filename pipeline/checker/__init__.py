"""An independent checker of proofs: numpy and the ``onnx`` package alone, and no code of what made them (docs/proofs.md)."""
