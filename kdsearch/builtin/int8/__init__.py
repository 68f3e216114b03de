"""The quantizer `int8`: ranges of activations, what is done to a network before, and onnxruntime's own tools."""
