"""Everything that outlives a process: database, image blobs, dataset versions, feature cache, MLflow client."""
