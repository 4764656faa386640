"""Judges the templates, as stacks would hold them, by what AWS was seen to reject (cdk-preflight)."""
