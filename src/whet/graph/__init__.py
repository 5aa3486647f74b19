"""Small helpers over ``onnx_ir``: editing, evaluation, matching, inference, text and checks."""
