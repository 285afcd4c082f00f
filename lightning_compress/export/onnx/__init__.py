"""The ONNX format, with quantization as QuantizeLinear and DequantizeLinear nodes."""
