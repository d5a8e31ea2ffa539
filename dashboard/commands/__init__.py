"""The commands of `simplenet`, a file per subject. Heavy libraries are imported inside them: `--help` stays fast."""
