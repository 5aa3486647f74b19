"""From a model source to a checked ``onnx_ir.Model`` in one canonical form."""
