"""Names of what a trial's run in MLflow holds besides parameters, metrics and tags."""

RECIPE = "recipe.json"  # all that `tuning.reproduce` needs
CALIBRATION = "calibration.json"  # threshold and absolute scale
FIGURES = "validation.json"  # figures on the validation pictures
SCORES = "scores.json"  # of each validation picture, by its key
ERROR = "error.json"  # error and traceback of a trial that failed
WEIGHTS = "weights"  # folder with the head, of the best trials of a study
MADE_AGAIN = "made again"  # how the tag `weights` begins of a run whose head a reproduction has put back
