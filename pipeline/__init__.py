"""Certify how robust an ONNX classifier provably is, and retrain it until it is."""
