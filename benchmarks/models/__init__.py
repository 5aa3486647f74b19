"""The benchmark models: real architectures and sizes, seeded random weights, exported to ONNX."""
