"""ONNX <-> Network: ``importer.load`` brings a file in, ``write_back.write_back`` puts trained weights into it."""
