"""How the shipped backbone was made: pictures drawn by seed, and a teacher's features distilled on them."""
