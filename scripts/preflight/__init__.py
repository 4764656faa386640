"""Judges the templates, as stacks would hold them, by what AWS was seen to refuse (cdk-preflight)."""
