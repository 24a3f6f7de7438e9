"""The owner's rules: who may call, which models, and how much they may spend."""
