"""The pages, a file each; links name them by these paths, relative to `dashboard/app.py`."""

HOME = "views/home.py"
DATASETS = "views/datasets.py"
STUDIES = "views/studies.py"
COMPARE = "views/compare.py"
HEATMAPS = "views/heatmaps.py"
MODELS = "views/models.py"
SYSTEM = "views/system.py"
