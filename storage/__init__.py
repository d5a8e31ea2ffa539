"""Everything that outlives a process: database, blobs, dataset versions, feature cache, MLflow client."""
