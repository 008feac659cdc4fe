"""Networks for other runtimes. Needs the extra `onnx`."""
