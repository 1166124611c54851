"""Pretrained language models: `spec` reads an architecture, `block` and `model` compute it,
`weights` says which tensor of a file is which parameter.

Nothing is imported here, so that reading an architecture does not load Flax."""
