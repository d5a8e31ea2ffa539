"""Decides and drives: search space, objective, studies, workers, champion. Only here engine and storage meet."""
