"""Quantised network -> ONNX: the file, the builder, and the writers of operators."""
