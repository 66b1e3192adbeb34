"""Episodes -> a meta-trained detector. torch and Ray Train."""
