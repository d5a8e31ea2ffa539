"""The model server: MLflow's scoring application for the champion of every dataset, and plain pictures beside it."""
