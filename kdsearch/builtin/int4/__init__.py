"""The quantizer `int4`: blocks of few bits, rounding that knows a layer's inputs, and what of an ONNX file is stored so."""
