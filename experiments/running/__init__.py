"""A head-to-head from config to report: training, resuming, stopping."""
