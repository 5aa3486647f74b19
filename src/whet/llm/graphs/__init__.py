"""Language models as ONNX graphs: what families share."""
