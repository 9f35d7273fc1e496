"""CLIP through onnxruntime: no torch and no transformers, neither at export nor when it runs."""
