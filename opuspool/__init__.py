"""Decode Opus in processes of their own, so that no packet can take the service down."""
