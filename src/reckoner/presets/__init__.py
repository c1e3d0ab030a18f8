"""Presets: YAML files, the only difference between a laptop and a GPU."""
