"""`compact` as an ONNX file, for onnxruntime or for a page that scores in the browser."""
