"""`jaxllm tune`: supervised fine-tuning, reward models, classifiers, and preference optimization."""
