"""Roles and policies as IAM evaluates them."""
