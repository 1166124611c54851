"""fdiv: f-divergences for teaching language models from an expert."""
