"""Backbones of our own, beside timm's: their networks, and the files of their weights."""
