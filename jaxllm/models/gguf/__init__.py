"""GGUF files, the format of llama.cpp, as checkpoints: metadata, tensors and tokenizer."""
