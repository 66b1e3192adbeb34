"""Studies: the paper's ablations and searches beyond them. Ray Tune."""
