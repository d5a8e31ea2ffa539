"""Pictures drawn by a seeded generator: what the shipped backbone learnt to see on."""
