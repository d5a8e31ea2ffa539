"""Sections of a dataset's page: pictures, check, versions, and adding pictures."""
