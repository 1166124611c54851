"""The gradient card: what each objective is the gradient of."""
