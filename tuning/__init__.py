"""Decides and drives: search space, objective, studies, workers, champion. The only place where engine and storage meet."""
