"""Tensors in, tensors out: features, model, training, scoring, metrics, calibration.

Knows no database, no tracker and no page.
"""
