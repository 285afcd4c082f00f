"""The .tflite format, written directly: no TensorFlow, only the schema that ``ai-edge-litert`` brings."""
