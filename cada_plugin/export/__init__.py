"""Take a trained retriever anywhere: one folder, the Hub, ONNX. Nothing is imported here, because the search with ONNX
runs where torch is not installed."""
