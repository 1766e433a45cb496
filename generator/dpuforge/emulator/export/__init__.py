"""A quantised network as files: xmodel, checking data, ONNX."""
