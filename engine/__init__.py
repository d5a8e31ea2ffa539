"""Tensors in, tensors out: features, model, training, scoring, metrics, calibration. Knows no database, tracker or page."""
