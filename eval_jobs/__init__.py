"""A meta-trained detector -> a tracker -> benchmark numbers. Ray tasks and MLflow."""
